"""Five walks through the package and what each leaves behind, to hold while the code is rearranged.

    PYTHONPATH=tests python -m support.golden.frozen_walks            # rewrite frozen_walks.json
    PYTHONPATH=tests python -m support.golden.frozen_walks --count    # print the table of the docs

A walk is a user's way: image to mask, masks to mIoU, recipe to first optimiser steps, run to ONNX
file, data to fitted model. frozen_walks.json records names of files, exit codes, keys of JSON, bits
of masks, and numbers. Texts and pages are not recorded. Review every difference when you rewrite
it: it is a change that users see.
"""

import hashlib
import inspect
import io
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.golden.golden_rule import image, tensor
from support.models.fit_plans import timing, write_yard
from support.models.small_run import small_info
from support.models.small_training import SMALL, Tiny, TinyConfig

import featherseg
from featherseg import cli
from featherseg.core.files import append_line, write_text
from featherseg.core.machine import processor
from featherseg.data import open_dataset
from featherseg.data.cache.fingerprint import Fingerprint
from featherseg.fitting.latency import Measured, Timing
from featherseg.kernels import native
from featherseg.models import MODELS
from featherseg.runs.run import CURVE, METRICS, save_weights, write_info

FILE = Path(__file__).with_suffix(".json")
PACKAGE = str(Path(featherseg.__file__).parent)

PHOTOS = {"train": (0, 2, 3, 4, 5, 6), "val": (1, 15), "test": (31, 37, 55)}
"""The seeds of the images of each split.

Those of val and test are chosen so that the two best logits of every pixel differ by at least
1.5e-4. Processors round sums differently, by about 1e-6, so masks have the same bits everywhere.
"""

TOML = """
name = "yard"
images = "images"
masks = "masks"
classes = { grass = "#800000", path = "#008000", plant = "#808000" }
[splits]
train = "train.txt"
val = "val.txt"
test = "test.txt"
[map]
0 = "grass"
1 = "path"
2 = "plant"
"""

WIDTHS = {
    "frm-lite0": 22,
    "frm-mobilenet-v2-light": 20,
    "frm-lite0-half16-light": 12,
    "frm-lite0-light": 16,
    "frm-lite2-light": 24,
    "frm-lite0-half-light": 10,
    "frm-lite2-half-light": 14,
    "frm-lite0-half-light-w32": 8,
}
"""Models of the catalogue that are Tiny in these walks, with the number of its channels."""


@dataclass
class Trace:
    """What a walk leaves behind.

    exit_codes are by what was tried, files by folder, keys by JSON document, with the kinds of
    their values. exact is equal on every machine, numbers within a tolerance. bits are digests of
    floating-point results, equal on machines of one kind (`machine_kind`).
    """

    exit_codes: dict[str, int] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    keys: dict[str, dict[str, str]] = field(default_factory=dict)
    exact: dict[str, Any] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    bits: dict[str, str] = field(default_factory=dict)


def machine_kind() -> str:
    """What the last bits of floating-point results depend on."""
    facts = processor()
    flags, threads = digest(" ".join(facts["flags"]).encode()), torch.get_num_threads()
    parts = [facts["processor"], f"flags {flags}", torch.backends.cpu.get_cpu_capability()]
    parts += [f"torch {torch.__version__}", f"{threads} threads"]
    return ", ".join([*parts, "compiled loops" if native() else "no compiled loops"])


# The walks. Each works in an empty folder.


def predict_walk(folder: Path) -> Trace:
    """Image to mask on disk, by `featherseg predict` and by `Predictor`."""
    trace, run, photos = Trace(), write_run(folder / "run", write_data(folder)), folder / "photos"
    for name, pixels in (("0.png", photo(31)), ("1.png", photo(52, (50, 70)))):
        write_image(photos / name, pixels)

    def predict(model: Path, images: Path, out: str, *options: str) -> int:
        words = ("predict", model, images, "-o", folder / out, "--device", "cpu", *options)
        return run_command(*words)[0]

    trace.exit_codes["a folder"] = predict(run, photos, "out")
    trace.exit_codes["the same again"] = predict(run, photos, "out")
    windows = ("--tta", "flip", "--window", "32x48", "--probabilities", "png")
    trace.exit_codes["windows"] = predict(run, photos / "0.png", "windows", *windows)
    (photos / "2.png").write_bytes((photos / "0.png").read_bytes()[:200])
    trace.exit_codes["a damaged image"] = predict(run, photos, "damaged", "--masks")
    trace.exit_codes["no such run"] = predict(folder / "rum", photos, "none")
    for out in ("out", "windows", "damaged"):
        trace.files[out] = file_names(folder / out)
        for path in sorted((folder / out).glob("*.png")):
            if path.stem.endswith(("_mask", "_color")):  # an overlay has text
                trace.exact[f"{out}/{path.name}"] = image_digest(path)
    trace.keys["predictions.jsonl"] = keys_of(folder / "out" / "predictions.jsonl")

    predictor = featherseg.Predictor(run, device="cpu")
    trace.exact["Predictor"] = array_digest(predictor(photo(31)).mask)
    predictions = predictor([photo(52, (50, 70)), photos / "0.png"])
    trace.exact["Predictor, a list"] = [array_digest(one.mask) for one in predictions]
    return trace


