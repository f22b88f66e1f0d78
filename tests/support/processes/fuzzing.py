"""Fuzzing: mutate sound bytes, by structure and byte by byte, and run a target on them for a time.

Seeds are 0, 1, 2, ..., so each machine finds what another found; its speed decides how far it gets.
"""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from featherseg.core.errors import FeathersegError

SHORT, LONG = 1, 600
"""Seconds: in the ordinary tests, and behind the slow marker."""

HANG = 20
"""Seconds after which one example hangs."""

BUDGETS = pytest.mark.parametrize(
    ("seconds", "seed"),
    [
        pytest.param(SHORT, 0, id="short"),
        pytest.param(LONG, 10_000, id="long", marks=pytest.mark.slow),
    ],
)
"""For a test of `seconds` and `seed`: once short, once long, from different seeds."""

TOML_VALUES = (
    *(
        "",
        '""',
        '"x"',
        "'",
        '"',
        "0",
        "-1",
        "1",
        "255",
        "256",
        "1e999",
        "-1e999",
        "nan",
        "inf",
        "-inf",
        "1e-320",
    ),
    *(
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "9" * 400,
        "9" * 5000,
        "0x" + "f" * 99,
    ),
    *(
        "true",
        "false",
        "[]",
        "{}",
        "[[]]",
        "[0]",
        "[1, 2]",
        "[2, 1]",
        "[1, 2, 3]",
        '["a", "b"]',
        "[1, [2, [3]]]",
    ),
    *(
        "2024-01-01",
        "12:00:00",
        "1979-05-27T07:32:00Z",
        "{a = 1}",
        "{a.b.c = {}}",
        '"\\u0000"',
        '"\\u202e\\u001b[2J"',
    ),
    *(
        '"<script>alert(1)</script>"',
        '"../../../etc"',
        '"/etc/passwd"',
        '"~"',
        '"' + "x" * 9000 + '"',
        '"ignore"',
        '"#000000"',
    ),
    *(
        "[" * 2000,
        "{a=" * 500,
        "[" * 200 + "]" * 200,
        '"""',
        "'''",
        "=",
        "\x00",
        "\ufeff",
        "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    ),
)
"""What may stand to the right of a key, and should not."""

JSON_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        10**30,
        -(10**30),
        1e308,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "x" * 9000,
    ),
    *(
        "<script>alert(1)</script>",
        "\x1b[2J",
        "\u202e",
        "\ud800",
        "../../../etc/passwd",
        "/dev/zero",
        "\x00",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"": None},
        {"a": {"b": {"c": []}}},
        ["x"] * 300,
        [0, 0, 0],
        [256, -1, 0.5],
        [1, 2],
    ),
)

INSERTED = (
    b"",
    b"\0",
    b"\n",
    b"\xff",
    b"\xff\xfe",
    b'"',
    b"=",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\\",
    b"#",
    b"nan",
    b"\x1b[2J",
    b"-",
    b"9" * 40,
)


def fuzz(
    target: Callable[[Any], None], cases: st.SearchStrategy[Any], seconds: float, seed: int
) -> None:
    """Call the target with cases drawn from seeds `seed`, `seed + 1`, ... until the time is over.

    What the target raises is a finding, and comes out of here with the smallest case that shows it.
    """
    end = time.monotonic() + seconds
    settings = hypothesis.settings(
        max_examples=50,
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    found = False
    for number in count(seed):

        @hypothesis.seed(number)
        @settings
        @hypothesis.given(cases)
        def once(case: Any) -> None:
            nonlocal found
            if (
                found or time.monotonic() < end
            ):  # what was found is made small, however long it takes
                found = True
                with no_hang():
                    target(case)
                found = False

        once()
        if time.monotonic() >= end:
            return


def told(error: FeathersegError) -> None:
    """A refusal must be a sentence."""
    assert len(str(error)) > 15


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise TimeoutError if the block takes over HANG processor seconds; machines may be paused."""

    def ring(number: int, frame: object) -> None:
        raise TimeoutError(f"hangs: not done after {HANG} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, HANG)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def mutations(
    *changes: Callable[[bytes, random.Random], bytes],
) -> st.SearchStrategy[Callable[[bytes], bytes]]:
    """One to four of the changes, one after the other, each with its own source of chance."""
    steps = st.lists(
        st.tuples(st.sampled_from(changes), st.integers(0, 2**32)), min_size=1, max_size=4
    )

    def apply(
        steps: list[tuple[Callable[[bytes, random.Random], bytes], int]],
    ) -> Callable[[bytes], bytes]:
        def mutate(content: bytes) -> bytes:
            for change, seed in steps:
                content = change(content, random.Random(seed))
            return content

        return mutate

    return steps.map(apply)


def change_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip a bit; delete, double, move or fill a range; insert something; or cut off the end."""
    place = rng.randrange(len(content) + 1)
    stop = min(len(content), place + rng.choice((1, 2, 4, 16, 256)))
    way = rng.randrange(7)
    if way == 0 and place < len(content):
        return (
            content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
        )
    if way == 1:
        return content[:place] + content[stop:]
    if way == 2:
        return content[:stop] + content[place:]
    if way == 3:
        return content[:place]
    if way == 4:
        return content[:place] + bytes(stop - place) + content[stop:]
    if way == 5:
        return content[:place] + rng.randbytes(stop - place) + content[stop:]
    return content[:place] + rng.choice(INSERTED) + content[place:]


def change_toml(content: bytes, rng: random.Random) -> bytes:
    """A line left out, doubled or moved; a value replaced; a key or a table renamed or put in."""
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    key, equals, _ = lines[place].partition(b"=")
    value = rng.choice(TOML_VALUES).encode()
    way = rng.randrange(6)
    if way == 0 and equals:
        lines[place] = key + b"= " + value
    elif way == 1:
        del lines[place]
    elif way == 2:
        lines.insert(rng.randrange(len(lines)), lines[place])
    elif way == 3:
        lines.insert(
            place,
            rng.choice((b"x", b'"\\u001b"', b"a.b.c", b"name", b'""', b"classes.x"))
            + b" = "
            + value,
        )
    elif way == 4:
        lines[place] = (
            b"[" + rng.choice((b"x", b"model", b"splits", b"a.b", b"[x]", b'"<b>"', b"map")) + b"]"
        )
    else:
        lines[place] = rng.choice(lines)
    return b"\n".join(lines)


def change_json(content: bytes, rng: random.Random) -> bytes:
    """Replace, delete, double or insert a value anywhere in the tree; unchanged if not JSON."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return content
    places = list(_places(tree))
    if not places:
        return json.dumps(rng.choice(JSON_VALUES)).encode()
    holder, key = rng.choice(places)
    way = rng.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "x", "format_version", "\x1b[2J", "name"))] = rng.choice(JSON_VALUES)
    elif way == 1:
        holder.insert(key, holder[key])
    elif way == 2:
        other, place = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[place]))
    else:
        holder[key] = rng.choice(JSON_VALUES)
    return json.dumps(tree).encode()


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (dict or list, key or index) of a tree of JSON."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])
