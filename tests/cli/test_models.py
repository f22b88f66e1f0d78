import json

import pytest
from support.processes.command import command

from featherseg.cli.models import first_choices, models
from featherseg.core.machine import source_commit
from featherseg.runs.provenance import provenance
from featherseg.runs.run import load_run

run = command(models)


def test_a_shipped_run_says_what_it_was_made_from():
    result = run("efficientvit-seg-b0-shapes")
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == [
        "data",
        "licence",
        "initial weights",
        "command",
        "featherseg",
    ]
    assert "featherseg train efficientvit-seg-b0 --data shapes" in result.stdout
    facts = json.loads(run("efficientvit-seg-b0-shapes", "--json").stdout)
    assert facts == provenance(load_run("efficientvit-seg-b0-shapes"))
    assert (facts["data"], facts["licence"]) == ("shapes, train", "Apache-2.0")
    assert facts["initial_weights"] == "from scratch"


def test_of_paths_two_parts_are_named_and_a_damaged_record_costs_its_lines(lawn_run):
    record = {"command": "featherseg train a --data=/home/ann/lawn/dataset.toml -o runs/b"}
    record |= {"featherseg": "1.2", "commit": "c0ffee"}
    (lawn_run / "environment.json").write_text(json.dumps(record))
    facts = provenance(load_run(lawn_run))
    assert facts["command"] == "featherseg train a --data=lawn/dataset.toml -o runs/b"
    assert (facts["featherseg"], facts["commit"]) == ("1.2", "c0ffee")
    assert facts["data"] == "lawn/dataset.toml, train"
    (lawn_run / "environment.json").write_text("[")
    assert not {"command", "commit"} & set(provenance(load_run(lawn_run)))


def test_an_untrained_model_is_refused_with_what_to_do():
    assert "featherseg cost frm-lite0-light" in str(run("frm-lite0-light").exception)


def test_the_commit_is_that_of_this_checkout(monkeypatch):
    commit = source_commit()
    if commit is None:
        pytest.skip("this is no checkout with git")
    assert len(commit.removesuffix("-dirty")) == 40
    monkeypatch.setenv("PATH", "")
    assert source_commit() is None


def test_the_list_begins_with_a_model_for_each_purpose():
    """As they were measured: hidden rows would be chosen if the figures said so."""

    def row(name, ms, miou, macs):
        return {"model": name, "latency_ms": ms, "miou": miou and {"yard": miou}, "macs": macs}

    rows = [
        row("quick-untrained", 1.0, None, 1),
        row("quick", 3.0, 0.5, 2),
        row("good", 9.0, 0.7, 3),
        row("untimed", None, 0.9, 4),
        row("b-panoptic", None, None, 9),
        row("a-panoptic", None, None, 8),
    ]
    assert first_choices(rows) == [
        "for latency:  quick, 3 ms, mIoU 50.0 yard",
        "for accuracy: good, 9 ms, mIoU 70.0 yard",
        "for objects:  a-panoptic, fewest GMACs of the panoptic ones, not timed",
    ]
    lines = run().stdout.splitlines()[:3]
    assert [line.split(":")[0] for line in lines] == ["for latency", "for accuracy", "for objects"]
