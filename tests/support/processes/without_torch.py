"""Python processes without torch and scipy, as after `pip install '.[runtime]'`."""

import os
import subprocess
import sys
from pathlib import Path

BLOCK = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "scipy", "lightning", "onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
for name in ("torch", "scipy", "lightning", "onnx"):
    sys.modules[name] = None  # what looks for a module without importing it finds none
"""
"""A sitecustomize.py, which child processes import too."""


def without_torch(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments; sitecustomize.py is written into `folder`."""
    (folder / "sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
    )
