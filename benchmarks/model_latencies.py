"""Record the latencies that `featherseg models` sorts by: every untrained semantic model, here.

    taskset -c 0 python benchmarks/model_latencies.py [MODEL...]      # nothing else may run

Each model, or each named one, is exported to ONNX and timed in a process of its own as `fit` times
its candidates, from a decoded RGB image to its mask. Rewrites
src/featherseg/costs/latencies.json; models that are not named keep their latencies.
"""

import sys
from datetime import date

import numpy as np

from featherseg.core.files import load_json, write_json
from featherseg.costs.catalogue import LATENCIES
from featherseg.data import dataset_facts
from featherseg.fitting.latency import here, time_candidate
from featherseg.models import MODELS

SIZE = (360, 480)
"""(height, width): CamVid's images at half size."""


def main() -> None:
    """Time them, the fewest multiply-accumulates first."""
    known, named = load_json(LATENCIES), sys.argv[1:]
    classes = dataset_facts("camvid").classes
    device, threads = here()
    facts = {
        "device": device,
        "threads": threads,
        "format": "onnx",
        "size": list(SIZE),
        "classes": len(classes),
    }
    if named and any(known[key] != value for key, value in facts.items()):
        sys.exit(
            f"the others were timed on {known['device']}, threads: {known['threads']}. "
            "Time all models here, or none."
        )
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    names = named or [name for name, entry in MODELS.items() if not entry.panoptic]
    latencies = {name: ms for name, ms in known["ms"].items() if named and name in MODELS}
    for name in sorted(names, key=lambda name: MODELS[name].macs or 0):
        timing = time_candidate(
            (name, 1.0, "onnx"), classes, None, image, (), lambda _: False
        ).timing
        latencies[name] = round(timing.p50, 1)
        print(f"{name:28} {timing.p50:8.1f} ms ({timing.low:.1f} to {timing.high:.1f})", flush=True)
    order = dict(sorted(latencies.items(), key=lambda item: item[1]))
    write_json(LATENCIES, {**facts, "date": date.today().isoformat(), "ms": order})


if __name__ == "__main__":
    main()
