"""A bundle for another device: its script gives Predictor's masks, and its answer is checked."""

import ast
import json
import math
import os
import platform
import re
import runpy
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from support.models import fit_plans
from support.models.fit_plans import facts
from support.models.shared_exports import small_graph
from support.models.small_model import CLASSES, FACTS, small_model
from support.models.small_run import small_info
from typer.testing import CliRunner

from featherseg.cli import build_app
from featherseg.core import processors
from featherseg.core.errors import (
    ConfigError,
    DataNotFound,
    FeathersegError,
    MissingExtra,
    RunError,
    UnknownName,
)
from featherseg.core.machine import machine, processor_text
from featherseg.costs import latency as engine
from featherseg.fitting import bundle
from featherseg.fitting.bundle import BundleItem, confirm, read_latency, write_bundle
from featherseg.fitting.elsewhere import bundle_candidates, bundle_chosen
from featherseg.fitting.page import fit_html
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.inference.settings import InferenceSettings
from featherseg.layers.normalise import normalise

SCRIPT = Path(bundle.__file__).parent / "bundle_files" / "measure.py"


def script_at(path):
    """Return names of measure.py with featherseg's timing engine; bundles have a copy beside it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "latency", engine)
        patched.setitem(sys.modules, "processors", processors)
        patched.setattr(sys, "path", list(sys.path))
        return runpy.run_path(str(path))


MEASURE = script_at(SCRIPT)
GRAVITON_3 = "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x1\nCPU part\t: 0xd40\n"
SIZE = (96, 128)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
NAME = "frm-lite0"  # any of the catalogue


def item(format, resizes=None, name=NAME):
    return BundleItem(small_model(), name, FACTS, resizes or {1.0: None}, format)


def torch_logits(image):
    """(5, h, w) of the padded image, (H', W')."""
    with torch.no_grad():
        model = small_model()
        out = model(
            normalise(torch.from_numpy(image)[None].permute(0, 3, 1, 2), model.mean, model.std)
        )
    return out.logits[0].numpy(), out.padded_size


def agreement(found, image, resize=None):
    """Share of the pixels that have Predictor's class."""
    runtime = TorchRuntime(small_model(), CLASSES, device="cpu")
    expected = Predictor(runtime, inference=InferenceSettings(resize=resize))(image).mask
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    return (found == expected).mean()


def measured(*rows, **changes):
    """A latency.json as measure.py writes it."""
    latency = {"p50": 12.0, "p95": 15.5, "interval": [11.8, 12.3]}
    row = {"model": NAME, "scale": 0.5, "format": "onnx", "latency_ms": latency}
    row |= {"memory_mib": 90.5, "file_mib": 12.0, "passes": 160}
    report = {
        "format_version": 1,
        "device": "a board, 4 cores, Linux",
        "threads": 4,
        "bundle": "0123456789abcdef",
    }
    report |= {
        "runtimes": {"onnx": "onnxruntime 1.31"},
        "date": "2026-11-22T10:00:00+00:00",
        "image_size": [96, 128],
    }
    return report | {"candidates": [row | r for r in rows or [{}]]} | changes


@pytest.fixture
def latency(tmp_path):
    def write(content):
        path = tmp_path / "latency.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_the_script_needs_python_3_9_and_nothing_but_numpy_and_a_runtime():
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 9))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        n
        for i in imports
        for n in ([i.module] if isinstance(i, ast.ImportFrom) else [a.name for a in i.names])
    }
    others = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert others == {"latency", "processors", "numpy", "onnxruntime", "openvino", "ncnn"}


def test_an_older_python_is_told_before_numpy_is_asked_for(monkeypatch):
    code = SCRIPT.read_text(encoding="utf-8")
    ast.parse(code, feature_version=(3, 6))
    assert "from __future__" not in code  # where 3.6 would stop, before any line of it runs
    monkeypatch.setattr(sys, "version_info", (3, 8, 18))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(SystemExit, match=r"needs Python 3\.9 or newer, and this is 3\."):
        runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize("size", [(48, 64), (72, 97), (96, 128), (131, 200), (1, 1)])
