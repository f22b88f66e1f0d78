"""What a user of pip gets: the wheel of the repository, installed alone and used elsewhere."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from featherseg import Predictor
from featherseg.data import open_dataset
from featherseg.runs.provenance import provenance
from featherseg.runs.run import SHIPPED, SHIPPED_LIMITS, STARTER, load_run

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/featherseg"
PHOTOS = ROOT / "examples/photos"
BUILD = ["-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-index"]


def copy_source(folder: Path) -> Path:
    """Return a copy of what a wheel is built from, without what was built."""
    source = folder / "source"
    for name in ("src", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    return source


def build(folder: Path, compiler: str | None) -> tuple[Path, str]:
    """Build a wheel of a copy of the repository by `compiler` (default: the system's); and log."""
    pytest.importorskip("setuptools")
    source = copy_source(folder)
    environment = {**os.environ, **({"CC": compiler} if compiler else {})}
    command = [sys.executable, *BUILD, "-w", str(folder / "wheels"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (wheel,) = (folder / "wheels").iterdir()
    return wheel, done.stdout + done.stderr


def is_data(path: Path) -> bool:
    """Whether a file of the package is neither code nor built from it."""
    return path.is_file() and path.suffix not in (".py", ".pyc", ".so", ".pyd")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="CC does not choose the compiler there")
def test_a_wheel_built_without_a_compiler_says_so_and_works_from_another_folder(
    tmp_path, monkeypatch
):
    wheel, said = build(tmp_path, "/bin/false")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "NO C COMPILER WORKED" in said
    assert wheel.stat().st_size < 20_000_000
    data = {
        f"featherseg/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if is_data(path)
    }
    assert "featherseg/data/datasets/ade20k.toml" in data
    assert data <= set(zipfile.ZipFile(wheel).namelist())
    installed, here = tmp_path / "lib" / "installed", tmp_path / "here"
    here.mkdir()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(installed),
        str(wheel),
    ]
    subprocess.run(pip, capture_output=True, check=True)
    Image.fromarray(open_dataset("shapes", "test")[7].image).save(here / "photo.jpg")
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    environment.pop("FEATHERSEG_HOME", None)

    def featherseg(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "featherseg", *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=here, env=environment
        )

    before = sorted(path for path in installed.rglob("*") if "__pycache__" not in path.parts)
    found = featherseg("predict", STARTER, "photo.jpg", "-o", "out")
    assert (found.returncode, (here / "out" / "photo_mask.png").is_file()) == (0, True), (
        found.stderr
    )
    assert "synthetic" in found.stderr
    absent = featherseg("predict", "frm-lite0-camvid", "photo.jpg", "-o", "out2")
    assert absent.returncode == 2
    assert "weights/frm-lite0-camvid of featherseg's repository" in absent.stderr
    assert str(installed) not in absent.stderr
    assert featherseg("report", STARTER).returncode == 0
    doctor = featherseg("doctor").stdout
    assert "install a C compiler" in " ".join(doctor.split())
    assert STARTER in doctor
    assert (
        sorted(path for path in installed.rglob("*") if "__pycache__" not in path.parts) == before
    )


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_a_wheel_built_with_a_compiler_is_named_for_its_machine(tmp_path):
    wheel, said = build(tmp_path, None)
    assert "NO C COMPILER" not in said
    assert "-none-any" not in wheel.name


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="releases are made on Linux")
def test_the_wheel_for_arm_is_stripped_and_runs_on_every_linux_since_2014(tmp_path):
    pytest.importorskip("ziglang")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if not headers.is_file():
        pytest.skip("needs Python's headers")
    source = copy_source(tmp_path)
    script = ["bash", ROOT / "scripts/wheel_aarch64.sh", source, tmp_path]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([*script, "--no-build-isolation", "--no-index"], check=True, env=environment)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-cp311-abi3-linux_aarch64.whl")
    show = [sys.executable, "-m", "auditwheel", "show", wheel]
    said = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    assert '"manylinux_2_17_aarch64"' in said
    elf = zipfile.ZipFile(wheel).read("featherseg/kernels/_native.abi3.so")
    assert elf[:4] == b"\x7fELF"
    assert int.from_bytes(elf[18:20], "little") == 183  # the ELF machine AArch64
    assert b".symtab" not in elf


def test_what_ships_may_be_shipped_and_says_what_it_is():
    run = load_run(STARTER)
    assert (run.shipped, run.licence, run.recipe.data.name, run.init) == (
        True,
        "Apache-2.0",
        "shapes",
        "from scratch",
    )
    assert "synthetic scenes only" in (run.path / "card.md").read_text()
    sizes = {path.name: (path / "weights.safetensors").stat().st_size for path in SHIPPED.iterdir()}
    assert set(sizes) == {STARTER, "road", "indoor"}
    assert max(sizes.values()) < 7_500_000


@pytest.mark.parametrize("name", ["road", "indoor"])
def test_models_of_photographs_name_whom_their_licence_asks_to_name(name):
    run = load_run(name)
    facts, card = provenance(run), (run.path / "card.md").read_text(encoding="utf-8")
    for text in (facts["licence"], card):
        for owner in {"road": ["MIT", "Passos"], "indoor": ["CC BY 4.0", "DHCN", "TQB"]}[name]:
            assert owner in text
    assert "ImageNet" in facts["initial_weights"]
    assert len(facts["commit"]) == 40
    assert SHIPPED_LIMITS[name] in card
    info = (run.path / "resolved.json").read_text(encoding="utf-8")
    assert f'"name": "{name}' in info  # no path of the machine that trained it


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("photo", "seen"),
    [
        ("road-1", {"lane": (0.4, 0.6), "pothole": (0.01, 0.05)}),
        ("road-2", {"lane": (0.4, 0.6), "pothole": (0.01, 0.05)}),
        ("road-3", {"lane": (0.4, 0.6), "crack": (0.03, 0.1), "pothole": (0.001, 0.005)}),
        ("road-4", {"lane": (0.4, 0.6), "crack": (0.01, 0.05), "pothole": (0, 0.001)}),
        ("indoor-1", {"floor": (0.4, 0.7), "furniture": (0.05, 0.3)}),
        ("indoor-2", {"floor": (0.4, 0.7), "furniture": (0.1, 0.4)}),
        ("indoor-3", {"floor": (0.4, 0.6), "ceiling": (0.02, 0.2)}),
        ("indoor-4", {"floor": (0.4, 0.7), "wall": (0.1, 0.4)}),
    ],
)
def test_models_of_photographs_see_what_a_person_sees(photo, seen):
    """Shares of the photographs by eye."""
    shares = Predictor(photo.split("-")[0], device="cpu")(PHOTOS / f"{photo}.jpg").shares
    for name, (least, most) in seen.items():
        assert least <= shares[name] <= most, name
