"""What a run's weights were made from."""

import re
from contextlib import suppress

from featherseg.core.files import load_json
from featherseg.core.wording import last_parts
from featherseg.runs.run import ENVIRONMENT, Run

_PATH = re.compile(r"[^\s=]*[/\\][^\s=]*")
"""A path in a command; the folders above may be private."""


def provenance(run: Run) -> dict[str, str]:
    """Return data, licence, initial weights with their terms, command, version and commit.

    Facts that the run folder does not have are left out. Of paths the last two parts are named.
    """
    loaded, data = run.info.loaded, run.recipe.data
    environment = dict[str, str]()
    with suppress(OSError, ValueError):  # a damaged file costs only its lines
        content = load_json(run.path / ENVIRONMENT)
        environment = content if isinstance(content, dict) else environment
    initial = run.init or f"imported from {run.imported}"
    if "file" in loaded:
        initial += f": {loaded['file']}"
    if terms := loaded.get("licence"):
        initial += f", {terms}"
    command = environment.get("command")
    facts = {
        "data": f"{last_parts(data.shown)}, {data.train_split}",
        "licence": run.licence,
        "initial_weights": initial,
        "command": _PATH.sub(lambda path: last_parts(path[0]), command) if command else None,
        "featherseg": environment.get("featherseg", run.info.featherseg),
        "commit": environment.get("commit"),
    }
    return {name: str(value) for name, value in facts.items() if value}
