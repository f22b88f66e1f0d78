"""The result of checking a dataset: its faults, and what each split contains."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherseg.core.notebook import html_table
from featherseg.core.types import ClassInfo
from featherseg.core.wording import brief, counted
from featherseg.data.checks.decisions import Changes
from featherseg.data.datasets.statistics import ClassStatistics, median_frequency
from featherseg.data.discovery.proposal import Proposal
from featherseg.data.images.image_range import ChannelRange
from featherseg.data.images.pairs import SHOWN_NAMES, Listing

if TYPE_CHECKING:
    from featherseg.data.checks.fixes import MendReport

FAULTS = {
    "empty": "splits without images",
    "classes": "classes that train or val lacks",
    "unpaired": "images without a mask, or masks without an image",
    "twins": "files that share a stem",
    "unreadable": "files that cannot be read",
    "size": "masks whose size differs from their image",
    "depth": "images with other bits a channel than most of their split",
    "colors": "colour masks where class numbers are expected",
    "values": "masks with values outside the map",
    "duplicate": "images that occur in two splits",
}
"""{kind of fault: heading of a group of them}."""


@dataclass(frozen=True)
class Fault:
    """One fault: its kind (a key of FAULTS), the sample, and a message that starts with a file."""

    kind: str
    split: str
    key: str
    text: str


@dataclass
class SplitReport:
    """What one split contains, without samples that cannot be read or whose sizes differ.

    Attributes:
        ignored: Number of ignored pixels.
        sizes: {"HxW": number of images}.
        only_ignored, repeated: Keys of masks without a labelled pixel, and of duplicates.
        turned: Keys of images that EXIF turns.
        veiled: Keys of masks with a colour both opaque and transparent.
        unused: {what is not used of images, a key of TOLD: their keys}.
        bits, channels: Of all readable images.
    """

    statistics: ClassStatistics
    images: int = 0
    ignored: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    only_ignored: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    veiled: list[str] = field(default_factory=list)
    unused: dict[str, list[str]] = field(default_factory=dict)
    bits: int = 8
    channels: list[ChannelRange] = field(default_factory=list)

    def share(self, index: int) -> float:
        """Return the share of class `index` among labelled pixels."""
        return self.statistics.pixels[index] / max(1, sum(self.statistics.pixels))

    @property
    def ignored_share(self) -> float:
        """The share of ignored pixels among all."""
        return self.ignored / max(1, self.ignored + sum(self.statistics.pixels))


@dataclass
class CheckReport:
    """The result of `check_data`. `notes` are worth knowing, but no faults.

    Attributes:
        mended: What a mended copy lacks or changes.
        written: The dataset.toml that was written for a folder without one.
        changes: What decisions on the page of an audit change in a mended copy.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    splits: dict[str, SplitReport] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    listing: Listing | None = None
    proposal: Proposal | None = None
    mended: "MendReport | None" = None
    written: Path | None = None
    changes: Changes | None = None

    @property
    def clean(self) -> bool:
        """Whether there is no fault, and more than one class."""
        return not self.faults and len(self.classes) > 1

    @property
    def summary(self) -> str:
        """The images of each split, and the verdict: `train 25 images: clean`."""
        images = ", ".join(f"{name} {split.images}" for name, split in self.splits.items())
        verdict = counted(len(self.faults), "fault") if self.faults else "one class alone"
        return f"{images} images: {'clean' if self.clean else verdict}"

    @property
    def weights(self) -> list[float]:
        """Median-frequency class weights of the split "train", or of the first one."""
        split = self.splits.get("train") or next(iter(self.splits.values()))
        return median_frequency(split.statistics)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain values, without the listing of files."""
        others = self.proposal.others if self.proposal else []
        return {
            "name": self.name,
            "clean": self.clean,
            "classes": [info.name for info in self.classes],
            "splits": {name: asdict(split) for name, split in self.splits.items()},
            "median_frequency_weights": self.weights,
            "faults": [asdict(fault) for fault in self.faults],
            "how_split": (self.listing.how_split if self.listing else "") or None,
            "notes": self.notes,
            "proposed_dataset_toml": self.proposal.text if self.proposal else None,
            "look_at": self.proposal.notes if self.proposal else [],
            "other_readings": [{"what": what, "options": options} for what, options in others],
            "written": str(self.written) if self.written else None,
        }

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {self.summary}")

    def _repr_html_(self) -> str:
        splits = self.splits.values()
        rows = [
            (info.name, *(f"{100 * split.share(i):.2f}" for split in splits))
            for i, info in enumerate(self.classes)
        ]
        heads = ("class, labelled pixels, %", *self.splits)
        faults = [fault.text for fault in self.faults[:SHOWN_NAMES]]
        look_at = self.proposal.notes if self.proposal else []
        notes = [*faults, *self.notes, *look_at]
        return html_table(f"{self.name}: {self.summary}", heads, rows, notes)
