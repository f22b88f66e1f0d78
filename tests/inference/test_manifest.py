"""The rest to predict, and the lines of predictions.jsonl, against plain Python over lists."""

import json
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featherseg.core.errors import DataNotFound
from featherseg.core.files import unique_names
from featherseg.inference.manifest import DONE, FAILED, Listed, Manifest, Record, read_known

STEMS = st.text("abAB-2.", min_size=1, max_size=4).filter(lambda stem: not stem.startswith("."))
FILES = st.sets(st.builds("{}{}".format, STEMS, st.sampled_from([".png", ".jpg"])), max_size=12)


def plan(folder, files, masks=(), known=()):
    return Manifest.plan(folder, (Listed(file, 0) for file in files), masks, known)


@pytest.mark.seconds
@given(files=FILES, size=st.integers(1, 5), data=st.data())
def test_the_shares_are_the_images_without_a_known_mask_under_the_names_of_one_machine(
    tmp_path_factory, files, size, data
):
    ordered = sorted(files)
    names = unique_names([Path(file) for file in ordered])
    masks = data.draw(st.sets(st.sampled_from([*names, "other"])))
    known = data.draw(st.sets(st.sampled_from([*names, "other"])))
    with plan(
        tmp_path_factory.mktemp("plan"), files, masks, [(name, "5a") for name in known]
    ) as manifest:
        expected = [
            (f, n, n in masks)
            for f, n in zip(ordered, names, strict=True)
            if n not in masks & known
        ]
        shares = [manifest.share(number, size) for number in range(-(-manifest.waiting // size))]
        assert all(len(share) == size for share in shares[:-1])
        assert [(i.file, i.name, i.there) for share in shares for i in share] == expected
        assert (manifest.total, manifest.waiting) == (len(files), len(expected))


def test_a_line_tells_what_became_of_an_image_and_none_of_one_that_nobody_came_to(tmp_path):
    files = ["b.png", "a.png", "c\udcff.png", "d.png", "e.png"]
    with plan(tmp_path, files, masks=["a"], known=[("a", "aa")]) as manifest:
        b, c, d, _ = manifest.share(0, 10)
        manifest.record([Record(b.id, FAILED, reason="cut short"), Record(c.id, DONE, "cc")])
        manifest.record(
            [Record(c.id, DONE, "cc"), Record(d.id, DONE, "dd")]
        )  # c is told twice: its worker was lost
        assert (manifest.count(DONE), manifest.count(FAILED)) == (2, 1)
        lines = list(manifest.lines())
    assert [json.loads(line) for line in lines] == [
        {"name": "a", "image": "a.png", "status": "done", "sha256": "aa", "reason": None},
        {"name": "b", "image": "b.png", "status": "failed", "sha256": None, "reason": "cut short"},
        {
            "name": "c\udcff",
            "image": "c\udcff.png",
            "status": "done",
            "sha256": "cc",
            "reason": None,
        },
        {"name": "d", "image": "d.png", "status": "done", "sha256": "dd", "reason": None},
    ]
    assert list(read_known(lines)) == [("a", "aa"), ("c\udcff", "cc"), ("d", "dd")]


@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="open files are counted where /proc has them"
)
def test_a_folder_that_cannot_be_listed_leaves_no_file_open(tmp_path):
    def listed():
        yield Listed("a.png", 0)
        raise DataNotFound("yard cannot be listed: Permission denied.")

    with pytest.raises(DataNotFound):
        Manifest.plan(tmp_path, listed(), (), ())
    assert not [
        file for file in Path("/proc/self/fd").iterdir() if file.resolve().parent == tmp_path
    ]


def test_of_a_spoiled_manifest_only_whole_records_count():
    spoiled = [
        b'{"name": "a", "sta',
        b"[1]",
        b"\xff",
        b'{"name": "b", "status": "done"}',
        b"{" * 9999,
        b"7",
    ]
    assert list(read_known([*spoiled, b'{"name": "c", "status": "done", "sha256": "cc"}'])) == [
        ("c", "cc")
    ]


@pytest.mark.slow
def test_of_ten_million_names_this_process_holds_none(tmp_path):
    """List, plan, shares and lines for 10^5 and 10^7 names (issue: at most 300 MB more)."""
    process, grown = psutil.Process(), []
    for count in (10**5, 10**7):
        folder = tmp_path / str(count)
        folder.mkdir()
        most, size = 0, -(-count // 20_000)
        files = (
            Listed(f"{number * 7919 % count:08}.jpg", 0) for number in range(count)
        )  # in no order
        masks = (f"{number:08}" for number in range(count // 2))
        known = ((f"{number:08}", "0" * 64) for number in range(count // 4))
        with Manifest.plan(folder, files, masks, known) as manifest:
            most = max(most, process.memory_info().rss)
            assert manifest.waiting == count - count // 4
            for number in range(-(-manifest.waiting // size)):
                images = manifest.share(number, size)
                manifest.record([Record(image.id, DONE, "0" * 64) for image in images])
                if number % 100 == 0:
                    most = max(most, process.memory_info().rss)
            assert sum(1 for _ in manifest.lines()) == count
            grown.append(max(most, process.memory_info().rss))
    assert grown[1] - grown[0] < 300e6, [f"{peak / 1e6:.0f} MB" for peak in grown]
