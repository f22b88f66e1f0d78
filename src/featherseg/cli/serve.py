"""`featherseg serve RUN...`: serve trained models over HTTP, with a web page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.options import Device, MemoryGb, RunsAndFiles, Threads, Trust
from featherseg.core.errors import ConfigError, require
from featherseg.core.wording import one_line

if TYPE_CHECKING:
    from featherseg.serving.models import Served
    from featherseg.serving.settings import Settings

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
TOKEN_VARIABLE = "FEATHERSEG_TOKEN"
LARGEST_LIMIT = 1_000_000
"""Largest value of a limit, in megabytes, megapixels or seconds."""


def serve(
    runs: RunsAndFiles,
    host: Annotated[
        str,
        typer.Option(help="The address to listen on; 0.0.0.0 for all addresses of this machine."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 chooses a free one.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar=TOKEN_VARIABLE,
            show_envvar=False,
            help=f"The token that requests need; safer as ${TOKEN_VARIABLE}.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:PORT]", help="Another host name of this machine."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", help="A page whose scripts may call the API: https://app.example."
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option(metavar="PATH", help="Where a proxy shows the service, such as /seg.")
    ] = "",
    device: Device = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Batch size, for images of the same size.")] = 4,
    memory_gb: MemoryGb = 4.0,
    threads: Threads = None,
    trust: Trust = False,
    max_mb: Annotated[
        float, typer.Option(min=0.01, help="Maximum request size, in 10^6 bytes.")
    ] = 20.0,
    max_megapixels: Annotated[
        float, typer.Option(min=0.01, help="Maximum image size, in 10^6 pixels.")
    ] = 32.0,
    queue: Annotated[
        int, typer.Option(min=1, help="Maximum number of images in flight; more get 429.")
    ] = 64,
    seconds: Annotated[
        float,
        typer.Option(min=0.1, help="Time for a request to arrive, and again for its response."),
    ] = 60.0,
) -> None:
    """Serve models over HTTP until Ctrl-C.

    The page is at /, the API at /v1/segment, its description at /openapi.json. On an address that
    others can reach, requests need a token: --token, or one is generated and printed. On SIGTERM or
    SIGHUP, running requests get up to 15 s to finish, and the exit code is 0. Behind a proxy:
    docs/start/proxy.md.
    """
    for package in PACKAGES:
        require(package, "serve", "`featherseg serve`")
    import featherseg

    for option, value in {
        "--max-mb": max_mb,
        "--max-megapixels": max_megapixels,
        "--seconds": seconds,
    }.items():
        if not value <= LARGEST_LIMIT:  # false for nan, too
            raise ConfigError(f"{option} {value:g}: expected a number, at most {LARGEST_LIMIT:,}.")
    allowed = allow_host or ()
    featherseg.serve(
        runs,
        host=host,
        port=port,
        token=token,
        allow_hosts=allowed,
        allow_origins=allow_origin or (),
        root_path=root_path,
        device=device,
        batch=batch,
        memory_gb=memory_gb,
        threads=threads,
        trust=trust,
        limits={
            "bytes": round(max_mb * 1e6),
            "pixels": round(max_megapixels * 1e6),
            "queue": queue,
            "seconds": seconds,
        },
        on_start=lambda models, settings, port: print_start(
            models, settings, host, port, allowed, generated=token is None
        ),
    )


def print_start(
    models: Sequence[Served],
    settings: Settings,
    host: str,
    port: int,
    allowed: Sequence[str] = (),
    *,
    generated: bool,
) -> None:
    """Print the models, the limits and the address, and a warning if `allowed` needs no token.

    The address contains a generated token, but not one that was given: output is often logged.
    """
    from urllib.parse import quote

    from rich.markup import escape

    from featherseg.cli.terminal import Console
    from featherseg.serving.settings import EVERYWHERE

    console = Console(highlight=False, soft_wrap=True)
    for model in models:
        objects = ", objects" if model.panoptic else ""
        is_stated = model.licence not in ("", "not stated")  # one's own weights need none
        terms = f"; licence: {model.licence}" if is_stated else ""
        line = f"{model.name}: {len(model.classes)} classes{objects}{terms}"
        console.print(escape(one_line(line)))
        if how_far := model.predictor.runtime.how_far:
            console.print(f"NOTE: {how_far}.", markup=False)
    limits = settings.limits
    console.print(
        f"a request: {limits.bytes / 1e6:g} MB, {limits.pixels / 1e6:g} megapixels, "
        f"{limits.seconds:g} s; {limits.queue} images in flight"
    )
    if allowed and settings.token is None:
        names = escape(one_line(", ".join(allowed)))
        console.print(
            f"[yellow]no token:[/] anyone who reaches {names} is answered; --token or "
            f"${TOKEN_VARIABLE} sets one"
        )
    shown_host = f"[{host}]" if ":" in host else host
    fragment = f"#token={quote(settings.token, safe='')}" if settings.token and generated else ""
    if settings.token and not generated:
        console.print("every request needs the token that was given; the page asks for it")
    if host in EVERYWHERE:
        console.print(f"listening on all addresses of this machine, port {port}; locally:")
        shown_host = "127.0.0.1"
    console.print(escape(f"http://{shown_host}:{port}/{fragment}"))
