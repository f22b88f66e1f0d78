"""The paths of the API."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from featherseg.core.errors import ConfigError
from featherseg.inference.predictor import Prediction
from featherseg.inference.soft_output import SoftKind, check_soft
from featherseg.serving.admission import Body
from featherseg.serving.encode import (
    batch_answer,
    batch_encoders,
    encode_soft,
    encoder,
    file_encoder,
    mask_png,
)
from featherseg.serving.models import Served
from featherseg.serving.refusal import RETRY_LATER, Refused, failed, stopping
from featherseg.serving.schema import (
    BatchAnswer,
    BatchQuery,
    ClassAnswer,
    CocoAnswer,
    CocoBatchAnswer,
    ErrorAnswer,
    GeoJsonAnswer,
    MaskAnswer,
    ModelAnswer,
    ModelsAnswer,
    SegmentQuery,
    StatusAnswer,
    multipart,
)
from featherseg.serving.service import Service
from featherseg.serving.settings import Limits
from featherseg.serving.uploads import Upload, read_files

T = TypeVar("T")

log = logging.getLogger("featherseg")

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": description}
    for status, description in {
        400: "The form or the image cannot be read, or the model does not accept such an image.",
        401: "The token is missing or wrong.",
        403: "The host or the origin is not allowed.",
        404: "There is no such model.",
        408: "The body took too long to arrive.",
        413: "Too many bytes, pixels or images.",
        415: "Not one of the supported formats.",
        422: "The query is invalid.",
        429: "The queue is full; Retry-After says when to try again.",
        500: "A server error; see its log.",
        503: "The service is stopping; Retry-After says when to try again.",
        504: "The response took too long.",
    }.items()
}
for status in (429, 503):
    REFUSALS[status]["headers"] = {
        "Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}}
    }
MODEL = {
    "X-Featherseg-Model": {
        "description": "The model's name, percent-encoded.",
        "schema": {"type": "string"},
    }
}
MASK: dict[str, Any] = {
    "model": MaskAnswer | CocoAnswer | GeoJsonAnswer,
    "content": {"image/png": {}, "application/geo+json": {}, "application/octet-stream": {}},
    "headers": MODEL,
    "description": "PNG; JSON for rle, polygons, coco and geojson; an .npz of float16 for "
    "probabilities.",
}
BATCH: dict[str, Any] = {
    "model": BatchAnswer | CocoBatchAnswer,
    "headers": MODEL,
    "description": "For coco one file of all images; else one result for each image.",
}
JSON, GEOJSON = "application/json", "application/geo+json"


def router(service: Service) -> APIRouter:
    """Return the routes of a service."""
    routes = APIRouter()
    _add_facts(routes, service)
    _add_segmentation(routes, service)
    return routes


def _add_facts(routes: APIRouter, service: Service) -> None:
    """Add the routes for health, metrics, models and limits."""

    @routes.head("/healthz", include_in_schema=False)
    @routes.get("/healthz", summary="Whether the process responds")
    async def health() -> StatusAnswer:
        return StatusAnswer(status="ok")

    @routes.head("/readyz", include_in_schema=False)
    @routes.get("/readyz", summary="Whether images are accepted", responses={503: REFUSALS[503]})
    async def ready() -> StatusAnswer:
        if not service.ready:
            raise Refused(503, "not_ready", "The service is starting or stopping.", RETRY_LATER)
        return StatusAnswer(status="ready")

    @routes.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @routes.get("/v1/models", summary="The models, the default first")
    async def models() -> ModelsAnswer:
        return ModelsAnswer(models=[model_answer(model) for model in service.models.values()])

    @routes.get("/v1/limits", summary="What a request may contain")
    async def limits() -> Limits:
        return service.settings.limits


def _add_segmentation(routes: APIRouter, service: Service) -> None:
    """Add the routes that segment images."""

    @routes.post(
        "/v1/segment",
        summary="Segment an image",
        response_class=Response,
        responses={**REFUSALS, 200: MASK},
        openapi_extra=multipart("image"),
    )
    async def segment(request: Request, query: Annotated[SegmentQuery, Query()]) -> Response:
        model, seconds = service.model(query.model), service.settings.limits.seconds
        headers = {"X-Featherseg-Model": quote(model.name)}
        if query.format == "probabilities" or query.format == "confidence":
            return await segment_soft(request, model, query.format, headers)
        async with received(service, request, "image", most=1) as (upload,):
            encode: Callable[[Prediction], bytes] = mask_png
            if query.format == "coco" or query.format == "geojson":
                encode = file_encoder(query.format, upload)
            elif query.format != "png":
                encode = encoder(model.name, query.format)
            regions = query.format != "png"
            segmenting = service.segment(model, upload.content, encode, regions=regions)
            answer = await while_wanted(request, service, within(seconds, segmenting))
        media_type = {"png": "image/png", "geojson": GEOJSON}.get(query.format, JSON)
        return Response(answer, media_type=media_type, headers=headers)

    async def segment_soft(
        request: Request, model: Served, kind: SoftKind, headers: dict[str, str]
    ) -> Response:
        seconds = service.settings.limits.seconds
        try:
            check_soft(model.predictor.runtime)
        except ConfigError as error:
            raise Refused(422, "query", str(error)) from None
        async with (
            received(service, request, "image", most=1) as (upload,),
            AsyncExitStack() as until_sent,
        ):
            if kind == "probabilities":
                turn = service.probabilities_turn
                await while_wanted(request, service, within(seconds, turn.acquire()))
                until_sent.callback(turn.release)
            segmenting = service.segment(model, upload.content, encode_soft, soft=kind)
            answer = await while_wanted(request, service, within(seconds, segmenting))
            media_type = "application/octet-stream" if kind == "probabilities" else "image/png"
            return HeldResponse(
                answer, media_type=media_type, headers=headers, until_sent=until_sent.pop_all()
            )

    @routes.post(
        "/v1/segment/batch",
        summary="Segment several images; if one is refused, the others are unaffected",
        response_class=Response,
        responses={**REFUSALS, 200: BATCH},
        openapi_extra=multipart("images", several=True),
    )
    async def segment_batch(request: Request, query: Annotated[BatchQuery, Query()]) -> Response:
        model, seconds = service.model(query.model), service.settings.limits.seconds

        async def one(upload: Upload, encode: Callable[[Prediction], T]) -> T | Refused:
            try:
                regions = query.format != "png"
                segmenting = service.segment(model, upload.content, encode, regions=regions)
                return await within(seconds, segmenting)
            except Refused as refused:
                return refused
            except Exception:
                log.exception("an image of a batch failed")
                return failed()

        most = service.settings.limits.batch
        async with received(service, request, "images", most) as uploads:
            encoders = batch_encoders(model.name, query.format, uploads)
            segmenting = asyncio.gather(*map(one, uploads, encoders))
            answers = await while_wanted(request, service, segmenting)
        content = batch_answer(query.format, uploads, answers)
        return Response(content, media_type=JSON, headers={"X-Featherseg-Model": quote(model.name)})


class HeldResponse(Response):
    """A response that closes `until_sent` when it is sent, or when its client has left."""

    def __init__(self, *arguments: Any, until_sent: AsyncExitStack, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.until_sent = until_sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.until_sent:
            await super().__call__(scope, receive, send)


@asynccontextmanager
async def received(
    service: Service, request: Request, field: str, most: int
) -> AsyncIterator[list[Upload]]:
    """Yield the files of a form; each holds a slot once all have arrived.

    A slow sender so takes no slot from others. Raises Refused: 400, 408, 413, 429, 503.
    """
    service.slots.check()
    try:
        async with asyncio.timeout(service.settings.limits.seconds) as deadline:
            body = Body(deadline)
            with service.bodies.hold(body):
                uploads = await read_files(
                    request, field, most, lambda size: service.bodies.grow(body, size)
                )
                body.arriving = False
                deadline.reschedule(None)
                with service.slots.take(len(uploads)):
                    yield uploads
    except TimeoutError:
        if service.ended.is_set():
            raise stopping() from None
        raise Refused(
            408, "time", "The image took too long to arrive. Send a smaller one."
        ) from None


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Return the result of `work`. Raises Refused (504) if it takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise Refused(
            504, "time", "The response took too long. Send a smaller image, or try again later."
        ) from None


async def while_wanted(request: Request, service: Service, work: Awaitable[T]) -> T:
    """Return the result of `work`; cancel it when the client leaves or the service ends.

    Raises ClientDisconnect or Refused (503) then.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    ended = asyncio.ensure_future(service.ended.wait())
    try:
        await asyncio.wait({working, gone, ended}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect if gone.done() else stopping()
    finally:
        for task in (working, gone, ended):
            task.cancel()
        await asyncio.gather(working, gone, ended, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def model_answer(model: Served) -> ModelAnswer:
    """Return a model's entry of /v1/models."""
    return ModelAnswer(
        name=model.name,
        classes=[ClassAnswer(name=c.name, color=c.color, thing=c.thing) for c in model.classes],
        licence=model.licence,
        panoptic=model.panoptic,
        channels=model.channels,
    )
