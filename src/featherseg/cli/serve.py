"""`featherseg serve RUN...`: an HTTP service and a web page for trained models."""

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
MOST = 1_000_000
"""Megabytes, megapixels or seconds that a limit may be."""


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
            help=f"Of every request; safer as ${TOKEN_VARIABLE}.",
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
    """Serve models over HTTP until Ctrl-C: the page at /, the API at /v1/segment, its description at /openapi.json.

    On an address that others can reach, requests need a token: --token, or one is generated and printed. On SIGTERM
    or SIGHUP, running requests get up to 15 s to finish, and the exit code is 0. Behind a proxy: docs/start/proxy.md.
    """
    for package in PACKAGES:
        require(package, "serve", "`featherseg serve`")
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.core.machine import usable_cores
    from featherseg.serving import server
    from featherseg.serving.app import create_app
    from featherseg.serving.models import open_models
    from featherseg.serving.settings import (
        Limits,
        Settings,
        allowed_hosts,
        allowed_origins,
        checked_root_path,
        choose_token,
    )

    for option, value in {
        "--max-mb": max_mb,
        "--max-megapixels": max_megapixels,
        "--seconds": seconds,
    }.items():
        if not value <= MOST:  # of nan no comparison holds
            raise ConfigError(f"{option} {value:g}: expected a number, at most {MOST:,}.")
    origins, root_path = allowed_origins(allow_origin or ()), checked_root_path(root_path)
    limits = Limits(
        bytes=round(max_mb * 1e6), pixels=round(max_megapixels * 1e6), queue=queue, seconds=seconds
    )
    with server.bind(host, port) as listener:
        address, port = listener.getsockname()[:2]
        settings = Settings(
            limits=limits,
            hosts=allowed_hosts(host, port, allow_host or ()),
            origins=origins,
            token=choose_token(token, address),
            root_path=root_path,
            threads=threads or usable_cores(),
        )
        keep_freed_memory(one_heap=True)
        models = open_models(runs, device, batch, memory_gb, threads, trust)
        app, allowed = create_app(models, settings), allow_host or ()
        server.run(
            app,
            listener,
            lambda: print_start(models, settings, host, port, allowed, made=token is None),
        )


def print_start(
    models: Sequence[Served],
    settings: Settings,
    host: str,
    port: int,
    allowed: Sequence[str] = (),
    *,
    made: bool,
) -> None:
    """What is served, where, and within which limits; a warning where `allowed` names open it to others.

    A token that was made here stands in the address; one that was given does not, as what is printed is often kept.
    """
    from urllib.parse import quote

    from rich.markup import escape

    from featherseg.cli.terminal import Console
    from featherseg.serving.settings import EVERYWHERE

    console = Console(highlight=False, soft_wrap=True)
    for model in models:
        objects = ", objects" if model.panoptic else ""
        terms = model.licence or "licence not stated"
        console.print(
            escape(one_line(f"{model.name}: {len(model.classes)} classes{objects}; {terms}"))
        )
        if how_far := model.predictor.runtime.how_far:
            console.print(f"NOTE: {how_far}.", markup=False)
    limits = settings.limits
    console.print(
        f"a request: {limits.bytes / 1e6:g} MB, {limits.pixels / 1e6:g} megapixels, {limits.seconds:g} s; "
        f"{limits.queue} images in flight"
    )
    if allowed and settings.token is None:
        names = escape(one_line(", ".join(allowed)))
        console.print(
            f"[yellow]no token[/] whoever reaches {names} is answered; --token or ${TOKEN_VARIABLE} sets one"
        )
    shown = f"[{host}]" if ":" in host else host
    fragment = f"#token={quote(settings.token, safe='')}" if settings.token and made else ""
    if settings.token and not made:
        console.print("every request needs the token that was given; the page asks for it")
    if host in EVERYWHERE:
        console.print(f"listening on all addresses of this machine, port {port}; locally:")
        shown = "127.0.0.1"
    console.print(escape(f"http://{shown}:{port}/{fragment}"))
