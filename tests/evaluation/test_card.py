from small_training import Silent, request

from featherseg.core.files import append_line
from featherseg.evaluation.card import card
from featherseg.training import train


def test_the_card_counts_the_looks_at_every_split(tmp_path):
    run = train(request("train.epochs=1"), tmp_path / "run", Silent())
    assert "3.78 M parameters" in card(run)
    look = {"data": "shapes", "split": "test", "mode": "whole", "images": 3, "miou": 0.1}
    for miou in (0.1, 0.25):
        append_line(run.path / "evaluations.jsonl", look | {"miou": miou})
    assert "- mIoU 25.00 % on `shapes`, split `test`, 3 pictures (whole); the split was looked at 2 times" in card(run)
    assert "10.00 %" not in card(run)
    append_line(run.path / "evaluations.jsonl", look | {"split": "val", "images": 1, "pq": 0.5})
    assert "- PQ 50.00 %, mIoU 10.00 % on `shapes`, split `val`, 1 picture (whole); the split was looked at 1 time" in (
        card(run)
    )
