"""The files of the web page, read once at the start.

A request can only name one of these files, never a path.
"""

from importlib.resources import files

from fastapi import APIRouter, Response

from featherseg.serving.refusal import Refused

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
INDEX = "index.html"


def router() -> APIRouter:
    """Return the routes `/` and `/page/NAME`."""
    routes = APIRouter(include_in_schema=False)
    contents = _read()

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def index() -> Response:
        return answer(INDEX)

    @routes.get("/page/{name}")
    async def file(name: str) -> Response:
        return answer(name)

    def answer(name: str) -> Response:
        if name not in contents:
            raise Refused(404, "path", "There is nothing at this URL.")
        content, media_type = contents[name]
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return routes


def _read() -> dict[str, tuple[bytes, str]]:
    """Return name -> (content, content type) of every file of the page."""
    folder = files("featherseg.serving") / "page"
    if not folder.is_dir():
        return {}
    page_files = {file.name: file for file in folder.iterdir() if file.is_file()}
    return {
        name: (file.read_bytes(), media_type)
        for name, file in page_files.items()
        for ending, media_type in TYPES.items()
        if name.endswith(ending)
    }
