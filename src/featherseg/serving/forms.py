"""Files out of a multipart form, held in memory: nothing of a request is ever written to disk."""

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from featherseg.serving.refusal import Refused

OTHER_FIELDS = 8
"""Fields beside the pictures that are passed over; more are refused."""


async def read_files(request: Request, field: str, most: int) -> list[bytes]:
    """The files of `field`, in order, at least one and at most `most`. Raises Refused: 400, 413."""
    form = await _parse(request, most)
    try:
        values = form.getlist(field)
        files = [value for value in values if isinstance(value, UploadFile)]
        if not files or len(files) < len(values):
            raise _bad(f"expected a file in the field {field!r}, as `curl -F {field}=@photo.jpg` sends it.")
        return [await file.read() for file in files]
    finally:
        await form.close()


async def _parse(request: Request, most: int) -> FormData:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise _bad("expected Content-Type: multipart/form-data.")
    parser = MultiPartParser(request.headers, request.stream(), max_files=most, max_fields=OTHER_FIELDS)
    parser.spool_max_size = 2**62  # bodies are bounded already
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise _bad(error.message) from None


def _bad(what: str) -> Refused:
    return Refused(400, "form", f"The form cannot be read: {what}")
