"""A worker of `featherseg benchmark` that invents its times, for tests of the protocol.

    python fake_benchmark_worker.py FOLDER

It creates FOLDER/PID when it starts. FOLDER/faults.json says what fails: it maps a build to the
command at which its process dies, or to {command: answer}.
"""

import json
import os
import sys
from pathlib import Path

FACTORS = {"eager": 1.0, "eager-1x1": 0.8, "eager-tuned": 0.5, "ours-fp32": 0.25, "ours-bf16": 0.2}
STAGES = ("decode", "to device", "preprocess", "forward", "upsample + argmax", "encode")
LIMITS = {
    "device": "cpu",
    "threads": 1,
    "kernels": {"fp32": {"matmul": 100.0}, "bf16": {"matmul": 200.0}, "int8": {}},
    "memory": {"copy": 40.0},
}


def build_of(asked: dict, before: str) -> str:
    """Return the requested build, or a file's name, or else what was opened before."""
    return asked.get("build") or (Path(asked["file"]).name if asked.get("file") else before)


def turn(build: str, number: int) -> dict:
    """Return forward times of 100 ms by build, slower every round, and 1 ms for other stages."""
    forward = 100 * FACTORS[build] * 1.05**number
    wall = {stage: forward if stage == "forward" else 1.0 for stage in STAGES}
    return {"wall": wall, "cpu": wall, "queue": dict.fromkeys(STAGES, 0.0)}


def outputs(build: str, files: list[str], to: str) -> dict:
    """Logits 0..9; those of ours-bf16 are off by 0.5, and one pixel in 100 of its masks."""
    import numpy as np  # here, as a process that only makes up times starts faster without

    logits = np.arange(10.0).reshape(1, 2, 1, 5).repeat(len(files), axis=0)
    masks = np.zeros((len(files), 10, 10), dtype=np.uint8)
    if build == "ours-bf16":
        logits, masks[:, 0, 0] = logits + 0.5, 1
    np.savez(to, logits=logits.astype(np.float32), masks=masks)
    return {}


def answer(do: str, build: str, asked: dict, turns: int) -> dict:
    """What a worker of that build answers to a command, after so many turns."""
    match do:
        case "open":
            assert asked.get("device", "cpu") in ("auto", "cpu"), asked
            precision = "bf16" if build == "ours-bf16" else "fp32"
            return {
                "open_ms": 5.0,
                "classes": [f"class_{i}" for i in range(19)],
                "precision": precision,
            }
        case "prepare":
            return {"first_ms": 1000.0, "warm_up_ms": []}
        case "turn":
            return turn(build, turns)
        case "memory":
            return {"process_mib": 400.0 * FACTORS[build], "gpu_mib": None}
        case "outputs":
            return outputs(build, asked["files"], asked["to"])
        case "score":
            import numpy as np

            np.save(asked["to"], np.ones((2, 3, 19)))
            return {"miou": 0.5, "images": 2}
    assert do == "limits"
    return LIMITS


def main(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    faults = (
        json.loads((folder / "faults.json").read_text())
        if (folder / "faults.json").exists()
        else {}
    )
    build, turns = "", 0
    for line in sys.stdin:
        asked = json.loads(line)
        do, build = asked["do"], build_of(asked, build)
        fault = faults.get(build, {})
        if fault == do:
            sys.stderr.write("loading\nno such instruction\n")
            sys.exit(3)
        answered = fault[do] if do in fault else answer(do, build, asked, turns)
        turns += do == "turn"
        sys.stdout.write(json.dumps(answered) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