def test_images_are_resized_as_torch_does_it_within_a_rounding(size):
    values = torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float()
    expected = (
        torch.nn.functional.interpolate(values, size, mode="bilinear")[0].permute(1, 2, 0).numpy()
    )
    found = MEASURE["resize_image"](IMAGE, size)
    assert found.dtype == np.uint8
    assert (
        np.abs(found - expected).max() <= 2
    )  # each side: half a level, and half a step of the share


def test_masks_are_enlarged_to_the_nearest_place():
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(mask)[None, None], (7, 9), mode="nearest-exact"
    )
    assert np.array_equal(MEASURE["resize_mask"](mask, (7, 9)), expected[0, 0].numpy())


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("size", "crop"), [((96, 128), (96, 128)), ((97, 61), (91, 61)), ((64, 40), (33, 40))]
)
def test_logits_become_the_mask_of_torch_s_interpolation(size, crop, align_corners):
    logits = np.random.default_rng(1).normal(size=(5, 24, 32)).astype(np.float32)
    logits[4] = logits[0]  # of equals the lowest
    full = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], size, mode="bilinear", align_corners=align_corners
    )[0, :, : crop[0], : crop[1]].numpy()
    found = MEASURE["mask_of_logits"](logits, size, align_corners, crop)
    assert found.shape == crop
    assert found.max() <= 3
    assert (full.max(0) - np.take_along_axis(full, found[None].astype(int), 0)[0]).max() <= 1e-5


@pytest.mark.parametrize(
    ("height", "width"), [(96, 128), (93, 121)]
)  # the second is padded to multiples of 8
def test_masks_of_logits_are_predictor_s(height, width):
    image = IMAGE[:height, :width]
    logits, padded = torch_logits(image)
    found = MEASURE["mask_of_padded"](logits, padded, (height, width), (height, width), False)
    assert agreement(found, image) > 0.9999


def test_masks_of_an_image_that_was_resized_and_padded_are_nearly_predictor_s():
    smooth = np.linspace(0, 255, 96 * 128 * 3).reshape(96, 128, 3).astype(np.uint8)
    small = MEASURE["resize_image"](smooth, (69, 92))
    logits, padded = torch_logits(small)
    assert padded == (72, 96)
    found = MEASURE["mask_of_padded"](logits, padded, (69, 92), SIZE, False)
    assert agreement(found, smooth, (69, 92)) > 0.97  # Predictor's resize is antialiased


def unpack(folder, candidates, **others):
    """A bundle as it lies on the device."""
    np.save(folder / "image.npy", IMAGE)
    rows = {
        "format_version": 1,
        "id": "0123456789abcdef",
        "image_size": SIZE,
        "candidates": candidates,
    } | others
    (folder / "bundle.json").write_text(json.dumps(rows))
    for script in bundle.SCRIPTS:
        (folder / script.name).write_bytes(script.read_bytes())


def test_a_script_without_its_engine_says_that_the_bundle_is_not_whole(tmp_path):
    (tmp_path / "measure.py").write_bytes(SCRIPT.read_bytes())
    done = run_script(tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "No module named 'latency'. Unpack the whole bundle" in done.stderr


def run_script(folder, *arguments, python=sys.executable, environment=None):
    command = [python, str(folder / "measure.py"), "--threads", "1", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder.parent, env=environment
    )


@pytest.mark.seconds
def test_a_candidate_that_fails_is_told_and_the_others_go_on_and_are_kept(
    tmp_path, tmp_path_factory
):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "good.onnx").write_bytes(small_graph(tmp_path_factory, masks=True))
    (folder / "broken.onnx").write_bytes(b"no graph")
    row = {"model": NAME, "format": "onnx", "input_size": SIZE, "files": ["good.onnx"]}
    (folder / "openvino.py").write_text("raise ImportError('no such library on this device')\n")
    rows = [
        row | {"scale": 2.0, "files": ["broken.onnx"]},
        row | {"scale": 0.5, "input_size": [48, 64]},
    ]
    unpack(folder, [*rows, row | {"scale": 1.0, "format": "openvino"}])

    done = run_script(folder)
    assert done.returncode == 0, done.stderr
    assert "at 2, onnx: skipped, it failed: " in done.stdout
    assert (
        "at 1, openvino: skipped, it failed: ImportError: no such library on this device"
        in done.stdout
    )
    found = read_latency(folder / "latency.json")
    (only,) = found.candidates
    assert (only.model, only.scale, only.format) == (NAME, 0.5, "onnx")
    assert (found.threads, found.image_size, found.bundle) == (1, SIZE, "0123456789abcdef")
    assert found.runtimes == {"onnx": f"onnxruntime {version('onnxruntime')}"}
    assert 20 <= only.passes <= 200
    assert only.file_mib == pytest.approx((folder / "good.onnx").stat().st_size / 2**20, abs=1e-3)

    before = (folder / "latency.json").read_bytes()
    unpack(folder, rows[1:])
    assert "measured before" in run_script(folder).stdout
    assert (folder / "latency.json").read_bytes() == before


