"""Measure what a teacher adds to a light model in the same minutes of one core.

    python benchmarks/teaching.py camvid neu/dataset.toml --data-root PATH/camvid
                                  [--split val --seeds 0] [--jobs 2]
    python benchmarks/teaching.py DATASET... --table

DATASET is as for against_plain.py. STUDENT is trained by the teacher of its own seed, by all of
them ("three teachers"), and without any, each with `featherseg train --minutes M` pinned to one
core. With --scratch the student has no initial weights; its teacher has them. A teacher is trained
for the same minutes, or for --teacher-minutes, and predicts every training image before the
students are trained; both times are recorded in its students' rows. Methods are chosen on `--split
val` (CamVid: trained on subtrain, scored on dev), where --set changes every student, and judged on
test. On test the teachers and the untaught students are runs of against_ultralytics.py with the
same --out, whose table must have the untaught rows. `--minutes 0` trains all for as long as their
recipe says, on a GPU if there is one.

Finished rows are kept in tables/teaching.jsonl and the pixel counts of each test image in counts/
beside it. A teacher without a run under --out, because its row is of another machine, is trained
again; a teacher for test is not scored again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import against_plain as plain
import against_ultralytics as both
import minutes
import numpy as np
from against_plain import Source, Task, say
from minutes import task_of

from featherseg.core.files import load_json, read_lines
from featherseg.evaluation.bootstrap import MIN_RUNS, compare_variants
from featherseg.evaluation.clusters import clusters_of
from featherseg.runs.run import WEIGHTS

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
SCRATCH = ("model.pretrained=false",)


class Bench(minutes.Bench):
    """The teachers of every dataset, then the student in every way, with every seed."""

    def __init__(self, asked: argparse.Namespace, sources: Sequence[Source]) -> None:
        super().__init__(sources, asked.minutes, asked.out, asked.rows, asked.jobs)
        self.asked, self.cache = (
            asked,
            str(asked.out.absolute() / "cache"),
        )  # nothing is prepared there

    def alone(self, model: str, way: str, source: Source, seed: int) -> Task:
        """A teacher or an untaught student."""
        asked = self.asked
        scratch, length = (
            (asked.scratch, asked.minutes) if way == UNTAUGHT else (False, asked.teacher_minutes)
        )
        if asked.split == "test":
            settings = both.settings_of(model, source, pretrained=not scratch)
            return Task(source.label, model, settings, seed, length, "train", "test")
        overrides = (*(SCRATCH if scratch else ()), *(asked.overrides if way == UNTAUGHT else ()))
        return task_of(model, overrides, asked.split, source, length, seed, way=way)

    def pupil(self, source: Source, way: str, seed: int) -> Task:
        asked = self.asked
        more = {"way": way, "teacher": asked.teacher, "teacher_minutes": asked.teacher_minutes}
        overrides = (*WAYS[way], *(SCRATCH if asked.scratch else ()), *asked.overrides)
        return task_of(asked.student, overrides, asked.split, source, asked.minutes, seed, **more)

    def run(self) -> None:
        """Train the missing teachers, keep their outputs, then train the students."""
        asked, sources = self.asked, list(self.sources.values())
        ways = [way for way in asked.ways if way != UNTAUGHT]
        pupils = [
            self.pupil(source, way, seed)
            for seed in asked.seeds
            for source in sources
            for way in ways
        ]
        pupils = [task for task in pupils if not task.find(read_lines(self.table))]
        teachers = {
            task.folder(self.out): task for pupil in pupils for task in self.teachers_of(pupil)
        }
        missing = [
            task for folder, task in teachers.items() if not (folder / "run" / WEIGHTS).is_file()
        ]
        train = self.train_again if asked.split == "test" else self.do
        for done in [self.pool.submit(train, task) for task in missing]:
            done.result()
        for looked in [
            self.pool.submit(self.look, task, folder) for folder, task in teachers.items()
        ]:
            looked.result()
        untaught = []
        if UNTAUGHT in asked.ways and asked.split == "val":
            untaught = [
                self.alone(asked.student, UNTAUGHT, source, seed)
                for seed in asked.seeds
                for source in sources
            ]
        self.finish([*untaught, *pupils])

    def teachers_of(self, pupil: Task) -> list[Task]:
        way = pupil.settings["way"]
        seeds = () if way in (TEACHES, UNTAUGHT) else plain.SEEDS if way == ALL else (pupil.seed,)
        return [
            self.alone(self.asked.teacher, TEACHES, self.sources[pupil.dataset], seed)
            for seed in seeds
        ]

    def train_again(self, teacher: Task) -> None:
        """A run of against_ultralytics.py that does not lie here; it is not scored."""
        say(f"{teacher.dataset}: {teacher.side}, seed {teacher.seed}, to teach")
        folder = teacher.folder(self.out)
        folder.mkdir(parents=True, exist_ok=True)
        both.train_ours(teacher, self.sources[teacher.dataset], folder)

    def look(self, teacher: Task, folder: Path) -> None:
        """Behind one step of a pupil the teacher has looked at every training image."""
        source, out = self.sources[teacher.dataset], folder / "look"
        if (out / "run" / WEIGHTS).is_file():
            return
        out.mkdir(exist_ok=True)
        where = [] if source.root is None else ["--data-root", str(source.root)]
        changes = (
            "train.steps=1",
            "train.validations=1",
            f"data.train_split={json.dumps(teacher.trained_on)}",
        )
        words = [word for change in changes for word in ("--set", change)]
        options = [
            "--data",
            source.data,
            *where,
            "--teacher",
            str(folder / "run"),
            *words,
            "--resume",
        ]
        command = [
            "-m",
            "featherseg",
            "train",
            self.asked.student,
            *options,
            "--out",
            str(out / "run"),
        ]
        plain.start(out, *command, cache=self.cache, gpus=not self.asked.minutes)

    def train(self, task: Task, source: Source, folder: Path, *more: str) -> None:
        runs = [str(teacher.folder(self.out) / "run") for teacher in self.teachers_of(task)]
        super().train(task, source, folder, *more, *(["--teacher", ",".join(runs)] if runs else []))

    def open(self, task: Task, source: Source, folder: Path) -> tuple[plain.MaskOf, dict[str, Any]]:
        mask_of, facts = super().open(task, source, folder)
        apart = [teacher.folder(self.out) for teacher in self.teachers_of(task)]
        for key, part in (("teachers_trained_s", ""), ("teachers_looked_s", "look")):
            facts |= (
                {key: sum(load_json(one / part / "processor.json")["seconds"] for one in apart)}
                if apart
                else {}
            )
        return mask_of, facts


def print_table(rows: Sequence[dict[str, Any]], source: Source, table: Path) -> None:
    """Print teachers, student scores by method, and on test each method minus untaught."""
    print(f"\n{source.label}")
    by_kind: dict[tuple[Any, ...], dict[int, dict[str, Any]]] = {}
    students = {(row["side"], row["minutes"]) for row in rows if row["settings"]["way"] != TEACHES}
    alone = [row for row in read_lines(both.TABLE) if (row["side"], row["minutes"]) in students]
    sides = {row["side"] for row in rows}
    known = {
        side: [both.settings_of(side, source, pretrained=p) for p in (True, False)]
        for side in sides
    }
    for row in [*rows, *(row for row in alone if row["settings"] in known[row["side"]])]:
        settings = row["settings"]
        if row["dataset"] == source.label and settings.get("batch_size") == known[row["side"]][
            0
        ].get("batch_size"):
            way, overrides = settings.get("way", UNTAUGHT), settings.get("overrides", ())
            scratch = not settings.get("pretrained", not set(SCRATCH) <= set(overrides))
            side = f"{row['side']} from scratch" if scratch else row["side"]
            kind = (row["scored_on"], row["minutes"], side, way, settings["sha256"])
            by = settings.get("teacher"), settings.get("teacher_minutes"), *overrides
            by_kind.setdefault((kind, by), {})[row["seed"]] = row
    tested: dict[tuple[Any, ...], dict[str, dict[int, dict[str, Any]]]] = {}
    for (kind, by), by_seed in sorted(by_kind.items(), key=str):
        split, length, side, way, digest = kind
        scores = [100 * (by_seed[seed]["score"] or 0) for seed in sorted(by_seed)]
        taught = f" by {by[0]} of {by[1]:g} min" if by[0] else ""
        taught += "".join(
            f", {change}" for change in by[2:] if change not in (*WAYS.get(way, ()), *SCRATCH)
        )
        each = "  ".join(f"{v:.2f}" for v in scores)
        print(
            f"  {side} ({digest[:6]}), {way}{taught}, {length:g} min, "
            f"{split} {np.mean(scores):.2f}  ({each})"
        )
        if split == "test" and way != TEACHES:
            tested.setdefault((length, side, digest), {})[f"{way}{taught}"] = by_seed

    # Ways of the same seeds together, beside the untaught of these
    for (length, side, _), ways in tested.items():
        alike: dict[tuple[int, ...], list[str]] = {}
        for way in ways:
            if (
                way != UNTAUGHT
                and len(seeds := sorted(ways[way].keys() & ways.get(UNTAUGHT, {}).keys()))
                >= MIN_RUNS
            ):
                alike.setdefault(tuple(seeds), []).append(way)
        for seeds, others in alike.items():
            stored = [
                plain.read_counts([ways[way][s] for s in seeds], table)
                for way in (UNTAUGHT, *others)
            ]
            if not all(stored):
                continue
            counts, keys = [one[0] for one in stored if one], next(one[1] for one in stored if one)
            for way, difference in zip(
                others, compare_variants(counts, clusters_of(keys)), strict=True
            ):
                print(
                    f"  {side}, {length:g} min, {way} less untaught: "
                    f"{plain.format_difference(difference)} (95 %)"
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--data-root", type=Path, help="where a dataset with a name lies")
    parser.add_argument("--student", default="frm-lite0-half-light")
    parser.add_argument("--teacher", default="frm-lite0-light")
    parser.add_argument("--scratch", action="store_true", help="a student without initial weights")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the student")
    parser.add_argument("--teacher-minutes", type=float, help="as many as the student has")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(plain.SEEDS))
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at a time, each on a core of its own"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/against-ultralytics"))
    parser.add_argument("--rows", type=Path, default=TABLE, help="where finished rows are appended")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    asked = parser.parse_args()
    if asked.overrides and asked.split == "test":
        parser.error(
            "--set is for choices, on --split val: "
            "on test the untaught are against_ultralytics.py's runs."
        )
    asked.teacher_minutes = (
        asked.minutes if asked.teacher_minutes is None else asked.teacher_minutes
    )
    sources = [plain.open_source(name, asked.data_root, asked.out) for name in asked.datasets]
    if not asked.table:
        Bench(asked, sources).run()
    for source in sources:
        print_table(read_lines(asked.rows), source, asked.rows)


if __name__ == "__main__":
    main()
