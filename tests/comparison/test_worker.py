"""The real worker, in this process: what it answers, and that its builds are the same model."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models.three_layers import CLASSES, three_layers
from support.processes.fake_benchmark_worker import STAGES

from featherseg import models
from featherseg.comparison import worker as benchmark_worker
from featherseg.comparison.benchmark_images import write_images
from featherseg.comparison.builds import (
    TORCH_BUILDS,
    BuildRuntime,
    GraphReplay,
    pointwise_by_onednn,
)
from featherseg.comparison.worker import TimedModel, precision_of, serve
from featherseg.costs.latency import ALIKE_LEAST, ALIKE_MOST
from featherseg.inference.drawing import save_index_png
from featherseg.inference.masks import predict_mask
from featherseg.inference.runtimes.pytorch import TorchRuntime

SIZE = (40, 56)


@pytest.fixture(autouse=True)
def _malloc_as_it_is(monkeypatch):
    monkeypatch.setattr(benchmark_worker, "keep_freed_memory", lambda: False)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    return [str(file) for file in write_images(folder, SIZE, 3, 1, None).files]


def answers(*commands: dict) -> list[dict]:
    """What a worker answers to these commands, one after the other."""
    said = StringIO()
    serve(iter(json.dumps(command) for command in commands), said)
    return [json.loads(line) for line in said.getvalue().splitlines()]


def opening(build: str, source: str = "frm-lite0") -> dict:
    threads = torch.get_num_threads()
    return {
        "do": "open", "threads": threads, "device": "cpu",
        "allocator": TORCH_BUILDS[build].allocator,
        "source": source, "build": build, "file": None,
    }  # fmt: skip


def looked(build: str, files: list[str], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    to = folder / f"{build}.npz"
    assert answers(opening(build), {"do": "outputs", "files": files, "to": str(to)})[1] == {}
    with np.load(to) as found:
        return found["logits"], found["masks"]


@pytest.mark.seconds
def test_a_turn_times_every_stage_by_both_clocks_after_a_warm_up(files):
    opened, prepared, turn, memory = answers(
        opening("eager"), {"do": "prepare", "files": files[:1]}, {"do": "turn"}, {"do": "memory"}
    )
    assert opened["classes"] == [f"class_{i}" for i in range(19)]
    assert (opened["precision"], opened["device"]) == ("fp32", "cpu")
    assert ALIKE_LEAST <= len(prepared["warm_up_ms"]) <= ALIKE_MOST
    assert prepared["first_ms"] > 0
    assert tuple(turn["wall"]) == tuple(turn["cpu"]) == tuple(turn["queue"]) == STAGES
    assert all(ms > 0 for ms in turn["wall"].values())
    assert memory["process_mib"] > 100
    assert memory["gpu_mib"] is None


@pytest.mark.seconds
@pytest.mark.parametrize("build", ["eager-1x1", "eager-tuned", "ours-fp32"])
def test_every_float32_form_is_the_same_model(build, files, tmp_path):
    logits, masks = looked("eager", files, tmp_path)
    found, found_masks = looked(build, files, tmp_path)
    assert logits.shape[:2] == (3, 19)
    assert masks.shape == (3, *SIZE)
    np.testing.assert_allclose(found, logits, atol=1e-5 * float(np.ptp(logits)))
    assert (found_masks == masks).mean() > 0.999


def test_eager_is_the_model_as_it_was_built(files, tmp_path):
    from featherseg.data.images.decoding import read_image
    from featherseg.layers.normalise import normalise
    from featherseg.layers.resize import to_image

    torch.manual_seed(0)
    model = models.build("frm-lite0", 19).eval()
    logits, masks = looked("eager", files[:1], tmp_path)
    pixels = torch.from_numpy(read_image(Path(files[0]))).permute(2, 0, 1)[None]
    with torch.inference_mode():
        out = model(normalise(pixels, model.mean, model.std))
    np.testing.assert_array_equal(logits, out.logits.numpy())
    np.testing.assert_array_equal(masks, to_image(out, SIZE).argmax(1).numpy())


def test_what_is_encoded_is_the_file_that_predict_writes(tmp_path):
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4) % len(CLASSES)
    save_index_png(mask, CLASSES, tmp_path / "mask.png")
    opened = TimedModel(TorchRuntime(three_layers(), CLASSES, device="cpu"), usual_masks=True)
    assert opened.encode(mask[None]) == [(tmp_path / "mask.png").read_bytes()]


def test_what_fails_is_answered_with_a_sentence_and_the_worker_goes_on():
    missing, opened = answers(opening("eager", source="/nowhere/run"), opening("eager"))
    assert missing["error"].startswith("no run folder at /nowhere/run")
    assert opened["precision"] == "fp32"


def test_the_precision_of_a_file_is_in_its_name():
    assert precision_of("a/model.int8.onnx") == "int8"
    assert precision_of("model.bf16.xml") == "bf16"
    assert precision_of("int8/model.onnx") == "fp32"


@pytest.mark.seconds
def test_images_of_any_channels_are_read_back_as_they_were_written(tmp_path):
    from featherseg.data.images.decoding import read_image

    for channels in (1, 2, 3, 4, 5):
        images = write_images(tmp_path / str(channels), (24, 32), channels, 4, None)
        assert len(images.files) == 4
        assert read_image(images.files[0], channels).shape == (24, 32, channels)


def test_forcing_onednn_replaces_the_1x1_convolutions_alone():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 4, 1, stride=2)
    )
    x = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = model(x)
        torch.testing.assert_close(pointwise_by_onednn(model)(x), wanted)
    assert ["forward" in vars(layer) for layer in model] == [True, False, True]


@pytest.mark.gpu
def test_a_cuda_graph_gives_what_its_model_gives_at_every_size():
    torch.manual_seed(0)
    model = models.build("frm-lite0", 5).eval()
    plain = BuildRuntime(model, (), TORCH_BUILDS["ours-fp32"], torch.device("cuda"))
    torch.manual_seed(0)
    graph = BuildRuntime(
        models.build("frm-lite0", 5).eval(),
        (),
        TORCH_BUILDS["ours-fp32-graph"],
        torch.device("cuda"),
    )
    assert isinstance(graph._forward, GraphReplay)
    for shape in ((1, 3, 64, 96), (8, 3, 64, 96), (1, 3, 64, 96)):
        x = torch.randn(shape, device="cuda")
        torch.testing.assert_close(graph(x).logits, plain(x).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_the_forward_is_timed_by_its_own_events(files):
    opened, _, turn, memory = answers(
        opening("ours-bf16-graph") | {"device": "cuda"},
        {"do": "prepare", "files": files[:1]},
        {"do": "turn"},
        {"do": "memory"},
    )
    assert opened["device"].startswith("cuda")
    assert 0 < turn["wall"]["forward"] < 1000
    assert memory["gpu_mib"] > 1


@pytest.mark.parametrize("fit", [(20, 28), (60, 84), (33, 47)])
@pytest.mark.parametrize("usual", [False, True])
def test_what_is_timed_sees_images_at_the_size_that_the_model_is_used_at(files, fit, usual):
    runtime = TorchRuntime(three_layers(), CLASSES, test_resize=fit, device="cpu")
    opened = TimedModel(runtime, usual, [Path(files[0])])
    _, out, masks = opened.one_pass()
    factor = min(fit[0] / SIZE[0], fit[1] / SIZE[1])
    assert out.image_size == (round(SIZE[0] * factor), round(SIZE[1] * factor))
    assert (masks[0] == predict_mask(runtime, opened.decode(opened.files)[0])).mean() > (
        0.98 if usual else 0.9999
    )
