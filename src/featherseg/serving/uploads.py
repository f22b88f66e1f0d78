"""Read the files of a multipart form into memory; nothing is ever written to disk."""

from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from featherseg.serving.refusal import Refused

OTHER_FIELDS, OTHER_BYTES = 8, 10_000
"""Most other fields of a form, which are ignored, and most bytes of one; more are refused."""

NAME_LETTERS = 255
"""Most letters that are kept of a file's name, as most file systems allow."""


class Upload(NamedTuple):
    """One file of a form; `name` is what the client calls it, "" if it does not say."""

    content: bytes
    name: str


async def read_files(
    request: Request, field: str, most: int, arrived: Callable[[int], None] = lambda size: None
) -> list[Upload]:
    """Return the files of `field` in order, at least one and at most `most`.

    `arrived` is called with the size of every piece of the body before it is kept; it may raise
    Refused too. Raises Refused: 400, 413.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise _bad("expected Content-Type: multipart/form-data.")
    if options.get(b"charset", b"utf-8").lower() not in (
        b"utf-8",
        b"utf8",
    ):  # some of Python's codecs take minutes
        raise _bad("expected the charset utf-8, or none.")

    async def pieces() -> AsyncGenerator[bytes, None]:
        async for piece in request.stream():
            arrived(len(piece))
            yield piece

    parser = MultiPartParser(
        request.headers,
        pieces(),
        max_files=most,
        max_fields=OTHER_FIELDS,
        max_part_size=OTHER_BYTES,
    )
    parser.spool_max_size = 2**62  # bodies are bounded already
    try:
        values = (await parser.parse()).getlist(field)
        files = [value for value in values if isinstance(value, UploadFile)]
        if not files or len(files) < len(values):
            raise _bad(
                f"expected a file in the field {field!r}, as `curl -F {field}=@photo.jpg` sends it."
            )
        return [Upload(await file.read(), (file.filename or "")[:NAME_LETTERS]) for file in files]
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise Refused(
                413,
                "images",
                f"The request has more images than the limit of {most}. Send them in several "
                "requests.",
            ) from None
        raise _bad(error.message) from None
    except FormParserError as error:  # Starlette 1.0 does not translate its parser's errors
        raise _bad(f"{error}.") from None
    finally:
        for (
            file
        ) in parser._files_to_close_on_error:  # also of an incomplete part, which is in no form
            file.close()


def _bad(what: str) -> Refused:
    return Refused(400, "form", f"The form cannot be read: {what}")
