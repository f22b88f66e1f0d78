"""The one form in which a request is refused: a status, a code for programs, a message for people."""

from collections.abc import Mapping

from starlette.responses import JSONResponse

from featherseg.core.errors import FeathersegError

RETRY_LATER = {"Retry-After": "5"}
"""Of a service that starts or stops, in seconds: another one, or the next, answers soon."""


class Refused(FeathersegError):
    """A request that is not answered. `status` is HTTP's, `code` a word that stays the same."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})

    @property
    def record(self) -> dict[str, str]:
        """As it stands in an answer."""
        return {"code": self.code, "message": str(self)}

    def response(self) -> JSONResponse:
        """{"error": {"code", "message"}} with the status."""
        return JSONResponse({"error": self.record}, self.status, self.headers)


def stopping() -> Refused:
    """Of what comes, or is not done, while the service stops."""
    message = "The service is stopping: running requests are finished, new ones are refused."
    return Refused(503, "stopping", message, RETRY_LATER)


def failed() -> Refused:
    """Of whatever we did not foresee: the client hears nothing of it."""
    return Refused(500, "internal", "Something went wrong on the server. See its log; the request may be repeated.")
