"""The report of an export: a file's parity with its model, score, size and latency."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featherseg.core.files import load_json, write_json
from featherseg.core.notebook import html_table, percent
from featherseg.core.old_names import with_new_names
from featherseg.core.types import Size
from featherseg.core.wording import brief
from featherseg.exporters.job import Quantised
from featherseg.exporters.parity import ParityReport
from featherseg.runs.run import Run

PARITY = "parity.json"
HEADS = ("format", "error", "same class", "mIoU", "model's", "MB", "ms")


@dataclass(frozen=True)
class ExportReport:
    """A written file and its parity with the model.

    parity is None for a format that no runtime here can run; it contains mIoU of model and file, if
    scored, and latency_ms, the median of a few passes at latency_size (height, width), as an order
    of magnitude. calibration names the images that int8 was calibrated with.
    """

    path: Path
    format: str
    bytes: int
    parity: ParityReport | None
    latency_size: Size | None = None
    quantised: Quantised | None = None
    calibration: tuple[str, ...] = ()

    @property
    def same_class(self) -> float | None:
        """The fraction of positions with the same highest class, over all rows."""
        rows = self.parity.rows if self.parity else ()
        places = [row.batch * row.height * row.width for row in rows]
        same = sum(row.same_class * count for row, count in zip(rows, places, strict=True))
        return same / sum(places) if rows else None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, and "same_class"; "parity" as `ParityReport.as_dict`."""
        parity = self.parity.as_dict() if self.parity else None
        return {
            **asdict(self),
            "path": str(self.path),
            "parity": parity,
            "same_class": self.same_class,
        }

    def texts(self) -> tuple[str, ...]:
        """Return the report as a row under HEADS; cells without a measurement are empty."""
        parity, size = self.parity, f"{self.bytes / 1e6:.1f}"
        if parity is None:
            return self.format, "not run", "", "", "", size, ""
        same = "" if self.same_class is None else f"{self.same_class:.2%}"
        time = "" if parity.latency_ms is None else f"{parity.latency_ms:.1f}"
        error = f"{parity.worst.relative_error:.1e}"
        return (
            self.format,
            error,
            same,
            percent(parity.file_miou),
            percent(parity.model_miou),
            size,
            time,
        )

    def __repr__(self) -> str:
        same = "" if self.same_class is None else f"{self.same_class:.2%} same class"
        return brief(self, self.path, self.format, f"{self.bytes / 1e6:.1f} MB", same)

    def _repr_html_(self) -> str:
        return html_table("The file beside its model", HEADS, [self.texts()], [str(self.path)])


def keep_reports(run: Run, reports: Sequence[ExportReport]) -> None:
    """Write reports and the hash of their weights to the run's parity.json; other formats stay."""
    weights = {"weights_sha256": run.weights_sha256}
    rows = {row.format: row.as_dict() | weights for row in reports}
    write_json(run.path / PARITY, read_reports(run.path / PARITY) | rows)


def read_reports(path: Path) -> dict[str, Any]:
    """Return the records of a parity.json by format; none if it is missing or damaged."""
    try:
        kept = with_new_names(load_json(path))
    except (OSError, ValueError):
        return {}
    if not isinstance(kept, dict):
        return {}
    return (
        {kept["format"]: kept} if isinstance(kept.get("format"), str) else kept
    )  # older exports wrote one record