def evaluate_walk(folder: Path) -> Trace:
    """Masks to mIoU, by `featherseg evaluate --json`, of a run and of a folder of masks."""
    data = write_data(folder)
    trace, run = Trace(), write_run(folder / "run", data)
    masks = folder / "masks"
    images = [data.parent / f"images/{seed}.png" for seed in PHOTOS["test"]]
    for name, words in {
        "test": (run, "--split", "test", "--device", "cpu"),
        "val": (run, "--split", "val", "--device", "cpu"),
        "masks": ("--predictions", masks, "--data", data, "--split", "test"),
    }.items():
        if name == "masks":
            run_command("predict", run, *images, "-o", masks, "--masks", "--device", "cpu")
        trace.exit_codes[name], text = run_command("evaluate", *words, "--json")
        scores = json.loads(text)
        trace.keys[f"{name} --json"] = keys_of(scores)
        trace.exact[f"{name}: confusion"] = scores["confusion"]
        trace.numbers[name] = {key: scores[key] for key in ("miou", "iou", "pixel_accuracy")}
    trace.exit_codes["no such data"] = run_command("evaluate", run, "--data", folder / "none")[0]
    trace.files["run"] = file_names(run)
    for name in ("scores.json", "evaluations.jsonl"):
        trace.keys[name] = keys_of(run / name)
    return trace


def train_walk(folder: Path) -> Trace:
    """Recipe to the first two optimiser steps, by `featherseg train`."""
    trace, data, out = Trace(), write_data(folder), folder / "run"
    lengths = ("train.epochs=1", "data.train_size=6", "train.seed=1")  # two steps of four images
    settings = [word for setting in (*SMALL, *lengths) for word in ("--set", setting)]
    words = ("train", "frm-lite0", "--data", data, *settings, "--device", "cpu", "-o", out)
    trace.exit_codes["a new run"] = run_command(*words)[0]
    trace.exit_codes["the folder exists"] = run_command(*words)[0]
    trace.exit_codes["resume a finished run"] = run_command("train", "--resume", "-o", out)[0]
    words = ("train", "frm-lite9", "--data", data, "-o", folder / "none")
    trace.exit_codes["no such recipe"] = run_command(*words)[0]
    trace.files["run"] = file_names(out)
    for name in ("resolved.json", "environment.json", "metrics.jsonl", "data.json"):
        trace.keys[name] = keys_of(out / name)
    # by the machine, the checkout, and what the process did before
    for path in ("gpus", "commit", "memory_gb.measured"):
        trace.keys["environment.json"].pop(path, None)
    recipe = read_json(out / "resolved.json")["recipe"]
    trace.exact["recipe"] = {name: table for name, table in recipe.items() if name != "data"}
    steps = [record for record in read_lines(out / METRICS) if "loss" in record]
    trace.numbers["steps"] = [{key: record[key] for key in ("loss", "lr")} for record in steps]
    weights = [value for _, value in sorted(load_file(out / "weights.safetensors").items())]
    trace.numbers["means"] = [value.double().mean().item() for value in weights]
    trace.numbers["squares"] = [value.double().square().mean().item() for value in weights]
    trace.bits["weights"] = digest(b"".join(value.numpy().tobytes() for value in weights))
    return trace


