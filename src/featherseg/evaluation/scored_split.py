"""Which images are scored, and what their run knows of them: selection, training, looks at test."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from featherseg.core.config import refuse_unused
from featherseg.core.errors import ConfigError, DataError, FeathersegError
from featherseg.core.types import SegmentationData
from featherseg.core.wording import SELECTED, counted
from featherseg.data import LabelledImages, open_dataset, score_split, share_rule
from featherseg.data.cache.fingerprint import TEST, named_pairs, read_fingerprint
from featherseg.data.datasets.sequences import OLD_RULES
from featherseg.runs.run import DATA, Run, parts_of


@dataclass(frozen=True)
class ScoredSplit:
    """Images to score.

    Attributes:
        data: The images with their labels.
        split: Their split, None if it is not known.
        run: The run to score on them, None for an exported file or for predictions.
        selected: Whether the run's weights were chosen by the score on these images.
        trained_on: Whether the run was trained on some of these images.
        notes: Messages for the user about the above.
    """

    data: SegmentationData
    split: str | None
    run: Run | None = None
    selected: bool = False
    trained_on: bool = False
    notes: tuple[str, ...] = ()

    @property
    def looks(self) -> int | None:
        """How often the run has been scored on this test split; None for another split."""
        if self.run is None or self.split is None or TEST not in parts_of(self.split):
            return None
        return times_scored(self.run, TEST, self.data.name)


def split_to_score(
    run: Run | None,
    data: SegmentationData | str | Path | None = None,
    split: str | None = None,
    data_root: Path | None = None,
    *,
    full: bool = False,
) -> ScoredSplit:
    """Open the images to score; the arguments are those of `featherseg.evaluate`.

    Raises:
        ConfigError: no data are named, or an option has no effect.
        DataNotFound: the images are missing.
        DataError: a split called test has images that the run was trained on.
    """
    if run is None:
        return _split_without_run(data, split, data_root)
    if isinstance(data, str | Path):
        if LabelledImages(run.recipe.data.name, "").is_of(str(data)):
            return _training_data(run, split, data_root, full=full)
        refuse_unused({"full": full}, ALL_IMAGES)
        return _other_dataset(run, str(data), split, data_root)
    if data is None:
        return _training_data(run, split, data_root, full=full)

    # a dataset object: only its name is known
    refuse_unused({"full": full}, ALL_IMAGES)
    refuse_unused({"data_root": data_root is not None}, OBJECT)
    split = split or "val"
    selected = data.name == run.recipe.data.name and run.selected_on(split)
    trained_on, notes = _seen_in_training(run, data, split)
    return ScoredSplit(data, split, run, selected, trained_on, notes)


ALL_IMAGES = "all images of other data than the run's own are scored"
OBJECT = "a dataset object knows where its images are"


def _split_without_run(
    data: SegmentationData | str | Path | None, split: str | None, root: Path | None
) -> ScoredSplit:
    if data is None:
        raise ConfigError(
            "expected a dataset, because only a run knows its own: name one with --data NAME or "
            "--data path/to/dataset.toml."
        )
    if not isinstance(data, str | Path):
        refuse_unused({"data_root": root is not None}, OBJECT)
        return ScoredSplit(data, split)
    split = split or score_split(str(data), root)
    uncounted = ": only a run counts its looks at test" if split == TEST else ""
    opened = open_dataset(str(data), split, root)
    return ScoredSplit(opened, split, notes=(f"scored on {split}{uncounted}",))


def _other_dataset(run: Run, data: str, split: str | None, root: Path | None) -> ScoredSplit:
    """Open a dataset by its name or path that is not the run's own."""
    own, split = run.recipe.data, split or score_split(data, root)
    # the run may be older than a rule for splits, and this its own data in another place
    split_by = own.split_by if own.split_by in OLD_RULES else None
    opened = open_dataset(data, split, root, split_by=split_by)
    fingerprint = read_fingerprint(run.path / DATA)
    validated_on = fingerprint is not None and bool(fingerprint.trained_on(opened, "val"))
    selected = run.selected_on(own.val_split) and validated_on
    trained_on, notes = _seen_in_training(run, opened, split)
    notes = (f"scored on {split} of {data}", *notes)
    return ScoredSplit(opened, split, run, selected, trained_on, notes)


