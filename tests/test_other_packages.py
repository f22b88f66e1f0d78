"""The Python lines of docs/start/other-packages.md, each where its package is installed.

`make test-versions` runs them in an environment that has the packages.
"""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "start" / "other-packages.md"
MODULES = {"OpenCV": "cv2", "supervision": "supervision", "timm": "timm"}


def snippets() -> dict[str, str]:
    """Heading -> the Python block below it."""
    _, *sections = PAGE.read_text(encoding="utf-8").split("\n## ")
    return {
        section.partition("\n")[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
        for section in sections
    }


def test_every_package_of_the_page_has_lines():
    assert snippets().keys() == MODULES.keys()


@pytest.mark.seconds
@pytest.mark.parametrize("heading", MODULES)
def test_the_lines_run(heading, tmp_path, monkeypatch):
    pytest.importorskip(MODULES[heading], reason=f"{heading}: make test-versions")
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "examples" / "photos" / "road-1.jpg", "photo.jpg")
    names: dict = {}
    exec(snippets()[heading], names)
    if heading == "OpenCV":
        written = names["cv2"].imread("mask.png", names["cv2"].IMREAD_GRAYSCALE)
        assert (written == names["prediction"].mask).all()
    elif heading == "supervision":
        assert set(names["labels"]) <= {row.name for row in names["prediction"].classes}
        assert (names["annotated"] != names["prediction"].image).any()
    else:
        assert Path("timm.onnx").is_file()
