"""Pack a finished run for weights/: half-precision weights and records, no checkpoint or images.

python scripts/pack_weights.py RUN weights/NAME

Of the path of its data the last two parts stay.
"""

import shutil
import sys
from pathlib import Path

from featherseg.core.files import load_json, write_json
from featherseg.core.wording import last_parts
from featherseg.runs.run import EVALUATIONS, METRICS, RESOLVED, load_run, save_weights

KEPT = ("recipe.toml", RESOLVED, "environment.json", METRICS, "curve.svg", "card.md")
"""Beside the evaluations, which count the looks at test."""


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    run = load_run(source)
    target.mkdir(parents=True)
    for name in (*KEPT, *([EVALUATIONS] if (run.path / EVALUATIONS).is_file() else [])):
        shutil.copy(run.path / name, target / name)
    info = load_json(target / RESOLVED)
    info["recipe"]["data"]["name"] = last_parts(info["recipe"]["data"]["name"])
    write_json(target / RESOLVED, info)
    state = run.model.state_dict()
    save_weights(
        target,
        {key: value.half() if value.is_floating_point() else value for key, value in state.items()},
    )


main()