def _training_data(run: Run, split: str | None, root: Path | None, *, full: bool) -> ScoredSplit:
    """Open a split of the dataset that the run was trained on.

    Default: the split of the paper's row, else test if it has masks, else the validation split.
    """
    own, paper = run.recipe.data, run.recipe.paper
    if "data" in run.info.objects:
        raise ConfigError(
            f"{run.path} was trained on a dataset object, {own.name}: pass data=, or name a "
            "dataset."
        )
    root = root or (None if own.root is None else Path(own.root))
    if split is None:
        split = score_split(own.name, root, own.val_split)
        if paper is not None and own.name == paper.data and split not in paper.miou:
            # the paper scored test by a server, which has the masks
            split = next((scored for scored in paper.miou if scored != TEST), split)
    size = own.val_size if split == own.val_split and not full else None

    # What the recipe says of the split
    selected = run.selected_on(split)
    chosen = f": {SELECTED}, as the weights were chosen by their score" if selected else ""
    notes = [f"scored on {split}{chosen}"]
    trained_on = bool(parts_of(split) & parts_of(own.train_split)) and not run.imported
    if trained_on and TEST in parts_of(split):
        raise DataError(
            f"{run.name} was trained on {own.train_split}, so {split} is no test. Score other "
            "images."
        )
    if trained_on:
        notes += [f"this run was trained on {split}: that says nothing of other images"]
    if own.split_by and share_rule(own.name) not in (None, own.split_by):
        notes += [f"the splits are those of its training, made by {own.split_by} (data.split_by)"]
    if size:
        notes += [
            f"{counted(size, 'image')} of {split}, as in training (data.val_size); all of them "
            "with --full"
        ]

    # What has changed since the training
    data = open_dataset(own.name, split, root, size, split_by=own.split_by)
    fingerprint = read_fingerprint(run.path / DATA)
    if fingerprint is not None:
        role = "val" if split == own.val_split else "train" if split == own.train_split else TEST
        partial = {"val": full and own.val_size is not None, "train": own.train_size is not None}
        if role != TEST or split == TEST:
            changes = fingerprint.changes(role, data, part=partial.get(role, False))
            notes += [f"since the training: {change}" for change in changes]
    elif not (run.shipped or run.imported):
        notes += [
            f"{run.name} has no {DATA}: whether its images and masks changed since the training "
            "is not known"
        ]
    if not trained_on:
        trained_on, seen = _seen_in_training(run, data, split)
        notes += seen
    return ScoredSplit(data, split, run, selected, trained_on, tuple(notes))


def _seen_in_training(run: Run, data: SegmentationData, split: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether the run was trained on any of these images, and notes for the user.

    Images are compared by the content of their files. Raises DataError if there are some and the
    split is called test.
    """
    fingerprint = read_fingerprint(run.path / DATA)
    if fingerprint is None:
        return False, ()
    seen = fingerprint.trained_on(data)
    refuse_as_test(run, seen, data, split)
    notes = fingerprint.score_warnings(data, f"{data.name} {split}")
    if seen:
        notes = [f"{overlap_message(run, seen, data)}: that says nothing of other images", *notes]
    return bool(seen), tuple(notes)


def times_scored(run: Run, split: str, data: str | None = None) -> int:
    """Return how often this run was scored on a split, alone or among others.

    data: the name of a dataset. Default: all datasets.
    """
    lines = (line for line in run.evaluations() if data in (None, line.get("data")))
    return sum(split in parts_of(str(line.get("split"))) for line in lines)


def learned_from(run: Run, images: SegmentationData, labelled: LabelledImages) -> dict[str, str]:
    """Return key -> key in training, for the images that a run was trained on.

    Images are compared by the content of their files, and by name if the dataset is the same.
    labelled: the labelled set that the images belong to.
    """
    if run.imported:
        return {}
    table, training_key = run.recipe.data, dict[str, str]()
    with suppress(FeathersegError):  # the training split is not on this machine
        fingerprint = read_fingerprint(run.path / DATA)
        training_key |= fingerprint.trained_on(images) if fingerprint else {}
        if labelled.is_of(table.name):
            learned = replace(
                labelled, split=table.train_split, size=table.train_size, split_by=table.split_by
            )
            training_key |= {key: key for key in set(learned.open().keys) & set(images.keys)}
    return training_key


def refuse_as_test(run: Run, seen: Mapping[str, str], images: SegmentationData, split: str) -> None:
    """Raise DataError if a split called test has images that were seen in training."""
    if seen and TEST in parts_of(split):
        raise DataError(
            f"{overlap_message(run, seen, images)}. So they are no test: score a split of another "
            "name, or write a copy in which no image is in two splits:\nfeatherseg check DATA "
            "--fix OUT"
        )


def overlap_message(run: Run, seen: Mapping[str, str], images: SegmentationData) -> str:
    """Return such as `runs/a was trained on 1 of these 20 images: b (c)`."""
    total = counted(len(images), "image")
    return f"{run.name} was trained on {len(seen)} of these {total}: {named_pairs(seen)}"
