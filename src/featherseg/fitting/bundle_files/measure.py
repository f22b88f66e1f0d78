"""Measure the candidates of this bundle on this machine: writes latency.json, which `featherseg fit --latency` takes.

    python measure.py               # on the threads that runtimes take by themselves, one a core
    python measure.py --threads 2

Needs Python 3.9 or newer, numpy, and the runtime of the candidates: onnxruntime, openvino or ncnn. What is measured is
the way from a decoded RGB image to its mask at the image's size, each candidate in a process of its own. Ctrl-C keeps
what was measured; the same command goes on. Letters: C channels, K classes, H x W the image, h x w what a model sees.
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
    sys.path.insert(0, FOLDER)  # where it is not by itself: python -P
    from latency import (
        DEVICE,
        MOST_WAIT,
        answers_alone,
        peak_memory,
        run_apart,
        summarise,
        time_passes,
    )
except ImportError as error:
    sys.exit(f"{error}. Unpack the whole bundle into one folder and run this there.")

Candidate = dict[str, Any]  # a row of bundle.json
Predict = Callable[[np.ndarray], np.ndarray]

os.environ.setdefault(
    "ORT_DISABLE_TELEMETRY", "1"
)  # onnxruntime and openvino report usage when they are imported
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # what openvino reports by

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}
LIMIT = 900
"""Seconds after which a candidate is given up."""

UNWRITABLE = "{} cannot be written ({}). Make room, or unpack the bundle into a folder of yours, and run this there."

BAND = 32
"""Rows whose classes are compared at a time, so that they stay in the cache."""


def taps(
    source: int, target: int, align_corners: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Output place i lies between source places low[i] and high[i], share[i] of the way: int, int, float32."""
    place = np.arange(target, dtype=np.float32)
    if align_corners:
        place *= np.float32(source - 1) / np.float32(max(target - 1, 1))
    else:
        place = (place + np.float32(0.5)) * (np.float32(source) / np.float32(target)) - np.float32(
            0.5
        )
    place = np.clip(place, np.float32(0), np.float32(source - 1))
    low = place.astype(np.intp)
    return low, np.minimum(low + 1, source - 1), place - low.astype(np.float32)


