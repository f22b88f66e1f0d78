"""Make tests/golden from the reference numbers and real data beside the checkout.

    PYTHONPATH=tests python -m support.golden.golden_make

tests/golden/README.md describes each file and its source; tests/test_golden.py checks that the
files are still what this makes.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from featherseg.costs.papers import read_paper
from featherseg.data.datasets.bdd100k_panoptic import read_bitmask

GOLDEN = Path(__file__).parents[2] / "golden"
CGRSEG = "nizhenliang/CGRSeg @b6c70fa (Apache-2.0)"
KEY_SETS = {
    **{
        f"cgrseg_{size}": (f"keys_cgrseg_{size}_150.json", f"{CGRSEG}, 150 classes")
        for size in ("t", "b", "b5", "l")
    },
    **{
        f"efficientformerv2_{size}": (
            f"keys_efficientformerv2_{size}_imagenet.json",
            "snap-research/EfficientFormer, its ImageNet classifiers",
        )
        for size in ("s0", "s1", "s2", "l")
    },
    **{
        f"van_b{size}": (
            f"keys_van_b{size}.json",
            "Visual-Attention-Network/VAN-Classification (Apache-2.0)",
        )
        for size in range(4)
    },
}
"""Name of a golden -> the reference's file, and whose state dict it is."""

EVERY = {"case0_logits": 7}
"""Of an array of the reference, flattened, every so many values are kept; of others all."""

PASSAGES = {
    "frm": ("frm.txt", [("ABSTRACT", "Index Terms"), ("3.3. Result Comparison", "4. CONCLUSION")]),
    "cgrseg": ("cgrseg-abstract.txt", [("Abstract:", "Submission history")]),
    "rsp": ("rsp-abstract.txt", [("\nAbstract\n", "AI Key Findings")]),
}
"""What sentences are quoted from: a file, and where its passages begin and end."""

FIGURE = r"[\d.]+(?=%| GFLOPs)"


def nested(leaves: dict[str, str]) -> dict:
    """{"a.b": leaf} -> {"a": {"b": leaf}}: a third of the size."""
    tree: dict = {}
    for key, leaf in leaves.items():
        *above, last = key.split(".")
        branch = tree
        for name in above:
            branch = branch.setdefault(name, {})
        branch[last] = leaf
    return tree


def sides(shape: Sequence[int]) -> str:
    """(32, 3, 7, 7) -> "32x3x7x7"."""
    return "x".join(str(side) for side in shape)


def key_set(reference: Path, file: str, source: str) -> dict:
    known = json.loads((reference / "parity/official_keys" / file).read_text())
    leaves = {
        entry["key"]: f"{entry['kind']} {sides(entry['shape'])}".strip()
        for entry in known["entries"]
    }
    return {"source": source, "parameters": known["n_params"], "keys": nested(leaves)}


