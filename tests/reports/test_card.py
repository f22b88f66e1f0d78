import re

import pytest
from support.models.small_run import small_info
from support.models.small_training import Silent, request

from featherseg.core.files import append_line
from featherseg.core.types import ClassInfo
from featherseg.reports.card import card
from featherseg.runs.run import open_run, write_info
from featherseg.training import train

pytestmark = pytest.mark.usefixtures("quick_training")


@pytest.mark.seconds
def test_the_card_counts_the_looks_at_every_split(tmp_path):
    run = train(
        request("model.name=efficientvit-seg-b0", "train.epochs=1"), tmp_path / "run", Silent()
    )
    assert "0.71 M parameters" in card(run)
    look = {"data": "shapes", "split": "test", "inference": "whole", "images": 3, "miou": 0.1}
    for miou in (0.1, 0.25):
        append_line(run.path / "evaluations.jsonl", look | {"miou": miou})
    assert (
        "- mIoU 25.00 % on `shapes`, split `test`, 3 images (whole); "
        "this run was evaluated on the split 2 times" in card(run)
    )
    assert "10.00 %" not in card(run)
    append_line(run.path / "evaluations.jsonl", look | {"split": "val", "images": 1, "pq": 0.5})
    assert (
        "- PQ 50.00 %, mIoU 10.00 % on `shapes`, split `val`, 1 image (whole); "
        "this run was evaluated on the split 1 " in (card(run))
    )


def test_names_from_others_are_text_in_the_card(tmp_path):
    name = "<script>alert(1)</script>[a](javascript:b)\n# c\x1b[2J | `d`"
    path = tmp_path / "run\n# e"
    path.mkdir()
    info = small_info(
        [ClassInfo(name, (0, 0, 0))], licence=name, data={"name": "shapes", "val_split": name}
    )
    write_info(path, info.model_copy(update={"featherseg": name, "loaded": {"file": name}}))
    append_line(path / "metrics.jsonl", {"step": 1, "val_miou": 0.5})
    append_line(
        path / "evaluations.jsonl",
        {"data": name, "split": name, "inference": name, "images": 3, "miou": 0.1},
    )
    for spoiled in (
        {"miou": 0.1},
        {"data": 1, "split": [], "inference": {}, "images": "x", "miou": "y"},
    ):
        append_line(path / "evaluations.jsonl", spoiled)
    text = card(open_run(path))
    shown = r"\<script\>alert(1)\</script\>\[a\](javascript:b)\\n# c\\x1b\[2J \| \`d\`"
    assert text.count(shown) == 5  # licence, class, start, version, inference
    outside = re.sub("`[^`]*`", "", text.replace(r"\`", ""))
    assert not re.search(r"(?<!\\)[<\[|]", outside)
    assert [line for line in text.splitlines() if line.startswith("#")] == [r"# run\\n# e"]


def test_emphasis_and_addresses_of_names_are_text_in_the_card(tmp_path):
    name = "*a* _b_ __c ~d~ frm_lite0 (http://e.vil)"
    write_info(tmp_path, small_info([ClassInfo(name, (0, 0, 0))]))
    shown = r"- Classes: \*a\* \_b\_ \_\_c \~d\~ frm_lite0 (http\://e.vil)"
    assert shown in card(open_run(tmp_path)).splitlines()


@pytest.mark.parametrize("content", [b"[1", b"\xff", b'"prepared_data"'])
def test_damaged_files_of_a_run_cost_the_card_no_more_than_their_lines(tmp_path, content):
    write_info(tmp_path, small_info([ClassInfo("road", (0, 0, 0))]))
    (tmp_path / "environment.json").write_bytes(content)
    for step, values in enumerate(
        ({"val_miou": 0.25}, {"val_miou": "high"}, {"val_miou": 0.5, "val_pq": [1]})
    ):
        append_line(tmp_path / "metrics.jsonl", {"step": step, **values})
    text = card(open_run(tmp_path))
    assert "mIoU 25.00 % on split `val` of the kept weights (step 0)" in text
    assert "Prepared data" not in text
