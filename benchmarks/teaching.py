"""What a teacher is worth to a light model: taught in several ways and untaught, in the same minutes of one core.

    python benchmarks/teaching.py camvid neu/dataset.toml --data-root PATH/camvid [--split val --seeds 0] [--jobs 2]
    python benchmarks/teaching.py DATASET... --table

DATASET is as for against_plain.py. The teachers are trained first, one a seed and each for --teacher-minutes, and look
at every training image: both is counted apart, in the rows of the teachers. Then STUDENT is trained by the teacher of
its own seed, or by all of them ("three teachers"), and once without any; all by `featherseg train --minutes M`, pinned
to one core. Ways are chosen on `--split val` (CamVid: trained on subtrain, scored on dev) and judged on test.

Finished rows stand in tables/teaching.jsonl, the pixels of each test image in counts/ beside it. A teacher that has a
row but no run under --out any more is trained again.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import against_plain as plain
import minutes
import numpy as np
from against_plain import Source, Task
from minutes import task_of

from featherseg.core.files import read_lines
from featherseg.runs import WEIGHTS
from featherseg.uncertainty.bootstrap import compare_variants
from featherseg.uncertainty.clusters import clusters_of

TABLE = Path(__file__).parent / "tables" / "teaching.jsonl"
TEACHES, UNTAUGHT, ALL = "teacher", "untaught", "three teachers"
WAYS: dict[str, tuple[str, ...]] = {
    UNTAUGHT: (),
    "default": (),
    "logits": ("teacher.channels=0",),
    "channels": ("teacher.logits=0",),
    "softer logits": ("teacher.channels=0", "teacher.logits_temperature=4"),
    "a third": ("teacher.logits=0.3", "teacher.channels=1"),
    ALL: (),
}
"""Name -> overrides of the recipe."""


class Bench(minutes.Bench):
    """The teachers of every dataset, then the student in every way, with every seed."""

    def __init__(self, asked: argparse.Namespace, sources: Sequence[Source]) -> None:
        super().__init__(sources, asked.minutes, asked.out, asked.rows, asked.jobs)
        self.asked, self.cache = asked, str(asked.out.absolute() / "cache")  # nothing is prepared there

    def teacher(self, source: Source, seed: int) -> Task:
        asked = self.asked
        return task_of(asked.teacher, (), asked.split, source, asked.teacher_minutes, seed, way=TEACHES)

    def pupil(self, source: Source, way: str, seed: int) -> Task:
        asked = self.asked
        by = {} if way == UNTAUGHT else {"teacher": asked.teacher, "teacher_minutes": asked.teacher_minutes}
        return task_of(asked.student, WAYS[way], asked.split, source, asked.minutes, seed, way=way, **by)

    def run(self) -> None:
        """Teachers first, those too whose run is gone; what they say of the images is kept before anyone is taught."""
        asked, sources = self.asked, list(self.sources.values())
        pupils = [self.pupil(source, way, seed) for seed in asked.seeds for source in sources for way in asked.ways]
        missing = [task for task in pupils if not task.find(read_lines(self.table))]
        wanted = {
            task.folder(self.out): task
            for pupil in missing
            for task in self.teachers_of(pupil)
            if not (task.folder(self.out) / "look" / WEIGHTS).is_file()
        }
        for future in as_completed([self.pool.submit(self.do, task) for task in wanted.values()]):
            if error := future.exception():
                plain.say(f"failed, and so will its pupils: {error}")
        self.finish(missing)

    def teachers_of(self, pupil: Task) -> list[Task]:
        if pupil.settings["way"] in (TEACHES, UNTAUGHT):
            return []
        seeds = plain.SEEDS if pupil.settings["way"] == ALL else (pupil.seed,)
        return [self.teacher(self.sources[pupil.dataset], seed) for seed in seeds]

    def train(self, task: Task, source: Source, folder: Path, *more: str) -> None:
        runs = [str(teacher.folder(self.out) / "run") for teacher in self.teachers_of(task)]
        super().train(task, source, folder, *more, *(["--teacher", ",".join(runs)] if runs else []))
        if task.settings["way"] == TEACHES:
            # Behind one step of a pupil the teacher has looked at every training image
            where = [] if source.root is None else ["--data-root", str(source.root)]
            changes = ("train.steps=1", "train.validations=1", f"data.train_split={json.dumps(task.trained_on)}")
            words = [word for change in changes for word in ("--set", change)]
            asked = ["--data", source.data, *where, "--teacher", str(folder / "run"), *words]
            out = ["--resume", "--out", str(folder / "look")]
            plain.start(folder, "-m", "featherseg", "train", self.asked.student, *asked, *out, cache=self.cache)


def print_table(rows: Sequence[dict[str, Any]], label: str, table: Path) -> None:
    """Teachers, the student's scores by way, and on test each way less untaught with its interval."""
    print(f"\n{label}")
    found: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["dataset"] == label:
            settings = row["settings"]
            kind = (row["scored_on"], row["minutes"], row["side"], settings["way"], settings["sha256"])
            by = settings.get("teacher"), settings.get("teacher_minutes"), *settings["overrides"]
            found.setdefault((kind, by), {})[row["seed"]] = row
    counts: dict[tuple[Any, ...], dict[str, np.ndarray]] = {}
    keys: list[str] = []
    for (kind, by), by_seed in sorted(found.items(), key=str):
        split, length, side, way, digest = kind
        same = [by_seed[seed] for seed in sorted(by_seed)]
        scores = [100 * (row["score"] or 0) for row in same]
        taught = f" by {by[0]} of {by[1]:g} min" if by[0] else ""
        each = "  ".join(f"{v:.2f}" for v in scores)
        print(f"  {side} ({digest[:6]}), {way}{taught}, {length:g} min, {split} {np.mean(scores):.2f}  ({each})")
        if split == "test" and way != TEACHES and (stored := plain.read_counts(same, table)):
            counts.setdefault((length, side, digest), {})[f"{way}{taught}"], keys = stored
    for (length, side, _), ways in counts.items():
        taught = [way for way in ways if way != UNTAUGHT and ways[way].shape == ways.get(UNTAUGHT, ways[way]).shape]
        if UNTAUGHT in ways and taught:
            differences = compare_variants([ways[UNTAUGHT], *(ways[way] for way in taught)], clusters_of(keys))
            for way, difference in zip(taught, differences, strict=True):
                print(f"  {side}, {length:g} min, {way} less untaught: {plain.told(difference)} (95 %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--data-root", type=Path, help="where a dataset with a name lies")
    parser.add_argument("--student", default="frm-lite0-050-light")
    parser.add_argument("--teacher", default="frm-lite2-light")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the student")
    parser.add_argument("--teacher-minutes", type=float, default=60.0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(plain.SEEDS))
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, each on a core of its own")
    parser.add_argument("--out", type=Path, default=Path("runs/teaching"))
    parser.add_argument("--rows", type=Path, default=TABLE, help="where finished rows are appended")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    asked = parser.parse_args()
    sources = [plain.open_source(name, asked.data_root, asked.out) for name in asked.datasets]
    if not asked.table:
        Bench(asked, sources).run()
    for source in sources:
        print_table(read_lines(asked.rows), source.label, asked.rows)


if __name__ == "__main__":
    main()
