"""The timing scripts start, and what they measure with is right; nothing here measures a speed."""

import ast
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from simulated_scores import training_runs

from featherseg.data import open_dataset

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.fixture
def load(monkeypatch):
    """A script of benchmarks/ as a module; it does nothing until it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)

    def by_name(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look it up
        spec.loader.exec_module(module)
        return module

    yield by_name
    for name in set(sys.modules) - before:
        if name.startswith("benchmark_") or name in {file.stem for file in SCRIPTS}:
            del sys.modules[name]


def test_neu_segs_lists_are_fixed_and_no_image_is_in_two(load, shared, tmp_path):
    """300 of its stems stand in both folders, three images twice in the published training part."""
    toml = load("neu_seg").write(shared / "data" / "neu", tmp_path)
    splits = {split: open_dataset(str(toml), split) for split in ("train", "val", "test")}
    assert [len(data) for data in splits.values()] == [3267, 363, 840]
    folders = {split: {key.split("/")[0] for key in data.keys} for split, data in splits.items()}
    assert folders == {"train": {"training"}, "val": {"training"}, "test": {"test"}}
    contents = [{pair.files[0].read_bytes() for pair in data.pairs} for data in splits.values()]
    assert sum(map(len, contents)) == len(set.union(*contents)) == 4466
    assert set(np.unique(splits["val"].label(0))) <= {0, 1, 2, 3}
    assert len(open_dataset(str(toml), "train+val")) == 3630


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.stem)
def test_every_script_can_be_imported_and_says_how_it_is_run(script, load):
    module = load(script.stem)
    assert module.__doc__
    runs = '__name__ == "__main__"' in script.read_text()
    assert not runs or f"python benchmarks/{script.name}" in module.__doc__


def test_ratios_are_medians_of_rounds_and_their_interval_holds_them(load):
    paired = load("paired")
    rounds = np.random.default_rng(1).normal(3.0, 0.2, size=(2, 40))
    found = paired.ratio(rounds)
    assert found.value == np.median(rounds)
    assert 2.8 < found.low < found.value < found.high < 3.2
    assert paired.ratio(np.full((1, 9), 2.0)) == paired.Ratio(2.0, 2.0, 2.0)


def test_an_ablation_s_table_claims_nothing_by_three_signs(load, capsys):
    ablations, rng = load("ablations"), np.random.default_rng(0)
    base = training_runs(rng, 3, 72, spread=0.1, noise=0.05)
    lower, far = base.copy(), base.copy()
    lower[:, :, 1] = np.round(lower[:, :, 1] * np.array([0.998, 0.99, 0.97])[:, None, None])  # with every seed
    far[:, :, 1] = np.round(0.7 * far[:, :, 1])
    ablations.print_table({"whole": base, "lower": lower, "far": far}, [f"drive_{i:03d}" for i in range(72)])
    _, whole, lower, far = capsys.readouterr().out.splitlines()
    assert whole.split()[0] == "whole"
    assert lower.endswith("no difference between lower and whole is shown")
    assert far.endswith("whole is better than far")


def test_functions_take_turns_in_an_order_that_moves_on(load):
    paired, calls = load("paired"), []
    table = paired.compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=4)
    assert "".join(calls[-8:]) == "abbaabba"
    assert table.wall_ms.shape == table.cpu_ms.shape == (1, 4, 2)
    assert (table.wall_ms >= 0).all()


def test_extra_memory_is_what_the_call_takes(load):
    paired = load("paired")
    assert 60 < paired.extra_mib(lambda: np.ones(8 * 2**20)) < 80  # 64 MiB


def test_processes_are_timed_and_tell_their_facts_whatever_they_print(load, tmp_path):
    paired = load("paired")
    script = tmp_path / "worker.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\nimport paired\nprint('noise')\n"
        "paired.serve(lambda: print('more'), {'word': sys.argv[1]})\n"
    )
    table = paired.processes({"x": [str(script), "one"], "y": [str(script), "two"]}, rounds=3, starts=2)
    assert table.facts == {"x": {"word": "one"}, "y": {"word": "two"}}
    assert table.wall_ms.shape == (2, 3, 2)
    assert all(mib > 5 for mib in table.memory_mib.values())


def test_a_process_that_fails_ends_the_benchmark_with_its_command(load, tmp_path):
    paired = load("paired")
    script = tmp_path / "worker.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit, match=r"worker\.py x` ended with 3"):
        paired.processes({"x": [str(script), "x"]}, rounds=1)


def test_the_usual_contrast_is_ours_on_the_same_pixels(load):
    import torch

    bench = load("pixel_contrast")
    torch.manual_seed(0)
    embedded = torch.nn.functional.normalize(torch.randn(2, 6, 8, 8, dtype=torch.float64), dim=1).requires_grad_()
    index = torch.randperm(128)[:60]
    classes = index % 3
    ours = bench.contrast(bench.pick(embedded, index), classes, bench.TEMPERATURE)
    usual = bench.usual_loss(embedded, bench.as_drawn(index, classes, 64))
    torch.testing.assert_close(ours, usual, check_dtype=False)
    gradients = [torch.autograd.grad(value, embedded)[0] for value in (ours, usual)]
    torch.testing.assert_close(*gradients)


def test_scripts_that_time_do_it_by_turns(load):
    alone = {"paired", "train_step", "serve_load"}  # these compare nothing with anything
    for file in SCRIPTS:
        tree = ast.parse(file.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert file.stem in alone or not names & {"time", "timeit"}, file.name
