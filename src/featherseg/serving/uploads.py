"""Files out of a multipart form, held in memory: nothing of a request is ever written to disk."""

from collections.abc import AsyncGenerator, Callable

from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from featherseg.serving.refusal import Refused

OTHER_FIELDS = 8
"""Fields beside the images that are passed over; more are refused."""


async def read_files(
    request: Request, field: str, most: int, arrived: Callable[[int], None] = lambda size: None
) -> list[bytes]:
    """The files of `field`, in order, at least one and at most `most`. Raises Refused: 400, 413.

    arrived is told the size of every piece of the body, before it is kept; it may raise Refused too.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise _bad("expected Content-Type: multipart/form-data.")

    async def pieces() -> AsyncGenerator[bytes, None]:
        async for piece in request.stream():
            arrived(len(piece))
            yield piece

    parser = MultiPartParser(request.headers, pieces(), max_files=most, max_fields=OTHER_FIELDS)
    parser.spool_max_size = 2**62  # bodies are bounded already
    try:
        values = (await parser.parse()).getlist(field)
        files = [value for value in values if isinstance(value, UploadFile)]
        if not files or len(files) < len(values):
            raise _bad(f"expected a file in the field {field!r}, as `curl -F {field}=@photo.jpg` sends it.")
        return [await file.read() for file in files]
    except MultiPartException as error:
        raise _bad(error.message) from None
    except FormParserError as error:  # Starlette 1.0 passes on those of the parser below it
        raise _bad(f"{error}.") from None
    finally:
        for file in parser._files_to_close_on_error:  # also that of a part that breaks off, which no form holds
            file.close()


def _bad(what: str) -> Refused:
    return Refused(400, "form", f"The form cannot be read: {what}")