def pack(reference: Path, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """What VAN and CGRSeg give: figures of every map, and values of some."""
    with np.load(reference / f"parity/pack_{name}.npz", allow_pickle=False) as arrays:
        kept = {key: arrays[key].ravel()[:: EVERY.get(key, 1)] for key in arrays.files}
    return {"source": KEY_SETS[name][1]} | json.loads(
        (reference / f"parity/pack_{name}.json").read_text()
    ), kept


def peer(reference: Path, name: str) -> dict:
    """What a peer's model gives; of its inner maps only those that are outputs."""
    known = json.loads((reference / f"peers/{name}.json").read_text())
    shapes: dict[str, list[int]] = {}
    for file in known.get("keys_files", [f"{name}.keys.json"]):
        shapes |= json.loads((reference / "peers" / file).read_text())
    for case in known["cases"]:
        means = {output["mean"] for output in case["outputs"].values()}
        case["stages"] = {
            key: map_ for key, map_ in case.pop("stages", {}).items() if map_["mean"] in means
        }
    return known | {"keys": nested({key: sides(shape) for key, shape in shapes.items()})}


def panoptic_cases(reference: Path) -> dict:
    """Return panopticapi's cases, with maps as runs: height, width, then value, length, ..."""
    known = json.loads((reference / "panoptic/pq_cases.json").read_text())

    def runs(ids: list[list[int]]) -> list[int]:
        values = np.array(ids).ravel()
        starts = np.flatnonzero(np.diff(values, prepend=values[0] - 1))
        lengths = np.diff(starts, append=values.size)
        return [
            len(ids),
            len(ids[0]),
            *np.stack([values[starts], lengths], axis=1).ravel().tolist(),
        ]

    cases = [
        case | {part: runs(case[part]) for part in ("gt", "prediction")} for case in known["cases"]
    ]
    return (
        {"source": "cocodataset/panopticapi @7bb4655 (BSD-2-Clause), run on made-up maps"}
        | known
        | {"cases": cases}
    )


def overlaps(fixtures: Path) -> dict:
    """Return [true id, predicted id, pixels] for map pairs of other toolkits, without the maps."""

    def shared(label: np.ndarray, prediction: np.ndarray) -> list[list[int]]:
        pairs, pixels = np.unique(
            np.stack([label.ravel(), prediction.ravel()]), axis=1, return_counts=True
        )
        return [
            [*pair, count] for pair, count in zip(pairs.T.tolist(), pixels.tolist(), strict=True)
        ]

    # deeplab2's bird: classes as grey values or colours, instances as grey values
    folder = fixtures / "pq_deeplab2"
    expected = json.loads((folder / "expected.json").read_text())
    label = np.array(Image.open(folder / "bird_gt.png").convert("L"))
    instances = np.array(Image.open(folder / "bird_pred_instance.png").convert("L")).astype(int)
    colors = np.array(Image.open(folder / "bird_pred_class.png").convert("RGB"))
    classes = np.zeros(label.shape, int)
    for color, number in expected["class_colors"].items():
        classes[(colors == [int(part) for part in color.split(",")]).all(axis=2)] = number
    bird = {
        "source": expected["source"],
        "overlaps": shared(
            label, np.where(classes == expected["void_class"], 0, classes * 256 + instances)
        ),
        "truth": {
            int(value): number for value, number in expected["gt_gray_to_class"]["bird"].items()
        },
        "prediction": "class * 256 + instance",
        "expected": expected["bird_computed_with_the_published_rule"],
        "order": expected["order"],
    }

    # BDD100K's two bitmasks
    folder = fixtures / "bdd100k"
    bdd100k = json.loads((folder / "expected.json").read_text())
    for name in "ab":
        (label, true_segments), (ids, segments) = (
            read_bitmask(folder / f"eval/pan_seg/{part}/{name}.png") for part in ("gt", "pred")
        )
        bdd100k[name] = {
            "overlaps": shared(label, ids),
            "truth": true_segments,
            "prediction": segments,
        }
    return {"deeplab2": bird, "bdd100k": bdd100k}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def digest(rows: Iterable[Sequence[object]]) -> dict:
    """Of a table: how many rows, and sha256 of its JSON."""
    listed = [list(row) for row in rows]
    return {"rows": len(listed), "sha256": sha256(json.dumps(listed))}


def class_tables(fixtures: Path) -> dict:
    """Digests of the data sets' own tables of classes."""
    with (fixtures / "ade20k_sceneparsing/objectInfo150.csv").open() as file:
        ade20k = [
            (re.split(r"[;, ]", row["Name"])[0], row["Stuff"] == "0")
            for row in csv.DictReader(file)
        ]
    coco = json.loads((fixtures / "coco_panoptic/panoptic_coco_categories.json").read_text())
    stuff = json.loads((fixtures / "coco_stuff/stuff_examples.json").read_text())["categories"]
    names = {
        row["id"]: row["name"]
        for row in [*stuff, *coco]
        if row["id"] < 183 and row.get("isthing", True)
    }
    return {
        "ade20k": {
            "source": "CSAILVision/sceneparsing objectInfo150.csv: first word of a name, thing"
        }
        | digest(ade20k),
        "coco-panoptic": {
            "source": "cocodataset/panopticapi panoptic_coco_categories.json: "
            "id, name, color, thing"
        }
        | digest((row["id"], row["name"], row["color"], bool(row["isthing"])) for row in coco),
        "coco-stuff": {"source": "the same things, and nightrome/cocostuffapi's stuff: id, name"}
        | digest(sorted(names.items())),
    }


def passage(papers: Path, name: str) -> str:
    """What a paper's sentences are quoted from, in one line."""
    file, parts = PASSAGES[name]
    text = (papers / file).read_text().replace("$", "").replace("\\%", "%")
    text = re.sub(
        r"\n\nTable 3\. .*?16\.48M\n\n", " ", text, flags=re.DOTALL
    )  # it stands in the middle of a sentence
    return " ".join(
        text[text.index(start) : text.index(end, text.index(start))] for start, end in parts
    )


def quoted(name: str) -> list[str]:
    """The sentences that we quote of a paper, without the marks of what is left out."""
    sentences = read_paper(name)["sentences"]
    return [sentence["text"].removeprefix("... ").removesuffix(" ...") for sentence in sentences]


def printed(papers: Path) -> dict:
    """Return the papers' figures in order: FRM's three tables, and the passages' shares and costs.

    Also returns which sentences that we quote occur in them, as sha256.
    """
    text = (papers / "frm.txt").read_text()
    starts = [text.index(f"Table {n}. ") for n in (1, 2, 3)]
    ends = [
        text.index(end, start)
        for start, end in zip(starts, ("Table 2.", "3.3. ", "burden."), strict=True)
    ]
    tables = []
    for start, end in zip(starts, ends, strict=True):
        lines = [
            line.split("\t")
            for line in text[start:end].splitlines()
            if re.search(r"\t[-\d.]+M?$", line)
        ]
        lines = [line for line in lines if any(re.fullmatch(r"[\d.]+M?", cell) for cell in line)]
        rows = [
            [cell.removesuffix("M") for cell in line if re.fullmatch(r"-|[\d.]+M?", cell)]
            for line in lines
        ]
        sizes = [
            cell.replace(" \N{MULTIPLICATION SIGN} ", "x")
            for line in lines
            for cell in line
            if "\xd7" in cell
        ]
        tables.append({"rows": rows, "sizes": sizes})
    texts = {name: passage(papers, name) for name in PASSAGES}
    return {
        "source": "arXiv:2412.08670 (FRM); abstracts of CGRSeg and RSP",
        "tables": tables,
        "figures": {name: re.findall(FIGURE, text) for name, text in texts.items()},
        "sentences": {
            name: [sha256(sentence) for sentence in quoted(name) if sentence in text]
            for name, text in texts.items()
        },
    }


def made(shared: Path) -> dict[str, dict | dict[str, np.ndarray]]:
    """Every file's content by its name below tests/golden."""
    reference, found = shared / "reference", {}
    for name, (file, source) in KEY_SETS.items():
        found[f"keys/{name}.json"] = key_set(reference, file, source)
    for name in ("van_b1", "cgrseg_t"):
        found[f"parity/{name}.json"], found[f"parity/{name}.npz"] = pack(reference, name)
    for file in sorted((reference / "peers").glob("*.keys.json")):
        name = file.name.removesuffix(".keys.json")
        found[f"peers/{name}.json"] = peer(reference, name)
    found["panoptic/panopticapi.json"] = panoptic_cases(reference)
    found["panoptic/overlaps.json"] = overlaps(shared / "data/fixtures")
    found["class_tables.json"] = class_tables(shared / "data/fixtures")
    found["papers.json"] = printed(shared / "papers")
    return found


def text(content: dict) -> str:
    """JSON with a line for each key, and for each key or item of what it holds."""

    def short(item: object) -> str:
        return json.dumps(item, separators=(",", ":"))

    lines = []
    for key, item in content.items():
        if isinstance(item, dict):
            below = (
                "{"
                + ",\n  ".join(f"{short(name)}:{short(part)}" for name, part in item.items())
                + "}"
            )
        else:
            below = (
                "[" + ",\n  ".join(short(part) for part in item) + "]"
                if isinstance(item, list)
                else short(item)
            )
        lines.append(f" {short(key)}:{below}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    for name, content in made(Path(__file__).parents[4] / "shared").items():
        (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".npz"):
            np.savez_compressed(GOLDEN / name, **content)
        else:
            (GOLDEN / name).write_text(text(content))


if __name__ == "__main__":
    main()
