"""Measure the candidates of this bundle on this machine: writes latency.json.

    python measure.py               # one thread per core, as runtimes do by default
    python measure.py --threads 2

It needs Python 3.9 or newer, numpy, and the runtime of the candidates: onnxruntime, openvino or
ncnn. Latency is that from a decoded RGB image to its mask at the image's size; each candidate has
its own process. Ctrl-C keeps what was measured, and the same command resumes. Bring latency.json
back to `featherseg fit --latency`.

Letters: C channels, K classes, H x W the image, h x w the input of a model.
"""

import argparse
import importlib.util
import json
import os
import platform
import sys
from datetime import datetime, timezone
from typing import Any, Callable

if sys.version_info < (3, 9):  # noqa: UP036 - a device may have any
    sys.exit("measure.py needs Python 3.9 or newer, and this is " + platform.python_version())
try:
    import numpy as np
except ImportError:
    sys.exit(f"measure.py needs numpy. Install it with: {sys.executable} -m pip install numpy")

FOLDER = os.path.dirname(os.path.abspath(__file__))
try:
    sys.path.insert(0, FOLDER)  # `python -P` does not add it
    from latency import (
        DEVICE,
        MOST_WAIT,
        answers_alone,
        peak_memory,
        run_apart,
        summarise,
        time_passes,
    )
    from processors import processor_name, read_cpuinfo
except ImportError as error:
    sys.exit(f"{error}. Unpack the whole bundle into one folder and run this there.")

Candidate = dict[str, Any]  # a row of bundle.json
Predict = Callable[[np.ndarray], np.ndarray]

# onnxruntime and openvino report usage when they are imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}
LIMIT = 900
"""Seconds after which the process of a candidate is killed."""

UNWRITABLE = (
    "{} cannot be written ({}). Make room, or unpack the bundle into a folder of yours, and run "
    "this there."
)

BAND = 32
"""Rows of which the classes are compared at a time, so that they stay in the cache."""