@pytest.fixture
def device(tmp_path):
    """measure.py for two instant candidates: threads -> (exit status, numbers of the measured)."""
    row = {"model": NAME, "format": "onnx", "input_size": SIZE, "files": ["a.onnx"]}
    unpack(tmp_path, [row | {"scale": 0.5}, row | {"scale": 1.0}])
    script = script_at(tmp_path / "measure.py")
    asked, bundle = [], json.loads((tmp_path / "bundle.json").read_text())

    def measure_apart(number, threads):
        asked.append(number)
        return measured()["candidates"][0] | {
            "scale": bundle["candidates"][number]["scale"],
            "runtime": "onnxruntime 1",
            "run_queue_wait": (1.0, 1.6)[number],
        }

    script["measure_all"].__globals__["measure_apart"] = measure_apart

    def run(threads):
        asked.clear()
        return script["measure_all"](bundle, threads, str(tmp_path / "latency.json")), list(asked)

    return run


def test_a_timing_that_other_programs_disturbed_is_told(device, capsys):
    assert device(1) == (0, [0, 1])
    disturbed = "at 1, onnx: other programs were running, passes took 1.6 times as long"
    assert [line for line in capsys.readouterr().out.splitlines() if "other programs" in line] == [
        f"[2/2] {NAME} {disturbed}"
    ]


@pytest.mark.skipif(
    platform.machine() != "x86_64", reason="boards are named by what their maker calls them"
)
def test_generations_of_a_processor_that_virtual_machines_give_one_name_are_told_apart():
    here = processor_text(machine())
    assert re.search(r" \(family \d+, model \d+\)$", here)
    assert MEASURE["describe_device"]().startswith(f"{here}, ")


def test_an_arm_server_is_named_by_its_cores_because_the_system_gives_numbers(monkeypatch):
    names = MEASURE["describe_device"].__globals__
    monkeypatch.setitem(names, "read_cpuinfo", lambda: GRAVITON_3)
    monkeypatch.setattr(processors, "read_cpuinfo", lambda: GRAVITON_3)
    assert MEASURE["describe_device"]().startswith("ARM Neoverse-V1, ")


def test_the_answer_of_other_threads_or_of_another_device_is_kept_beside_the_new_one(
    device, tmp_path, capsys
):
    file = tmp_path / "latency.json"
    assert device(4) == (0, [0, 1])
    of_four = file.read_bytes()
    assert device(1) == (0, [0, 1])
    assert "(4 threads) is kept as latency-4-threads.json" in capsys.readouterr().out
    assert (tmp_path / "latency-4-threads.json").read_bytes() == of_four
    assert device(1) == (0, [])
    assert [row.scale for row in read_latency(file).candidates] == [0.5, 1.0]

    file.write_bytes(of_four)
    assert device(1) == (0, [0, 1])
    file.write_text(json.dumps(json.loads(of_four) | {"threads": 1, "device": "a board"}))
    assert device(1) == (0, [0, 1])
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bundle": "f" * 16}))
    assert device(1) == (0, [0, 1])
    aside = {path.name for path in tmp_path.glob("latency-*.json")}
    assert aside == {
        f"latency-{of}.json" for of in ("4-threads", "4-threads-2", "other-device", "other-bundle")
    }


