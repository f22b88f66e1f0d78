"""The form of every refusal: a status, a code for programs, a message for people."""

from collections.abc import Mapping

from starlette.responses import JSONResponse

from featherseg.core.errors import FeathersegError

RETRY_LATER = {"Retry-After": "5"}
"""Header for a starting or stopping service: seconds until it, or another one, answers."""


class Refused(FeathersegError):
    """A refused request: `status` is HTTP's, `code` a stable word for programs."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})

    @property
    def record(self) -> dict[str, str]:
        """Return the code and the message, as in an answer."""
        return {"code": self.code, "message": str(self)}

    def response(self) -> JSONResponse:
        """Return {"error": {"code", "message"}} with the status."""
        return JSONResponse({"error": self.record}, self.status, self.headers)


def stopping() -> Refused:
    """Return the refusal of requests that arrive, or are not finished, while the service stops."""
    message = "The service is stopping: running requests are finished, new ones are refused."
    return Refused(503, "stopping", message, RETRY_LATER)


def failed() -> Refused:
    """Return the answer to an unforeseen error; it does not reveal the error."""
    return Refused(
        500,
        "internal",
        "Something went wrong on the server. See its log; the request may be repeated.",
    )