def resize_image(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bilinear, (H, W, C) uint8 -> (*size, C) uint8; shares in steps of 1/256, so that two bytes hold a sum."""
    for axis in (0, 1):
        if image.shape[axis] != size[axis]:
            low, high, share = taps(image.shape[axis], size[axis])
            weight = (
                np.rint(share * 256)
                .astype(np.uint16)
                .reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
            )
            mixed = image.take(low, axis) * (256 - weight) + image.take(high, axis) * weight
            image = ((mixed + np.uint16(128)) >> np.uint16(8)).astype(np.uint8)
    return np.ascontiguousarray(image)


def resize_mask(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The class of the nearest place: (h, w) uint8 -> (*size,) uint8."""
    for axis in (0, 1):
        if mask.shape[axis] != size[axis]:
            place = (np.arange(size[axis]) + 0.5) * (mask.shape[axis] / size[axis])
            mask = mask.take(place.astype(np.intp), axis)
    return mask


def widen(logits: np.ndarray, width: int, align_corners: bool, crop: int) -> np.ndarray:
    """Bilinear along the rows alone: (K, h, w) -> (K, h, crop), the first of `width` columns."""
    low, high, share = (tap[:crop] for tap in taps(logits.shape[2], width, align_corners))
    left = logits.take(low, 2)
    return left + (logits.take(high, 2) - left) * share


def mask_of_logits(
    logits: np.ndarray, size: tuple[int, ...], align_corners: bool, crop: tuple[int, ...]
) -> np.ndarray:
    """argmax of logits that are enlarged bilinearly: (K, h, w) -> (*crop,) uint8, the upper left part of `size`.

    Of classes that are equal the lowest.
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
    """The mask (*size,) of an image that the model saw at size `seen`, padded right and below to `padded`."""
    if padded == seen:
        return mask_of_logits(logits, size, align_corners, size)
    if seen == size:
        return mask_of_logits(logits, padded, align_corners, size)
    wide = widen(logits, padded[1], align_corners, seen[1]).swapaxes(1, 2)
    return mask_of_logits(
        widen(wide, padded[0], align_corners, seen[0]).swapaxes(1, 2), size, False, size
    )


def open_candidate(candidate: Candidate, folder: str, threads: int) -> tuple[Predict, str]:
    """-> (predict, runtime): predict gives the mask (H, W) uint8 of an image (H, W, C) uint8; runtime is its name."""
    path, *others = (os.path.join(folder, name) for name in candidate["files"])
    seen = tuple(candidate["input_size"])
    if candidate["format"] == "ncnn":
        return open_ncnn(path, others[0], candidate, threads)
    if candidate["format"] == "onnx":
        import onnxruntime as runtime

        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = options.enable_mem_pattern = (
            False  # they would keep twice the memory
        )
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        def run(image: np.ndarray) -> np.ndarray:
            return session.run(["masks"], {"images": image[None]})[0][0]
    else:
        import openvino as runtime

        # It would take bf16 where the processor has it, and give other masks
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
    """`open_candidate` for ncnn, whose files take normalised images and give logits."""
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
        values = np.ascontiguousarray(
            values.transpose(2, 0, 1)
        )  # has a name: ncnn.Mat holds no reference to it
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
    """-> what latency.json tells of a candidate, and `runtime` and `run_queue_wait`."""
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
    """Cores that this process may use; where one has two threads it counts once, as runtimes have it."""
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
    """Cores that the quota of a container is worth, rounded up, by version 2 and 1 of control groups."""
    found = []
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        words = list[str]()
        for name in names:
            try:
                with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as file:
                    words += file.read().split()
            except OSError:
                pass
        if len(words) == 2 and words[0] not in ("max", "-1"):
            found.append(max(1, -(-int(words[0]) // int(words[1]))))
    return found


def describe_device() -> str:
    """`AMD EPYC (family 25, model 17), 2 cores, Linux 6.1 x86_64`: no name of a host or a user."""
    name, facts = platform.processor() or platform.machine(), dict[str, str]()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for key, _, value in (line.partition(":") for line in file):
                facts.setdefault(key.strip(), value.strip())
        with open(
            "/proc/device-tree/model", encoding="utf-8", errors="replace"
        ) as file:  # of a board
            facts["model name"] = file.read()
    except OSError:
        pass
    name = " ".join("".join(c for c in facts.get("model name", name) if c.isprintable()).split())[
        :120
    ]
    if (
        "cpu family" in facts and "model" in facts
    ):  # virtual machines give generations of other speed one name
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return f"{name}, {count_cores()} cores, {platform.system()} {platform.release()} {platform.machine()}"


def measure_apart(number: int, threads: int) -> dict[str, Any]:
    """`measure` in a process of its own. Raises ProcessFailed with the reason of one that fails."""
    words = ["--candidate", str(number), "--threads", str(threads)]
    return run_apart([sys.executable, os.path.abspath(__file__), *words], LIMIT)


def name_of(row: dict[str, Any]) -> tuple[str, float, str]:
    return row["model"], row["scale"], row["format"]


def earlier(path: str, report: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The candidates of a latency.json of the same bundle, device and threads: of a call that was stopped.

    Any other latency.json is kept beside it, under a name that says what it is of.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        other = f"{int(found['threads'])}-threads" if found["threads"] != report["threads"] else ""
        for key in ("device", "bundle", "format_version"):
            other = other if found[key] == report[key] else f"other-{key}"
        rows, runtimes = list(found["candidates"]), dict(found["runtimes"])
        if len({name_of(row) for row in rows if row["latency_ms"]["p50"] > 0}) < len(rows):
            raise ValueError("a candidate is there twice or without its time")
    except FileNotFoundError:
        return [], {}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        other = "unreadable"
    if not other:
        return rows, runtimes
    aside, number = f"{path[:-5]}-{other}.json", 1
    while os.path.lexists(aside):
        number += 1
        aside = f"{path[:-5]}-{other}-{number}.json"
    os.rename(path, aside)
    tell(
        f"the latency.json that was here ({other.replace('-', ' ')}) is kept as {os.path.basename(aside)}"
    )
    return [], {}


def save(path: str, report: dict[str, Any]) -> None:
    """Write latency.json beside its name, then rename it: whatever ends this, the file is whole."""
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
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def measure_all(bundle: dict[str, Any], threads: int, path: str) -> int:
    """Every candidate that can be measured; -> the exit status."""
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

    # Whether the answer can be written, and what of it is there
    try:
        if os.path.isdir(path):
            raise OSError("it is a folder")
        with open(path + ".tmp", "w", encoding="utf-8"):
            pass
        os.remove(path + ".tmp")
        report["candidates"], report["runtimes"] = earlier(path, report)
    except OSError as error:
        sys.exit(UNWRITABLE.format(path, error.strerror or error))
    known = {name_of(row) for row in report["candidates"]}
    candidates, status = bundle["candidates"], 0
    try:
        for number, candidate in enumerate(candidates):
            name = (
                f"[{number + 1}/{len(candidates)}] {candidate['model']} at {candidate['scale']:g}"
            )
            name += f", {candidate['format']}"
            package = RUNTIMES[candidate["format"]]
            if name_of(candidate) in known:
                tell(f"{name}: measured before (remove latency.json to measure it again)")
                continue
            if importlib.util.find_spec(package) is None:
                tell(
                    f"{name}: left out, {package} is not installed: {sys.executable} -m pip install {package}"
                )
                continue
            try:
                row = measure_apart(number, threads)
            except (RuntimeError, ValueError) as error:
                tell(f"{name}: left out, it failed: {error}")
                continue
            report["runtimes"][candidate["format"]] = row.pop("runtime")
            wait = row.pop("run_queue_wait")
            report["candidates"].append(row)
            save(path, report)
            tell("{}: {p50:.1f} ms, 95 % within {p95:.1f} ms".format(name, **row["latency_ms"]))
            if wait > MOST_WAIT:
                tell(f"{name}: other programs were running, passes took {wait:.1f} times as long")
    except KeyboardInterrupt:
        tell("stopped; the same command goes on")
        status = 130
    measured = len(report["candidates"])
    if measured:
        tell(f"{measured} of {len(candidates)} candidates are in {path}")
    return status or (0 if measured else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--threads",
        type=int,
        default=count_cores(),
        help="threads of the runtime (here: %(default)s)",
    )
    parser.add_argument(
        "--candidate", type=int, help=argparse.SUPPRESS
    )  # what the processes of candidates are given
    settings = parser.parse_args()
    if not 1 <= settings.threads <= 4096:
        parser.error(f"--threads {settings.threads}: expected 1 to 4096")
    try:
        with open(os.path.join(FOLDER, "bundle.json"), encoding="utf-8") as file:
            bundle = json.load(file)
    except (OSError, ValueError) as error:
        sys.exit(
            f"bundle.json cannot be read ({error}). Unpack the whole bundle into one folder and run this there."
        )
    if settings.candidate is None:
        sys.exit(measure_all(bundle, settings.threads, os.path.join(FOLDER, "latency.json")))
    with answers_alone() as answers:
        json.dump(
            measure(bundle["candidates"][settings.candidate], FOLDER, settings.threads), answers
        )


if __name__ == "__main__":
    main()
