"""Five walks leave behind what they left at commit faaaedb2, as frozen_walks.json records it.

Keys that came or went since then are edited there by hand.
"""

import json
import re

import pytest
from support.golden.frozen_walks import FILE, WALKS, machine_kind, walk

RECORD = json.loads(FILE.read_text(encoding="utf-8"))

TOLERANCE = {"rel": 1e-3, "abs": 1e-6}
"""Of numbers. Two training steps without AVX, or with two threads, differ by 4e-5 at most."""

RECIPE = re.compile(r"/recipe[/.]")
"""A setting in resolved.json; new ones may be added."""


def flat(content, path=""):
    """{path: value} of nested dicts and lists."""
    if not isinstance(content, dict | list):
        return {path: content}
    items = content.items() if isinstance(content, dict) else enumerate(content)
    flattened = (flat(item, f"{path}/{key}") for key, item in items)
    return {place: value for one in flattened for place, value in one.items()}


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_leaves_what_it_left(name, tmp_path, capsys):
    trace, frozen = walk(name, tmp_path), RECORD[name]
    for part in ("exit_codes", "files", "keys", "exact"):
        now, before = flat(getattr(trace, part)), flat(frozen[part])
        new_settings = {key for key in now.keys() - before.keys() if RECIPE.search(key)}
        kept = {key: value for key, value in now.items() if key not in new_settings}
        assert kept == before, capsys.readouterr().err
    assert flat(trace.numbers) == pytest.approx(flat(frozen["numbers"]), **TOLERANCE)
    if machine_kind() == RECORD["machine"]:
        assert trace.bits == frozen["bits"]