@pytest.mark.parametrize(
    "change",
    [
        {"candidates": [{"model": NAME}]},
        {"candidates": 3},
        {"candidates": [{}]},
        {"runtimes": 1},
        {"threads": math.inf},
        None,
    ],
)
def test_a_latency_json_that_is_broken_is_kept_aside_and_measured_anew(
    device, tmp_path, capsys, change
):
    assert device(1)[0] == 0
    broken = (
        "{"
        if change is None
        else json.dumps(json.loads((tmp_path / "latency.json").read_text()) | change)
    )
    (tmp_path / "latency.json").write_text(broken)
    assert device(1) == (0, [0, 1])
    assert "(unreadable) is kept as latency-unreadable.json" in capsys.readouterr().out
    assert (tmp_path / "latency-unreadable.json").read_text() == broken
    assert len(read_latency(tmp_path / "latency.json").candidates) == 2


@pytest.mark.parametrize("name", ["latency.json", "latency.json.tmp"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(device, tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(
        SystemExit,
        match=r"latency\.json cannot be written \(.*\)\. Make room, or unpack the bundle",
    ):
        device(1)
    unpack(tmp_path, json.loads((tmp_path / "bundle.json").read_text())["candidates"])
    done = run_script(tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "[1/2]" not in done.stdout


@pytest.mark.seconds
def test_masks_of_the_files_are_predictor_s(tmp_path, tmp_path_factory):
    pytest.importorskip("pnnx")
    write_bundle(tmp_path / "b.zip", [item("ncnn")], IMAGE)
    with ZipFile(tmp_path / "b.zip") as archive:
        archive.extractall(tmp_path)
    (ncnn,) = json.loads((tmp_path / "bundle.json").read_text())["candidates"]
    (tmp_path / "a.onnx").write_bytes(small_graph(tmp_path_factory, masks=True))
    onnx = {"format": "onnx", "files": ["a.onnx"], "input_size": SIZE}
    for candidate in (ncnn, onnx):
        predict, _ = MEASURE["open_candidate"](candidate, str(tmp_path), 1)
        assert agreement(predict(IMAGE), IMAGE) > 0.9999


def test_a_format_that_no_script_runs_is_refused_before_any_work(tmp_path):
    with pytest.raises(
        ConfigError, match="--format litert: another device measures onnx, openvino, ncnn alone"
    ):
        write_bundle(tmp_path / "b.zip", [item("onnx"), item("litert")], IMAGE)


@pytest.mark.parametrize("size", [(31, 64), (999_999, 999_999), (2**16, 2**16)])
def test_a_size_that_fit_would_refuse_is_refused_before_the_bundle(size, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"image_size = \d+x\d+: .* from 32 pixels on, and at most 178,956,970 pixels",
    ):
        bundle_candidates(tmp_path / "b.zip", image_size=size)
    assert not list(tmp_path.iterdir())


def test_a_data_root_without_data_is_refused(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"--data-root .* has no effect without --data\. Add --data, or leave",
    ):
        bundle_candidates(tmp_path / "b.zip", data_root=tmp_path)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pnnx", None)
    with pytest.raises(MissingExtra, match=r"featherseg\[ncnn\]"):
        write_bundle(tmp_path / "b.zip", [item("ncnn")], IMAGE)


@pytest.mark.parametrize("image", [IMAGE[..., :1], IMAGE[..., 0], IMAGE.astype(np.uint16)])
def test_an_image_of_another_form_is_refused(image, tmp_path):
    with pytest.raises(ConfigError, match=r"expects \(H, W, 3\) uint8"):
        write_bundle(tmp_path / "b.zip", [item("onnx")], image)


def test_a_name_that_would_lead_out_of_the_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="to name files"):
        write_bundle(tmp_path / "b.zip", [item("onnx", name="../../a")], IMAGE)


ONE = measured()["candidates"][0]["latency_ms"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "nested too deeply"),
        (" " * (2**22 + 1), "more than 4,194,304 bytes"),
        ("[]", "no format_version"),
        ('{"format_version": 1}', "key 'device' is missing"),
        (measured(format_version=2), r"of a bundle of format 2; this featherseg .* reads 1"),
        (measured(format_version=True), "no format_version"),
        (measured(threads=0), "threads = 0"),
        (measured(threads="4"), "threads = '4'"),
        (measured(bundle="../x"), "bundle = "),
        (measured(image_size=[10**9, 10**9]), "image_size"),
        (measured(image_size=[0, 5]), "image_size"),
        (measured(device=""), "device = "),
        (measured(device="x" * 301), "device = "),
        (measured(candidates=[]), "candidates = "),
        (measured(extra=1), "unknown key 'extra'"),
        (measured({"scale": 0}), r"candidates\.0\.scale = 0"),
        (measured({"format": "torch"}), "'torch'"),
        (measured({"passes": 1.5}), "passes = 1.5"),
        (measured({"file_mib": -1}), "file_mib = -1"),
        (measured({"memory_mib": 1e300}), r"memory_mib = 1e\+300"),
        (measured({"latency_ms": ONE | {"p50": float("nan")}}), "p50"),
        (measured({"latency_ms": ONE | {"p95": float("inf")}}), "p95"),
        (measured({"latency_ms": ONE | {"p50": 0}}), "p50 = 0"),
        (measured({"latency_ms": ONE | {"p50": 13.0}}), "within its interval"),
        (measured({"latency_ms": ONE | {"p95": 11.9}}), "not above p95"),
        (measured({}, {}), "listed twice"),
        (measured({"scale": 1.0}, {"scale": 1.0000001}), "frm-lite0 at 1, onnx is listed twice"),
    ],
)
def test_a_latency_json_that_cannot_be_right_is_refused_in_a_sentence(content, expected, latency):
    with pytest.raises(ConfigError, match=expected) as error:
        read_latency(latency(content))
    assert "\n" not in str(error.value)
    assert str(error.value).count("measure.py") or "--measure" in str(error.value)


def test_a_model_that_featherseg_does_not_know_is_named(latency):
    with pytest.raises(UnknownName, match=r"unknown model 'frm-lite00'\. Did you mean 'frm-lite0'"):
        read_latency(latency(measured({"model": "frm-lite00"})))


def test_a_file_that_is_not_there_says_who_writes_it(tmp_path):
    with pytest.raises(DataNotFound, match=r"python measure\.py"):
        read_latency(tmp_path / "latency.json")


def test_the_device_s_name_steers_no_terminal(latency):
    assert read_latency(latency(measured(device="a\x1b[2J\nb"))).device == r"a\x1b[2J\nb"


@pytest.fixture
def fitted(tmp_path):
    def write(percentile=50, limit=13.0, **more):
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        known = {
            "threads": 4,
            "limit_ms": limit,
            "percentile": percentile,
            "candidates": [],
            "max_mib": None,
        }
        known |= {"bundle": "0123456789abcdef", "image_size": [96, 128]}
        content = facts() | known
        content["chosen"] |= {"model": NAME, "scale": 0.5}
        (run / "fit.json").write_text(json.dumps(content | more))
        return run

    return write


@pytest.mark.parametrize(
    ("percentile", "limit", "keeps"), [(50, 12.0, True), (50, 11.99, False), (95, 13.0, False)]
)
def test_confirm_tells_in_fit_json_whether_the_device_keeps_the_limit(
    fitted, latency, percentile, limit, keeps
):
    run = fitted(percentile, limit)
    before = json.loads((run / "fit.json").read_text())
    found = confirm(run, latency(measured({"scale": 1.0}, {})))
    expected = {
        "device": "a board, 4 cores, Linux",
        "threads": 4,
        "latency_ms": ONE,
        "memory_mib": 90.5,
    }
    assert found == expected | {"keeps_limit": keeps}
    assert json.loads((run / "fit.json").read_text()) == before | {"confirmed": found}


@pytest.mark.parametrize(
    ("most", "memory", "keeps"), [(90.5, 90.5, True), (50, 90.5, False), (50, None, True)]
)
def test_confirm_holds_the_memory_against_its_limit(fitted, latency, most, memory, keeps):
    run = fitted(max_mib=most)
    answer = latency(measured({"memory_mib": memory}))
    assert confirm(run, answer)["keeps_limit"] == keeps
    done = CliRunner().invoke(build_app(), ["fit", "--confirm", str(answer), "--out", str(run)])
    assert done.exit_code == (0 if keeps else 1)
    assert f"{memory or '?'} MiB, limit {most:g}" in done.stdout


@pytest.mark.parametrize("other", [{"scale": 0.75}, {"format": "ncnn"}, {"model": "rsp-lite0"}])
def test_confirm_takes_exactly_what_was_delivered(fitted, latency, other):
    run = fitted()
    before = (run / "fit.json").read_bytes()
    with pytest.raises(ConfigError, match=r"does not contain frm-lite0 at 0\.5, onnx"):
        confirm(run, latency(measured(other)))
    assert (run / "fit.json").read_bytes() == before


def test_confirm_takes_no_answer_of_the_candidates_before_the_training(fitted, latency):
    run, answer = fitted(), latency(measured({"scale": 1.0}, {}))
    content = json.loads((run / "fit.json").read_text())
    (run / "fit.json").write_text(json.dumps(content | {"bundle": "f" * 16}))
    with pytest.raises(ConfigError, match="is of another bundle than the delivered model"):
        confirm(run, answer)
    (run / "fit.json").write_text(json.dumps(content | {"bundle": read_latency(answer).bundle}))
    assert confirm(run, answer)["keeps_limit"]


def test_confirm_certifies_nothing_of_a_fit_that_was_timed_here_or_of_images_of_another_size(
    fitted, latency
):
    run, answer = fitted(), latency(measured())
    content = json.loads((run / "fit.json").read_text())
    for other, message in (
        (
            {"bundle": None},
            r"timed on the machine that trained it: "
            r"there is no measure\.zip to confirm\. .* --measure",
        ),
        (
            {"image_size": [720, 1280]},
            r"images of 96x128, .*fit\.json of 720x1280\. Run the measure\.py",
        ),
    ):
        (run / "fit.json").write_text(json.dumps(content | other))
        before = (run / "fit.json").read_bytes()
        with pytest.raises(ConfigError, match=message):
            confirm(run, answer)
        assert (run / "fit.json").read_bytes() == before


def test_confirm_takes_the_threads_that_the_candidates_were_measured_on_and_tells_of_another_device(
    fitted, latency
):
    run, answer = fitted(threads=2, device="a board, 4 cores, Linux 6.1"), latency(measured())
    before = (run / "fit.json").read_bytes()
    with pytest.raises(
        ConfigError,
        match=r"on 4 threads, and the candidates on 2\. Run there: python measure\.py --threads 2",
    ):
        confirm(run, answer)
    assert (run / "fit.json").read_bytes() == before
    for device, told in (("a board, 4 cores, Linux 6.1", True), ("a board, 4 cores, Linux", False)):
        fitted(threads=4, device=device)
        done = CliRunner().invoke(build_app(), ["fit", "--confirm", str(answer), "--out", str(run)])
        assert done.exit_code == 0
        assert (
            f"the candidates were measured on {device}: of another machine" in done.stdout
        ) == told


def test_the_page_tells_how_to_check_on_the_device_and_what_it_said(fitted, latency):
    chosen = fit_plans.facts()["chosen"] | {"model": fit_plans.SLOW.model, "scale": 1.0}
    told, plan = {**fit_plans.facts(), "chosen": chosen, "max_mib": None}, fit_plans.fit_plan()
    bundle = {"bundle": "0123456789abcdef"}
    here = " ".join(fit_html(told, {}, plan.schedule).split())
    assert "measured with Predictor on" in here
    assert "the delivered file was timed again" in here
    assert "--confirm" not in here
    there = " ".join(fit_html(told | bundle, {}, plan.schedule).split())
    assert "measured with the measure.py of the bundle on" in there
    assert "timed again" not in there
    assert "python measure.py --threads 2<" in there
    assert "featherseg fit --confirm latency.json --out RUN<" in there

    # The answer stands on the page
    run = fitted(**told | bundle | {"image_size": [96, 128]})
    plan.write(run)
    answer = measured(
        {"model": chosen["model"], "scale": 1.0, "latency_ms": ONE | {"p50": 12.1}}, threads=2
    )
    confirm(run, latency(answer))
    page = " ".join((run / "fit.html").read_text().split())
    assert (
        "measured on a board, 4 cores, Linux, 2 threads: "
        "12.1 ms and 90 MiB there, which keeps the limit" in page
    )
    assert "--confirm" not in page


@pytest.mark.seconds
def test_the_delivered_bundle_says_how_its_answer_goes_back(tmp_path):
    info = small_info(CLASSES)
    run = SimpleNamespace(
        path=tmp_path,
        model=small_model(),
        recipe=info.recipe,
        info=info,
        classes=CLASSES,
        licence="MIT",
        init=None,
        imported="x.pth",
    )
    id = bundle_chosen(tmp_path / "measure.zip", run, 0.5, "onnx", IMAGE, 3)
    write_bundle(tmp_path / "bundle.zip", [item("onnx")], IMAGE)
    readme, others = (
        ZipFile(tmp_path / f"{name}.zip").read("README.txt").decode()
        for name in ("measure", "bundle")
    )
    assert all(
        "pip install numpy onnxruntime     (Python 3.9 or newer)\n" in text
        for text in (readme, others)
    )
    assert "python measure.py --threads 3 " in readme
    assert "featherseg fit --confirm latency.json --out RUN" in readme
    assert "--latency" not in readme
    assert "featherseg fit --latency latency.json" in others
    assert "--confirm" not in others
    assert json.loads(ZipFile(tmp_path / "measure.zip").read("bundle.json"))["id"] == id


@pytest.mark.parametrize(
    "content", [None, "", "[]", "{}", '{"chosen": 3, "limit_ms": 1, "percentile": 50}']
)
def test_confirm_refuses_a_folder_that_fit_did_not_write(content, fitted, latency):
    run = fitted()
    (run / "fit.json").unlink()
    if content is not None:
        (run / "fit.json").write_text(content)
    with pytest.raises(RunError, match=r"fit\.json .*expected"):
        confirm(run, latency(measured()))


def test_confirm_writes_through_no_link(fitted, latency, tmp_path):
    run = fitted()
    os.replace(run / "fit.json", tmp_path / "elsewhere.json")
    (run / "fit.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(FeathersegError, match="symbolic link"):
        confirm(run, latency(measured()))


@pytest.mark.slow
def test_a_device_without_torch_measures_all_three_formats(tmp_path):
    pytest.importorskip("pnnx")
    resizes = {0.5: (48, 64), 1.0: None}
    items = [item(format, resizes) for format in ("onnx", "openvino", "ncnn")]
    assert write_bundle(tmp_path / "bundle.zip", items, IMAGE) == []
    folder = tmp_path / "device"
    with ZipFile(tmp_path / "bundle.zip") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        archive.extractall(folder)

    # A second environment, as on the device
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    packages = [f"{name}=={version(name)}" for name in ("numpy", "onnxruntime", "openvino", "ncnn")]
    pip = subprocess.run(
        [python, "-m", "pip", "install", "-q", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    if pip.returncode:
        pytest.skip(f"no packages for a second environment: {pip.stderr.strip().splitlines()[-1:]}")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    absent = "import importlib.util as u, sys; "
    absent += "sys.exit(any(u.find_spec(n) for n in ('torch', 'featherseg')))"
    subprocess.run([python, "-c", absent], check=True, env=environment)

    done = run_script(folder, python=python, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_latency(folder / "latency.json")
    rows = [(row.scale, row.format) for row in found.candidates]
    assert rows == [
        (scale, format) for format in ("onnx", "openvino", "ncnn") for scale in (0.5, 1.0)
    ], done.stdout
    assert set(found.runtimes) == {"onnx", "openvino", "ncnn"}
    assert found.bundle == json.loads((folder / "bundle.json").read_text())["id"]
    torch_is_larger = 300  # MiB
    assert all(
        row.memory_mib is None or row.memory_mib < torch_is_larger for row in found.candidates
    )
