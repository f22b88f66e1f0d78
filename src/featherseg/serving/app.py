"""The ASGI application: routes, page, and the answer to every refusal."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from featherseg._version import __version__
from featherseg.core.errors import did_you_mean
from featherseg.serving import page_files
from featherseg.serving.guard import OPEN_PATHS, Guard
from featherseg.serving.models import Served
from featherseg.serving.refusal import Refused
from featherseg.serving.routes import router
from featherseg.serving.schema import SegmentQuery
from featherseg.serving.service import Service
from featherseg.serving.settings import Settings

CODES = {
    404: ("path", "There is nothing at this URL."),
    405: ("method", "This URL does not support that method."),
}


def create_app(models: Sequence[Served], settings: Settings | None = None) -> FastAPI:
    """Create the service as an ASGI application; its threads run during its lifespan.

    `app.state.service` is the Service.
    """
    service = Service(models, settings or Settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.open()
        yield
        await service.close()

    app = FastAPI(
        title="featherseg",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        servers=[{"url": service.settings.root_path}] if service.settings.root_path else None,
    )
    app.state.service = service
    app.include_router(router(service))
    app.include_router(page_files.router())
    app.add_middleware(Guard, service=service)
    if service.settings.token is not None:
        _require_token(app.openapi())
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(RequestValidationError, _bad_query)
    app.add_exception_handler(HTTPException, _of_starlette)
    return app


def _require_token(description: dict[str, Any]) -> None:
    """Add the token to the description of the API, in place."""
    description["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    description["security"] = [{"token": []}]
    for path in set(OPEN_PATHS) & set(description["paths"]):
        description["paths"][path]["get"]["security"] = []


async def _refused(request: Request, error: Any) -> Response:
    return error.response()


async def _bad_query(request: Request, error: Any) -> Response:
    return Refused(422, "query", " ".join(map(_slip, error.errors()))).response()


def _slip(slip: dict[str, Any]) -> str:
    name = str(slip["loc"][-1])[:100]
    if slip["type"] == "extra_forbidden":
        return f"Unknown parameter {name!r}.{did_you_mean(name, SegmentQuery.model_fields)}"
    return f"{name} = {str(slip['input'])[:100]!r}: {slip['msg'][:1].lower() + slip['msg'][1:]}."


async def _of_starlette(request: Request, error: Any) -> Response:
    code, message = CODES.get(error.status_code, ("request", str(error.detail)))
    return Refused(error.status_code, code, message, error.headers).response()
