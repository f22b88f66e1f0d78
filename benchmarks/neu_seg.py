"""Write lists and a dataset.toml for NEU-Seg, which comes without a validation split.

    python benchmarks/neu_seg.py NEU OUT

NEU contains images/{training,test} and masks/{training,test} as published
(github.com/DHW-Master/NEU_Seg, da8cebe). OUT gets dataset.toml with train = 3,267, val = 363
(dev.txt, a fixed tenth of the published training images) and test = 840. Names in a list include
the folder (training/000201), because 300 stems are in both folders. Choices are made on val. A
frozen recipe may be trained on all 3,630 (`--set 'data.train_split=["train", "val"]'`) and is
scored on test once.
"""

import argparse
import hashlib
from collections import defaultdict
from pathlib import Path

TOML = """name = "neu-seg"
images = "{root}/images"
masks = "{root}/masks"
licence = "research only: NEU-Seg states no licence"
classes = ["background", "inclusion", "patches", "scratches"]

[splits]
train = "train.txt"
val = "dev.txt"
test = "test.txt"

[map]
0 = "background"
1 = "inclusion"
2 = "patches"
3 = "scratches"
"""

FIXED = "1469e849fc281a34f4821278a631b74dd285643b8d0ee76732ab0fb31d47f64a"
"""SHA-256 of dev.txt."""


def lists(root: Path) -> dict[str, list[str]]:
    """Return the names of each list; dev is a tenth by smallest hash, with duplicates together."""
    twins: dict[bytes, list[str]] = defaultdict(list)
    for path in sorted((root / "images" / "training").iterdir()):
        twins[hashlib.sha256(path.read_bytes()).digest()].append(f"training/{path.stem}")
    groups = sorted(twins.values(), key=lambda names: hashlib.sha256(names[0].encode()).digest())
    names = [name for group in groups for name in group]
    dev = sorted(names[: len(names) // 10])
    test = sorted(f"test/{path.stem}" for path in (root / "images" / "test").iterdir())
    return {"train": sorted(set(names) - set(dev)), "dev": dev, "test": test}


def write(root: Path, out: Path) -> Path:
    """The lists and the dataset.toml; -> the latter."""
    out.mkdir(parents=True, exist_ok=True)
    for name, keys in lists(root).items():
        (out / f"{name}.txt").write_text("\n".join(keys) + "\n")
    if hashlib.sha256((out / "dev.txt").read_bytes()).hexdigest() != FIXED:
        raise SystemExit(
            f"{root} does not contain the images of NEU-Seg as published: "
            "its tenth for choices differs."
        )
    (out / "dataset.toml").write_text(TOML.format(root=root.resolve().as_posix()))
    return out / "dataset.toml"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    print(write(asked.root, asked.out))