def export_walk(folder: Path) -> Trace:
    """Run to ONNX file, by `featherseg export`."""
    import onnxruntime

    trace, run = Trace(), write_run(folder / "run", write_data(folder))
    trace.exit_codes["onnx"] = run_command("export", run, "--format", "onnx")[0]
    trace.exit_codes["no such format"] = run_command("export", run, "--format", "onx")[0]
    trace.files["run"] = file_names(run)
    trace.keys["parity.json"] = keys_of(run / "parity.json")
    file = run / "export" / "model.onnx"
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for port in (*session.get_inputs(), *session.get_outputs()):
        shape = [side if isinstance(side, int) else "open" for side in port.shape]
        trace.exact[port.name] = [port.type, shape]
    trace.exact["metadata"] = sorted(session.get_modelmeta().custom_metadata_map)
    logits = session.run(None, {"images": image("walks", (1, 3, 48, 64))})[0]
    trace.exact["logits shape"] = list(logits.shape)
    trace.numbers["logits"] = logits.ravel()[:: logits.size // 32].tolist()
    trace.exact["mask"] = array_digest(featherseg.Predictor(file)(photo(31)).mask)
    return trace


def fit_walk(folder: Path) -> Trace:
    """Data to the delivered model, by `featherseg fit`, on a machine that is simulated."""
    trace, out = Trace(), folder / "out"
    data = write_yard(folder / "yard", 30, "train = 1.0")  # val and test are cut from it
    with simulated_fit():
        words = ("fit", "--data", data, "--hours", "0.3", "--device", "cpu", "--max-ms")
        trace.exit_codes["a new fit"] = run_command(*words, "20", "-o", out)[0]
        trace.exit_codes["resume a finished fit"] = run_command("fit", "--resume", "-o", out)[0]
        trace.exit_codes["show"] = run_command("fit", "--show", "-o", out)[0]
        trace.exit_codes["a limit of 1 ms"] = run_command(*words, "1", "-o", folder / "none")[0]
        trace.exit_codes["no limit"] = run_command("fit", "--data", data, "-o", folder / "none")[0]
    trace.files["out"] = file_names(out)
    for name in ("plan.json", "fit.json", "spent.json", "parity.json"):
        trace.keys[name] = keys_of(out / name)
    facts, plan = read_json(out / "fit.json"), read_json(out / "plan.json")
    for key in ("model", "scale", "format", "latency_ms", "trained_scale", "timings_ms"):
        trace.exact[f"chosen.{key}"] = facts["chosen"][key]
    for key in ("limit_ms", "image_size", "file", "steps", "decay_steps", "limit_kept", "seconds"):
        trace.exact[key] = facts[key]
    rows = facts["candidates"]
    trace.exact["candidates"] = [[row["model"], row["scale"], row["miou_val"]] for row in rows]
    trace.exact |= {key: plan[key] for key in ("rungs", "final", "finals")}
    trace.numbers["scores"] = {key: facts["chosen"][key] for key in ("miou_val", "miou_test")}
    trace.exact["weights"] = digest((out / "weights.safetensors").read_bytes())
    return trace


WALKS: dict[str, Callable[[Path], Trace]] = {
    "predict": predict_walk,
    "evaluate": evaluate_walk,
    "train": train_walk,
    "export": export_walk,
    "fit": fit_walk,
}


def walk(name: str, folder: Path) -> Trace:
    """What a walk of tiny models leaves behind in an empty folder. Random states are restored."""
    with tiny_catalogue(), torch.random.fork_rng([]):
        return WALKS[name](folder)


# What they need


@contextmanager
def tiny_catalogue() -> Iterator[None]:
    """The models of WIDTHS have nine layers."""
    with pytest.MonkeyPatch.context() as patched:
        for name, channels in WIDTHS.items():
            config = TinyConfig(channels=channels)
            model = lambda _, classes, config=config: Tiny(config, classes)  # noqa: E731
            patched.setitem(MODELS, name, replace(MODELS[name], model=model))
        yield


def run_command(*words: object) -> tuple[int, str]:
    """Run `featherseg WORDS...` in this process; -> (exit code, what it printed to stdout)."""
    logger, printed, errors = logging.getLogger("featherseg"), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(printed), redirect_stderr(errors):
        patched.setattr(sys, "argv", ["featherseg", *map(str, words)])
        patched.setattr(logger, "handlers", logger.handlers)  # main replaces them
        with pytest.raises(SystemExit) as ended:
            cli.main()
    if ended.value.code:
        sys.stderr.write(errors.getvalue())  # pytest shows it when a walk fails
    return int(ended.value.code or 0), printed.getvalue()


def write_data(folder: Path) -> Path:
    """The dataset.toml of the images of PHOTOS. A pixel's class is its strongest channel."""
    for split, seeds in PHOTOS.items():
        for seed in seeds:
            pixels = photo(seed)
            write_image(folder / f"yard/images/{seed}.png", pixels)
            write_image(folder / f"yard/masks/{seed}.png", pixels.argmax(axis=2).astype(np.uint8))
        write_text(folder / "yard" / f"{split}.txt", "".join(f"{seed}\n" for seed in seeds))
    write_text(folder / "yard" / "dataset.toml", TOML)
    return folder / "yard" / "dataset.toml"


def write_run(folder: Path, data: Path) -> Path:
    """A run folder of a tiny frm-lite0 for this dataset, whose weights follow from their names."""
    folder.mkdir()
    info = small_info(open_dataset(str(data), "val").classes, data={"name": str(data)})
    write_info(folder, info)
    save_weights(folder, named_weights("frm-lite0", len(info.classes)))
    return folder


def named_weights(model: str, classes: int) -> dict[str, torch.Tensor]:
    """The state of a tiny model in numbers that are the same on every machine."""
    state = Tiny(TinyConfig(channels=WIDTHS[model]), classes).state_dict()
    kinds = {"running_mean": "mean", "running_var": "var", "bias": "bias"}
    kinds["num_batches_tracked"] = "count"
    for key, value in state.items():
        leaf = key.rpartition(".")[2]
        kind = kinds.get(leaf, "weight" if value.dim() > 1 else "norm_weight")
        state[key] = torch.from_numpy(tensor(key, tuple(value.shape), kind))
    return state


def photo(seed: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """(H, W, 3) uint8: blocks of 8 pixels under noise, the same on every machine."""
    rng = np.random.Generator(np.random.PCG64(seed))
    blocks = rng.integers(0, 200, (-(-size[0] // 8), -(-size[1] // 8), 3)).repeat(8, 0).repeat(8, 1)
    return (blocks[: size[0], : size[1]] + rng.integers(0, 56, (*size, 3))).astype(np.uint8)


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


class Clock:
    """In the place of `time`: seconds that pass when a simulation adds them."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@contextmanager
def simulated_fit() -> Iterator[None]:
    """Trainings take no time: by a simulated clock a step takes 0.1 s, timing a candidate 10 s."""
    from featherseg.fitting import beginning, candidates, delivery, feasible, trials, watch
    from featherseg.fitting import fit as session
    from featherseg.training.request import Request

    clock = Clock()

    def time_file(file: Path, image: np.ndarray, name: tuple[str, float, str]) -> Timing:
        clock.now += 2.0
        model, scale, _ = name
        return timing(model, scale, 0.85 * WIDTHS[model] * scale**1.5)

    def time_candidate(name: tuple[str, float, str], *_: Any) -> Measured:
        clock.now += 8.0
        return Measured(time_file(Path(), np.empty(0), name), 10.0)

    def train(request: Request, folder: Path, reporter: Any, *, resume: bool) -> None:
        _, recipe = request.read()
        name, root = recipe.model.name, recipe.data.root and Path(recipe.data.root)
        records = read_lines(folder / METRICS) if (folder / METRICS).is_file() else []
        first = max((record["step"] for record in records), default=0) + 1
        if first == 1:
            folder.mkdir(parents=True, exist_ok=True)
            splits = ("train", "val")
            data = {split: open_dataset(recipe.data.name, split, root) for split in splits}
            classes = data["val"].classes
            info = small_info(classes, model=name)
            write_info(folder, info.model_copy(update={"recipe": recipe}))
            save_weights(folder, named_weights(name, len(classes)))
            write_text(folder / CURVE, "")
            Fingerprint.of(data).save(folder / "data.json")
        clock.now += 3.0
        for step in range(first, recipe.train.steps + 1):
            clock.now += 0.1
            reporter.step(step, recipe.train.steps, {"loss": 1.0})
            if request.ends(step):
                break
        size = recipe.augment.resize[0] if recipe.augment.resize else 64
        score = 0.5 + 0.01 * WIDTHS[name] + 0.001 * size * (1 - 1 / step)
        append_line(folder / METRICS, {"step": step, "loss": 1.0, "val_miou": round(score, 4)})

    with pytest.MonkeyPatch.context() as patched:
        for name, module in list(sys.modules.items()):
            if name.startswith("featherseg.fitting.") and getattr(module, "time", None) is time:
                patched.setattr(module, "time", clock)
        patched.setattr(session, "command_began", clock.monotonic)
        for module in (beginning, candidates):
            patched.setattr(module, "has_weights", lambda model: False)
        patched.setattr(beginning, "time_candidate", time_candidate)
        patched.setattr(beginning, "time_step", lambda *given: 0.1)
        patched.setattr(beginning, "time_validation", lambda *given: (0.0, 0.01))
        patched.setattr(beginning, "mask_seconds", lambda data: 0.0)
        patched.setattr(feasible, "guess_speed", lambda: 1e-9)
        for module in (delivery, watch):
            patched.setattr(module, "time_file", time_file)
        patched.setattr(trials, "train", train)
        yield


# What is recorded


def file_names(folder: Path) -> list[str]:
    """Paths of all files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def read_json(path: Path) -> Any:
    if path.suffix == ".jsonl":
        return read_lines(path)
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def keys_of(content: Any) -> dict[str, str]:
    """{path of a value in a JSON document: its kinds}. Items of a list share one path, `iou[]`.

    content: the document, or the path of its file.
    """
    kinds: dict[str, set[str]] = {}
    names = {bool: "boolean", int: "number", float: "number", str: "text", list: "[]", dict: "{}"}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                visit(item, f"{path}.{key}" if path else key)
        elif isinstance(value, list) and value:
            for item in value:
                visit(item, f"{path}[]")
        else:
            kinds.setdefault(path, set()).add(names.get(type(value), "null"))

    visit(read_json(content) if isinstance(content, Path) else content, "")
    return {path: "|".join(sorted(own)) for path, own in sorted(kinds.items())}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def array_digest(array: np.ndarray) -> str:
    """Of dtype, shape and values."""
    return digest(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())


def image_digest(path: Path) -> str:
    """Of mode, palette and pixels; not of the file's bytes, which differ by the version of zlib."""
    with Image.open(path) as image:
        palette = bytes(image.getpalette() or []) if image.mode == "P" else b""
        return digest(image.mode.encode() + palette + array_digest(np.array(image)).encode())


# The command


def rewrite() -> None:
    """Walk all ways and write FILE: a line for each fact, and the machine whose bits it has."""
    record: dict[str, Any] = {"machine": machine_kind()}
    for name in WALKS:
        with TemporaryDirectory() as folder:
            record[name] = asdict(walk(name, Path(folder)))
    FILE.write_text(json_text(record) + "\n", encoding="utf-8")


def json_text(content: Any, indent: str = "\n") -> str:
    """JSON with a line for each value of an object; lists stand on one line."""
    if not isinstance(content, dict) or not content:
        return json.dumps(content)
    below = indent + " "
    lines = (f"{json.dumps(key)}: {json_text(value, below)}" for key, value in content.items())
    return "{" + below + f",{below}".join(lines) + indent + "}"


class Calls:
    """A profiler: which functions of featherseg are called, and which call one of another file.

    Methods and functions in functions count; lambdas, comprehensions and what runs while a module
    is imported do not. Between the two functions of a move other packages may be called.
    """

    def __init__(self) -> None:
        self.functions, self.moves = set[CodeType](), set[tuple[CodeType, CodeType]]()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or not self.counts(frame.f_code):
            return
        callers = []  # the frames of featherseg below, the nearest first
        below = frame.f_back
        while below is not None:
            if below.f_code.co_filename.startswith(PACKAGE):
                callers.append(below.f_code)
            below = below.f_back
        if any(code.co_name == "<module>" for code in callers):
            return
        self.functions.add(frame.f_code)
        caller = next(filter(self.counts, callers), None)
        if caller is not None and caller.co_filename != frame.f_code.co_filename:
            self.moves.add((caller, frame.f_code))

    @staticmethod
    def counts(code: CodeType) -> bool:
        """Whether it is the body of a function of featherseg that has a name."""
        is_function = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")
        return bool(is_function) and code.co_filename.startswith(PACKAGE)


def count(name: str) -> Calls:
    """The calls of a walk's first command."""
    calls, main = Calls(), cli.main

    def counted() -> None:
        cli.main = main
        threading.setprofile(calls)
        sys.setprofile(calls)
        try:
            main()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    cli.main = counted
    with TemporaryDirectory() as folder:
        walk(name, Path(folder))
    return calls


def print_counts() -> None:
    """Print a row of Markdown for each walk, counted in a process whose caches are empty."""
    sys.stdout.write("| walk | files | functions | moves |\n|---|---|---|---|\n")
    for name in WALKS:
        sys.stdout.flush()
        words = [sys.executable, "-m", "support.golden.frozen_walks", "--count", name]
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL)


def print_count(name: str) -> None:
    calls = count(name)
    files = {code.co_filename for code in calls.functions}
    counts = (len(files), len(calls.functions), len(calls.moves))
    sys.stdout.write(f"| {' | '.join([name, *map(str, counts)])} |\n")


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            rewrite()
        case ["--count"]:
            print_counts()
        case ["--count", name]:
            print_count(name)