def taps(
    source: int, target: int, align_corners: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return low (int), high (int), share (float32) of each output place.

    Output place i lies between source places low[i] and high[i], at share[i] of the way.
    """
    place = np.arange(target, dtype=np.float32)
    if align_corners:
        place *= np.float32(source - 1) / np.float32(max(target - 1, 1))
    else:
        half = np.float32(0.5)
        place = (place + half) * (np.float32(source) / np.float32(target)) - half
    place = np.clip(place, np.float32(0), np.float32(source - 1))
    low = place.astype(np.intp)
    return low, np.minimum(low + 1, source - 1), place - low.astype(np.float32)


def resize_image(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize (H, W, C) uint8 to (*size, C) bilinearly; shares of 1/256 keep sums in two bytes."""
    for axis in (0, 1):
        if image.shape[axis] != size[axis]:
            low, high, share = taps(image.shape[axis], size[axis])
            weight = np.rint(share * 256).astype(np.uint16)
            weight = weight.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            mixed = image.take(low, axis) * (256 - weight) + image.take(high, axis) * weight
            image = ((mixed + np.uint16(128)) >> np.uint16(8)).astype(np.uint8)
    return np.ascontiguousarray(image)


def resize_mask(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize a mask (h, w) uint8 to (*size,): the class of the nearest place."""
    for axis in (0, 1):
        if mask.shape[axis] != size[axis]:
            place = (np.arange(size[axis]) + 0.5) * (mask.shape[axis] / size[axis])
            mask = mask.take(place.astype(np.intp), axis)
    return mask


def widen(logits: np.ndarray, width: int, align_corners: bool, crop: int) -> np.ndarray:
    """Resize (K, h, w) to `width` columns bilinearly; return the first ones, (K, h, crop)."""
    low, high, share = (tap[:crop] for tap in taps(logits.shape[2], width, align_corners))
    left = logits.take(low, 2)
    return left + (logits.take(high, 2) - left) * share


def mask_of_logits(
    logits: np.ndarray, size: tuple[int, ...], align_corners: bool, crop: tuple[int, ...]
) -> np.ndarray:
    """Return the argmax of logits (K, h, w) resized to `size` bilinearly: (*crop,) uint8.

    crop: the upper left part of `size`. Ties get the lowest class.
    """
    wide = widen(logits, size[1], align_corners, crop[1])
    rows = [tap[: crop[0]] for tap in taps(logits.shape[1], size[0], align_corners)]
    mask = np.zeros(crop, np.uint8)
    for top in range(0, crop[0], BAND):
        low, high, share = (tap[top : top + BAND] for tap in rows)
        best = None
        for number, plane in enumerate(wide):
            scores, above = plane.take(high, 0), plane.take(low, 0)
            scores -= above
            scores *= share[:, None]
            scores += above
            if best is None:
                best = scores
            else:
                np.copyto(mask[top : top + BAND], np.uint8(number), where=scores > best)
                np.maximum(best, scores, out=best)
    return mask


def mask_of_padded(
    logits: np.ndarray,
    padded: tuple[int, ...],
    seen: tuple[int, ...],
    size: tuple[int, ...],
    align_corners: bool,
) -> np.ndarray:
    """Return the mask (*size,) of an image that was resized to `seen`, then padded to `padded`.

    Padding is right and below.
    """
    if padded == seen:
        return mask_of_logits(logits, size, align_corners, size)
    if seen == size:
        return mask_of_logits(logits, padded, align_corners, size)
    wide = widen(logits, padded[1], align_corners, seen[1]).swapaxes(1, 2)
    return mask_of_logits(
        widen(wide, padded[0], align_corners, seen[0]).swapaxes(1, 2), size, False, size
    )


def open_candidate(candidate: Candidate, folder: str, threads: int) -> tuple[Predict, str]:
    """Return (predict, name of the runtime).

    predict: image (H, W, C) uint8 -> mask (H, W) uint8.
    """
    path, *others = (os.path.join(folder, name) for name in candidate["files"])
    seen = tuple(candidate["input_size"])
    if candidate["format"] == "ncnn":
        return open_ncnn(path, others[0], candidate, threads)
    if candidate["format"] == "onnx":
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False  # with them a session keeps twice the memory
        options.enable_mem_pattern = False
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run(image: np.ndarray) -> np.ndarray:
            return session.run(["masks"], {"images": image[None]})[0][0]
    else:
        import openvino as runtime

        # The default is bf16 if the processor has it, which gives other masks
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        compiled = runtime.Core().compile_model(path, "CPU", settings)

        def run(image: np.ndarray) -> np.ndarray:
            return compiled([image[None]])["masks"][0]

    def predict(image: np.ndarray) -> np.ndarray:
        return resize_mask(run(resize_image(image, seen)), image.shape[:2])

    return predict, f"{RUNTIMES[candidate['format']]} {runtime.__version__}"


def open_ncnn(graph: str, weights: str, candidate: Candidate, threads: int) -> tuple[Predict, str]:
    """Open a candidate of ncnn, whose files take normalised images and return logits."""
    import ncnn

    mean, std = (np.float32(candidate[key]) for key in ("mean", "std"))
    seen, padded = tuple(candidate["input_size"]), tuple(candidate["padded_size"])
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    net.opt.use_bf16_storage = net.opt.use_fp16_packed = False
    net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    if net.load_param(graph) != 0 or net.load_model(weights) != 0:
        raise RuntimeError("ncnn refuses the graph or the weights")

    def predict(image: np.ndarray) -> np.ndarray:
        values = (resize_image(image, seen) - mean) / std  # (h, w, C) float32
        values = np.ascontiguousarray(values.transpose(2, 0, 1))  # ncnn.Mat keeps no reference
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(values).clone())
        code, logits = extractor.extract("out0")
        if code != 0:
            raise RuntimeError(f"ncnn stopped with {code}")
        return mask_of_padded(
            np.array(logits), padded, seen, image.shape[:2], candidate["align_corners"]
        )

    return predict, f"ncnn {ncnn.__version__}"


def measure(candidate: Candidate, folder: str, threads: int) -> dict[str, Any]:
    """Return a candidate's row of latency.json, with the keys `runtime` and `run_queue_wait`."""
    image = np.load(os.path.join(folder, "image.npy"), allow_pickle=False)
    predict, runtime = open_candidate(candidate, folder, threads)
    passes = time_passes(lambda: predict(image), DEVICE)
    times = summarise(passes.ms)
    size = sum(os.path.getsize(os.path.join(folder, name)) for name in candidate["files"])
    memory = peak_memory()
    return {
        **{key: candidate[key] for key in ("model", "scale", "format")},
        "latency_ms": {
            "p50": round(times.p50, 4),
            "p95": round(times.p95, 4),
            "interval": [round(times.low, 4), round(times.high, 4)],
        },
        "memory_mib": None if memory is None else round(memory / 2**20, 1),
        "file_mib": round(size / 2**20, 3),
        "passes": len(passes.ms),
        "runtime": runtime,
        "run_queue_wait": round(passes.run_queue_wait, 2),
    }


def count_cores() -> int:
    """Return the number of usable cores; a core with two threads counts once, as in runtimes."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set[object]()
    for number in os.sched_getaffinity(0):
        try:
            with open(
                f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list",
                encoding="ascii",
            ) as file:
                cores.add(file.read())
        except OSError:
            cores.add(number)
    return min([len(cores), *quotas()])


def quotas() -> list[int]:
    """Return the quotas of a container in cores, rounded up, of control groups version 2 and 1."""
    cores = []
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        words = list[str]()
        for name in names:
            try:
                with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
                    words += file.read().split()
            except OSError:
                pass
        if len(words) == 2 and words[0] not in ("max", "-1"):
            cores.append(max(1, -(-int(words[0]) // int(words[1]))))
    return cores


def describe_device() -> str:
    """Return `AMD EPYC (family 25, model 17), 2 cores, Linux 6.1 x86_64`, without a host name."""
    name, facts = processor_name(), dict[str, str]()
    for key, _, value in (line.partition(":") for line in read_cpuinfo().splitlines()):
        facts.setdefault(key.strip(), value.strip())
    if "CPU part" not in facts:
        name = facts.get("model name", name)
    try:  # boards have their name here
        with open("/proc/device-tree/model", encoding="utf-8", errors="replace") as file:
            name = f"{file.read()}, {name}"
    except OSError:
        pass
    printable = "".join(c for c in name if c.isprintable())
    name = " ".join(printable.split())[:120]
    if "cpu family" in facts and "model" in facts:  # virtual machines name generations alike
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{name}, {count_cores()} cores, {system}"


def measure_apart(number: int, threads: int) -> dict[str, Any]:
    """Measure a candidate in a process of its own. Raises ProcessFailed with the reason."""
    words = ["--candidate", str(number), "--threads", str(threads)]
    return run_apart([sys.executable, os.path.abspath(__file__), *words], LIMIT)


def name_of(row: dict[str, Any]) -> tuple[str, float, str]:
    """Return what identifies a candidate."""
    return row["model"], row["scale"], row["format"]


def earlier(path: str, report: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return candidates and runtimes of an interrupted call on the same device and threads.

    The latency.json of another bundle, device or number of threads is renamed and thus kept.
    """
    try:
        with open(path, encoding="utf-8") as file:
            before = json.load(file)
        difference = ""
        if before["threads"] != report["threads"]:
            difference = f"{int(before['threads'])}-threads"
        for key in ("device", "bundle", "format_version"):
            difference = difference if before[key] == report[key] else f"other-{key}"
        rows, runtimes = list(before["candidates"]), dict(before["runtimes"])
        if len({name_of(row) for row in rows if row["latency_ms"]["p50"] > 0}) < len(rows):
            raise ValueError("a candidate is listed twice or has no latency")
    except FileNotFoundError:
        return [], {}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        difference = "unreadable"
    if not difference:
        return rows, runtimes
    kept, number = f"{path[:-5]}-{difference}.json", 1
    while os.path.lexists(kept):
        number += 1
        kept = f"{path[:-5]}-{difference}-{number}.json"
    os.rename(path, kept)
    reason = difference.replace("-", " ")
    tell(f"the latency.json that was here ({reason}) is kept as {os.path.basename(kept)}")
    return [], {}


def save(path: str, report: dict[str, Any]) -> None:
    """Write latency.json to a temporary file, then rename it, so that it is never incomplete."""
    try:
        with open(path + ".tmp", "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".tmp", path)
    except OSError as error:
        sys.exit(UNWRITABLE.format(path, error.strerror or error))


def tell(text: str) -> None:
    """Print a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def measure_all(bundle: dict[str, Any], threads: int, path: str) -> int:
    """Measure every candidate that can be measured; return the exit status."""
    report = {
        "format_version": 1,
        "device": describe_device(),
        "threads": threads,
        "runtimes": {},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "image_size": bundle["image_size"],
        "bundle": bundle["id"],
        "candidates": [],
    }
    tell(f"{report['device']}; {threads} threads")

    # Check that latency.json can be written, and read that of an interrupted call
    try:
        if os.path.isdir(path):
            raise OSError("it is a folder")
        with open(path + ".tmp", "w", encoding="utf-8"):
            pass
        os.remove(path + ".tmp")
        report["candidates"], report["runtimes"] = earlier(path, report)
    except OSError as error:
        sys.exit(UNWRITABLE.format(path, error.strerror or error))

    # Measure the others, and save after each
    known = {name_of(row) for row in report["candidates"]}
    candidates, status = bundle["candidates"], 0
    try:
        for number, candidate in enumerate(candidates):
            name = f"[{number + 1}/{len(candidates)}] {candidate['model']}"
            name += f" at {candidate['scale']:g}, {candidate['format']}"
            package = RUNTIMES[candidate["format"]]
            if name_of(candidate) in known:
                tell(f"{name}: measured before (remove latency.json to measure it again)")
                continue
            if importlib.util.find_spec(package) is None:
                command = f"{sys.executable} -m pip install {package}"
                tell(f"{name}: skipped, {package} is not installed: {command}")
                continue
            try:
                row = measure_apart(number, threads)
            except (RuntimeError, ValueError) as error:
                tell(f"{name}: skipped, it failed: {error}")
                continue
            report["runtimes"][candidate["format"]] = row.pop("runtime")
            wait = row.pop("run_queue_wait")
            report["candidates"].append(row)
            save(path, report)
            tell("{}: {p50:.1f} ms, 95 % within {p95:.1f} ms".format(name, **row["latency_ms"]))
            if wait > MOST_WAIT:
                tell(f"{name}: other programs were running, passes took {wait:.1f} times as long")
    except KeyboardInterrupt:
        tell("interrupted; the same command resumes")
        status = 130
    measured = len(report["candidates"])
    if measured:
        tell(f"{measured} of {len(candidates)} candidates are in {path}")
    return status or (0 if measured else 1)


def main() -> None:
    """Measure all candidates, or with --candidate one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--threads",
        type=int,
        default=count_cores(),
        help="threads of the runtime (here: %(default)s)",
    )
    parser.add_argument("--candidate", type=int, help=argparse.SUPPRESS)  # by `measure_apart`
    settings = parser.parse_args()
    if not 1 <= settings.threads <= 4096:
        parser.error(f"--threads {settings.threads}: expected 1 to 4096")
    try:
        with open(os.path.join(FOLDER, "bundle.json"), encoding="utf-8") as file:
            bundle = json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(
            f"bundle.json cannot be read ({error}). Unpack the whole bundle into one folder and "
            "run this there."
        )
    if settings.candidate is None:
        sys.exit(measure_all(bundle, settings.threads, os.path.join(FOLDER, "latency.json")))
    with answers_alone() as answers:
        json.dump(
            measure(bundle["candidates"][settings.candidate], FOLDER, settings.threads), answers
        )


if __name__ == "__main__":
    main()
