"""`featherseg predict RUN FOLDER -o OUT --cluster local|ADDRESS`: what is asked is checked, and progress shown."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from featherseg.core.errors import ConfigError, DataNotFound, near_path, require
from featherseg.core.storage import address, is_remote
from featherseg.core.wording import counted

if TYPE_CHECKING:
    from featherseg.inference.settings import InferenceSettings

LINE_SECONDS = 60
"""Between two lines of progress where there is no terminal."""


def predict_over_cluster(
    run: str,
    paths: list[Path],
    output: Path,
    *,
    cluster: str,
    workers: int | None,
    device: str,
    inference: InferenceSettings,
    resize: str | None,
    memory_gb: float,
    max_side: int | None,
    trust: bool,
) -> int:
    """Write NAME_mask.png of every image in a folder, and predictions.jsonl; -> how many have no mask.

    Raises ConfigError, DataNotFound, MissingExtra; nothing is started before all is checked.
    """
    from featherseg.cli.options import with_own_resize
    from featherseg.cli.terminal import Console
    from featherseg.core.cluster import ray_cluster
    from featherseg.core.machine import usable_cores
    from featherseg.inference.cluster import Job, over_ray, predict_folder
    from featherseg.inference.predictor import Predictor
    from featherseg.inference.runtimes import open_runtime
    from featherseg.inference.runtimes.digest import model_digest

    workers = workers or usable_cores()
    folder, out = find_folder(paths, output)
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device {device}: every worker finds its own; with --cluster expected auto, cpu or cuda.")
    require("ray.data", "cluster", "prediction over a cluster")
    runtime = open_runtime(run, "cpu", trust=trust)
    if runtime.panoptic:
        raise ConfigError(f"{runtime.name} sees objects, which are not written over a cluster. Leave out --cluster.")
    place = str(Path(run).resolve()) if os.path.exists(run) else run
    settings = with_own_resize(inference, resize, runtime)
    Predictor(runtime, memory_gb=memory_gb, max_side=max_side)  # refuses what every worker would refuse
    digest = model_digest(runtime)
    console = Console(highlight=False, soft_wrap=True)
    if runtime.how_far:
        console.print(f"NOTE: {runtime.how_far}.", markup=False)
    del runtime
    with ray_cluster(cluster, workers, "prediction over a cluster") as there:
        if device == "cuda" and there.gpus < workers:
            raise ConfigError(f"--device cuda: {workers} workers, but the cluster has {there.gpus} GPUs. Give fewer.")
        device = "cuda" if device != "cpu" and there.gpus >= workers else "cpu"
        job = Job(place, folder, out, device, settings, memory_gb, max_side, digest)
        console.print(f"{workers} workers, each on one {'GPU' if device == 'cuda' else 'processor'}")
        told = _Progress(console)
        try:
            done, failed = predict_folder(job, over_ray(workers), workers, told)
        except KeyboardInterrupt:
            console.print(f"stopped with {told.text()}: what is done stays; the same command does the rest")
            raise
    console.print(f"{done} masks: NAME_mask.png and predictions.jsonl in {out}", markup=False)
    if failed:
        console.print(f"[red]{counted(failed, 'image')} without a mask: predictions.jsonl says why[/]")
    return failed


def find_folder(paths: list[Path], output: Path) -> tuple[str, str]:
    """The folder of images and that of the masks, as absolute paths or addresses. Raises ConfigError, DataNotFound."""
    if len(paths) != 1:
        raise ConfigError(f"--cluster takes one folder of images, not {len(paths)} paths.")
    (path,) = paths
    if not is_remote(path):
        if not os.path.exists(path):
            raise DataNotFound(f"{path} does not exist.{near_path(path)} Expected a folder of images.")
        if not path.is_dir():
            raise ConfigError(f"{path} is a file: --cluster takes a folder of images. Leave it out for one image.")
    folder = address(path) if is_remote(path) else str(path.resolve())
    out = address(output) if is_remote(output) else str(output.resolve())
    if out == folder or out.startswith(folder.rstrip("/") + ("/" if is_remote(folder) else os.sep)):
        raise ConfigError(f"-o {output} lies in the folder of the images. Choose another folder.")
    return folder, out


def refuse_options(given: dict[str, bool]) -> None:
    """Raises ConfigError of the options that say nothing over a cluster: name -> whether it was given."""
    if unfit := [name for name, there in given.items() if there]:
        raise ConfigError(
            f"{', '.join(unfit)} cannot go with --cluster, which writes masks one by one, each worker on one "
            "processor, and goes on where an earlier command stopped."
        )


class _Progress:
    """Done, per second, failed, time left: a line that changes on a terminal, elsewhere one a minute."""

    def __init__(self, console: object) -> None:
        self.console = console
        self.began = self.said = time.monotonic()
        self.first: int | None = None
        self.counts = (0, 0, 0)

    def __call__(self, done: int, failed: int, total: int) -> None:
        self.first = done + failed if self.first is None else self.first
        self.counts, now = (done, failed, total), time.monotonic()
        terminal = self.console.is_terminal  # type: ignore[attr-defined]
        if now - self.said >= (1 if terminal else LINE_SECONDS) and done + failed < total:
            self.said = now
            self.console.print(self.text(), end="\r" if terminal else "\n")  # type: ignore[attr-defined]

    def text(self) -> str:
        """`1200 of 5000 images done, 3 without a mask, 12.5 a second, 5:04 left`."""
        done, failed, total = self.counts
        rate = (done + failed - (self.first or 0)) / max(time.monotonic() - self.began, 1e-9)
        left = f", {_clock((total - done - failed) / rate)} left" if rate else ""
        return f"{done} of {total} images done, {failed} without a mask, {rate:.1f} a second{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
