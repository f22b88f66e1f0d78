"""Compare `featherseg fit` with the default model in the same time, end to end: score and latency.

    python benchmarks/fit_default.py DATASET... [--data-root PATH] [--hours 0.5] [--max-ms X]
                                     [--out FOLDER]
    python benchmarks/fit_default.py DATASET... --table

DATASET is as for against_plain.py. For each dataset this runs, one after the other on all cores,
`featherseg fit --data DATASET --max-ms X --hours H`, and `featherseg train DEFAULT --data DATASET
--minutes 60 H` with its export to ONNX and no other setting. Without --max-ms the limit is the
untrained default's latency, 2 %, and the tenth that fit keeps free, so that the default stays a
candidate. After both, the two files are timed TIMES times in turns, each time in a new process,
from the decoded image to the mask. Both are scored on test. Nothing else may run.

Finished rows are kept in tables/fit_default.jsonl; the same command does what is missing.
"""

import argparse
import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from against_plain import Source, commit, machine_name, open_source
from fit_regret import DEFAULT

import featherseg
from featherseg.core.files import FIT, append_line, load_json, read_lines, remove_tree
from featherseg.data.datasets.statistics import typical_size
from featherseg.fitting.feasible import image_of
from featherseg.fitting.halving import SPARE
from featherseg.fitting.latency import here, time_candidate, time_file

TABLE = Path(__file__).parent / "tables" / "fit_default.jsonl"
TIMES = 10
ABOVE = 1.02
"""Of what the default takes, the limit: one timing differs from the next."""


def run_verb(*words: str) -> None:
    """A verb in a process of its own. Ends this one where it fails."""
    print("featherseg", *words, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "featherseg", *words], check=True)


def limit_of(p50_ms: float) -> float:
    """Return the latency limit (ms) that keeps a model of this p50 a candidate when timed again."""
    return math.ceil(100 * ABOVE * p50_ms / (1 - SPARE)) / 100


def record(source: Source, hours: float, max_ms: float | None, out: Path) -> dict[str, Any]:
    """Train both sides, time their files again, score them."""
    where = ["--data", source.data] + (
        [] if source.root is None else ["--data-root", str(source.root)]
    )
    fitted, plain, train = (
        out / source.label / "fit",
        out / source.label / "default",
        source.open("train"),
    )
    image = image_of(train, typical_size(train))
    if max_ms is None:
        name = (DEFAULT, 1.0, "onnx")
        max_ms = limit_of(
            time_candidate(name, train.classes, None, image, [image], lambda _: False).timing.p50
        )

    # Half an hour each; what was killed begins anew
    if not (fitted / FIT).is_file():
        remove_tree(fitted)
        run_verb(
            "fit", *where, "--max-ms", str(max_ms), "--hours", str(hours), "--out", str(fitted)
        )
    facts = load_json(fitted / FIT)
    if not (plain / "export" / "model.onnx").is_file():
        remove_tree(plain)
        run_verb(
            "train",
            DEFAULT,
            *where,
            "--minutes",
            str(60 * hours),
            "--no-report",
            "--out",
            str(plain),
        )
        run_verb("export", str(plain), "--format", "onnx")

    # Timed again, in turns
    files = {"fit": fitted / facts["file"], "default": plain / "export" / "model.onnx"}
    p50_ms: dict[str, list[float]] = {side: [] for side in files}
    for _ in range(TIMES):
        for side, file in files.items():
            p50_ms[side].append(round(time_file(file, image, (side, 1.0, "onnx")).p50, 2))
    scores, (device, threads) = featherseg.evaluate(plain, split="test"), here()
    chosen = {
        key: facts["chosen"][key] for key in ("model", "scale", "miou_val", "miou_test", "interval")
    }
    return {
        "dataset": source.label,
        "hours": hours,
        "limit_ms": round(facts["limit_ms"], 2),
        "fit": chosen | {"seconds": facts["seconds"], "p50_ms": p50_ms["fit"]},
        "default": {"model": DEFAULT, "miou_test": scores.miou, "p50_ms": p50_ms["default"]},
        "over": sum(ms > facts["limit_ms"] for ms in p50_ms["fit"]),
        "image_size": list(image.shape[:2]),
        "device": device,
        "threads": threads,
        "processor": machine_name(),
        "commit": commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line a side."""
    for row in rows:
        print(
            f"\n{row['dataset']}, {row['hours']:g} h each, "
            f"limit {row['limit_ms']:g} ms, {row['device']}"
        )
        for side in ("fit", "default"):
            one = row[side]
            name = one["model"] + (f" at {one['scale']:g}" if "scale" in one else "")
            print(
                f"  {side:8} {name:28} test {100 * one['miou_test']:6.2f}, "
                f"{np.median(one['p50_ms']):6.1f} ms"
            )
        print(f"  over the limit in {row['over']} of {len(row['fit']['p50_ms'])} later timings")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--data-root", type=Path, help="where a dataset with a name lies")
    parser.add_argument("--hours", type=float, default=0.5)
    parser.add_argument("--max-ms", type=float)
    parser.add_argument("--out", type=Path, default=Path("runs/fit-default"))
    parser.add_argument("--rows", type=Path, default=TABLE, help="where finished rows are appended")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    asked = parser.parse_args()
    sources = [open_source(name, asked.data_root, asked.out) for name in asked.datasets]
    for source in sources:
        done = [
            row
            for row in read_lines(asked.rows)
            if (row["dataset"], row["hours"]) == (source.label, asked.hours)
        ]
        if not asked.table and not done:
            asked.rows.parent.mkdir(parents=True, exist_ok=True)
            append_line(asked.rows, record(source, asked.hours, asked.max_ms, asked.out))
    print_table(
        [
            row
            for row in read_lines(asked.rows)
            if row["dataset"] in {source.label for source in sources}
        ]
    )


if __name__ == "__main__":
    main()
