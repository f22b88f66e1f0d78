"""Write tests/converters/files by the real tools' exporters and independent rasterisers.

Run once for each environment, in any order (versions in files/README.md):
    python make_files.py TOOL
TOOL: pycocotools, labelme, label-studio, supervision, supervisely, datumaro or cvat-docs.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

FILES = Path(__file__).parent / "files"
SIZE = (36, 48)  # height, width

# Name, polygon: half pixels, beyond the border, overlapping, concave
POLYGONS = [
    ("road", [-5.0, 20.5, 60.0, 17.2, 60.0, 50.0, -5.0, 40.0]),
    ("car", [6.5, 9.5, 22.5, 8.0, 24.0, 23.5, 14.2, 15.7, 7.0, 25.1]),
    ("tree", [18.0, 3.0, 30.0, 3.0, 30.0, 30.0, 18.0, 30.0]),
    ("car", [28.3, 12.1, 44.9, 12.9, 41.0, 33.3, 30.6, 27.7]),
]


def image(path: Path, size=SIZE, **save) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (90, 120, 60)).save(path, **save)
    return path


def mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def polygon_mask(polygon, size=SIZE) -> np.ndarray:
    from pycocotools import mask as coco

    return coco.decode(coco.merge(coco.frPyObjects([list(map(float, polygon))], *size))).astype(
        bool
    )


def ring() -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(y - 18, x - 20)
    return (distance < 13) & (distance > 6)


def pycocotools() -> None:
    """Write COCO: polygons, both run lengths, a crowd; gaps in ids; a name of two categories."""
    from pycocotools import mask as coco

    folder = FILES / "coco"
    image(folder / "images/a.png")
    image(folder / "images/b.png")
    categories = [(3, "road"), (17, "car"), (18, "tree"), (90, "car")]
    annotations, expected = [], {"a": np.zeros(SIZE, np.uint8), "b": np.zeros(SIZE, np.uint8)}
    value = {"road": 1, "car": 2, "tree": 3}

    def add(image_id, category, segmentation, inside, crowd=0):
        annotations.append(
            {
                "id": len(annotations) + 1, "image_id": image_id, "category_id": category,
                "iscrowd": crowd, "segmentation": segmentation, "area": int(inside.sum()),
                "bbox": coco.toBbox(
                    coco.encode(np.asfortranarray(inside.astype(np.uint8)))
                ).tolist(),
            }
        )  # fmt: skip
        expected["a" if image_id == 4 else "b"][inside] = value[dict(categories)[category]]

    ids = iter((3, 17, 18, 90))
    for _, polygon in POLYGONS:
        add(4, next(ids), [polygon], polygon_mask(polygon))
    packed = coco.encode(np.asfortranarray(ring().astype(np.uint8)))
    add(7, 18, {"size": packed["size"], "counts": packed["counts"].decode()}, ring())
    flat = (np.add.outer(np.arange(SIZE[0]), np.arange(SIZE[1])) % 11 < 4) & (
        np.arange(SIZE[1]) > 30
    )
    bits = flat.ravel(order="F").astype(np.int8)
    counts = np.diff(
        np.flatnonzero(np.diff(bits, prepend=0, append=1 - bits[-1])), prepend=0
    ).tolist()
    assert (
        coco.decode(coco.frPyObjects({"size": list(SIZE), "counts": counts}, *SIZE)) == flat
    ).all()
    add(7, 17, {"size": list(SIZE), "counts": counts}, flat, crowd=1)
    two = [[2.0, 2.0, 9.0, 2.0, 9.0, 9.0, 2.0, 9.0], [33.5, 25.5, 46.0, 26.0, 40.2, 35.0]]
    add(7, 3, two, polygon_mask(two[0]) | polygon_mask(two[1]))
    content = {
        "info": {}, "licenses": [{"id": 1, "name": "CC BY 4.0", "url": ""}],
        "images": [
            {"id": 4, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]},
            {"id": 7, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]},
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": ""} for i, name in categories],
    }  # fmt: skip
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations/instances.json").write_text(json.dumps(content))
    for name, values in expected.items():
        mask(folder / f"expected/{name}.png", values)


def labelme() -> None:
    """labelme's own writer, and masks by its own `shapes_to_label`; one image is turned by EXIF."""
    from labelme import utils
    from labelme._label_file import LabelFile, write_label_file

    folder = FILES / "labelme"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right: stored 48 x 36, seen 36 x 48 (width x height)
    image(folder / "a.jpg")
    image(folder / "turned.jpg", exif=exif)
    image(folder / "b.png")
    value = {"car": 1, "road": 2, "tree": 3}
    disc = (ring()[5:32, 7:34] * 1).astype(np.uint8)

    def shape(label, points, kind="polygon", group=None, bitmap=None):
        return {
            "label": label, "points": points, "group_id": group, "description": "",
            "shape_type": kind, "flags": {},
            "mask": None if bitmap is None else utils.img_arr_to_b64(bitmap),
        }  # fmt: skip

    pairs = [(name, np.reshape(polygon, (-1, 2)).tolist()) for name, polygon in POLYGONS]
    images = {
        "a": ("a.jpg", SIZE, [shape(name, points) for name, points in pairs]),
        "turned": ("turned.jpg", SIZE[::-1], [shape(name, points) for name, points in pairs]),
        "b": ("b.png", SIZE, [
            shape("road", [[1.0, 2.0], [30.4, 12.6]], "rectangle"),
            shape("tree", [[30.0, 20.0], [38.0, 23.0]], "circle"),
            shape("car", [[7.0, 5.0], [33.0, 31.0]], "mask", 4, disc),
            shape("car", [[40.0, 2.0], [47.0, 2.0], [47.0, 9.0]], "polygon", 4),
            shape("tree", [[2.0, 30.0], [20.0, 33.0]], "line"),
            shape("tree", [[30.0, 2.0], [35.0, 8.0], [31.0, 12.0]], "linestrip"),
            shape("road", [[44.0, 30.0]], "point"),
        ]),
    }  # fmt: skip
    for name, (file, size, shapes) in images.items():
        path = folder / f"{name}.json"
        write_label_file(
            str(path), shapes=shapes, image_path=file, image_height=size[0], image_width=size[1]
        )
        read = LabelFile(str(path))
        classes, objects = utils.shapes_to_label(size, read.shapes, value)
        mask(folder / f"expected/{name}.png", classes)
        mask(folder / f"expected/{name}_objects.png", objects)


def label_studio() -> None:
    """Write brushes by label-studio-sdk, and polygons as documented, drawn by pycocotools."""
    from label_studio_sdk.converter import brush

    folder = FILES / "label-studio"
    image(folder / "images/street.png")

    def result(number, kind, value):
        return {
            "id": f"r{number}", "type": kind, "from_name": "tag", "to_name": "image",
            "origin": "manual", "original_width": SIZE[1], "original_height": SIZE[0],
            "image_rotation": 0, "value": value,
        }  # fmt: skip

    expected = np.zeros(SIZE, np.uint8)
    results = []
    for number, (name, polygon) in enumerate(POLYGONS[:3]):
        points = np.reshape(polygon, (-1, 2)) / SIZE[::-1] * 100
        results.append(
            result(
                number,
                "polygonlabels",
                {"points": points.tolist(), "closed": True, "polygonlabels": [name]},
            )
        )
        expected[polygon_mask(polygon)] = {"car": 1, "road": 2, "tree": 3}[name]
    rle = brush.mask2rle((ring() * 255).astype(np.uint8))
    results.append(result(9, "brushlabels", {"format": "rle", "rle": rle, "brushlabels": ["car"]}))
    expected[brush.decode_rle(rle).reshape(*SIZE, 4)[:, :, 3] > 0] = 1
    tasks = [
        {
            "id": 1, "data": {"image": "/data/upload/3/0a1b2c3d-street.png"}, "predictions": [],
            "annotations": [
                {"id": 1, "was_cancelled": True, "result": [results[0]]},
                {"id": 2, "was_cancelled": False, "ground_truth": False, "result": results},
            ],
        },
        {
            "id": 2, "data": {"image": "/data/upload/3/4e5f6a7b-later.png"},
            "annotations": [], "predictions": [],
        },
    ]  # fmt: skip
    (folder / "project-1.json").write_text(json.dumps(tasks))
    mask(folder / "expected/street.png", expected)


def supervision() -> None:
    """Write YOLO files by `DetectionDataset.as_yolo`; masks of their polygons by pycocotools."""
    import supervision as sv

    folder = FILES / "yolo"
    masks = np.stack([polygon_mask(polygon) for _, polygon in POLYGONS])
    names = ["car", "road", "tree"]
    picture = image(folder / "images/a.png")
    found = sv.Detections(
        xyxy=sv.mask_to_xyxy(masks),
        mask=masks,
        class_id=np.array([names.index(name) for name, _ in POLYGONS]),
    )
    dataset = sv.DetectionDataset(names, [str(picture)], {str(picture): found})
    dataset.as_yolo(
        annotations_directory_path=str(folder / "labels"), data_yaml_path=str(folder / "data.yaml")
    )
    expected = np.zeros(SIZE, np.uint8)
    for line in (folder / "labels/a.txt").read_text().splitlines():
        number, *values = line.split()
        points = np.reshape(np.array(values, float), (-1, 2)) * SIZE[::-1]
        expected[polygon_mask(points.ravel().tolist())] = int(number) + 1
    mask(folder / "expected/a.png", expected)


def supervisely() -> None:
    """Write a project by the SDK: polygon with a hole, bitmap, rectangle; masks by its drawing."""
    import supervisely as sly

    folder = FILES / "supervisely"
    classes = [sly.ObjClass(n, g, c) for n, g, c in (
        ("car", sly.Polygon, [255, 0, 0]), ("tree", sly.Bitmap, [0, 160, 0]),
        ("road", sly.Rectangle, [90, 90, 90]),
    )]  # fmt: skip
    meta = sly.ProjectMeta(obj_classes=sly.ObjClassCollection(classes))
    hole = [sly.PointLocation(14, 12), sly.PointLocation(14, 18), sly.PointLocation(19, 17)]
    outline = [sly.PointLocation(y, x) for y, x in ((8, 6), (9, 24), (25, 22), (22, 7))]
    labels = [
        sly.Label(sly.Rectangle(20, 2, 33, 45), classes[2]),
        sly.Label(sly.Polygon(outline, [hole]), classes[0]),
        sly.Label(sly.Bitmap(ring()[5:32, 7:34], sly.PointLocation(6, 18)), classes[1]),
    ]
    annotation = sly.Annotation(SIZE, labels)
    image(folder / "train/img/a.png")
    (folder / "train/ann").mkdir(parents=True, exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta.to_json()))
    (folder / "train/ann/a.png.json").write_text(json.dumps(annotation.to_json()))
    expected = np.zeros(SIZE, np.uint8)
    for label in labels:
        drawn = np.zeros((*SIZE, 3), np.uint8)
        label.geometry.draw(drawn, [1, 1, 1])
        expected[drawn[:, :, 0] > 0] = {"car": 1, "tree": 2, "road": 3}[label.obj_class.name]
    mask(folder / "expected/a.png", expected)


def datumaro() -> None:
    """Write CVAT's XML, VOC's masks and COCO's instances by Datumaro, with its drawn masks."""
    import shutil

    import datumaro as dm
    from datumaro.util import mask_tools

    names = ["car", "road", "tree"]
    order = [(name, polygon, z) for (name, polygon), z in zip(POLYGONS, (0, 2, -1, 1), strict=True)]

    def items():
        for subset, file in (("train", "a"), ("val", "b")):
            annotations = [
                dm.Polygon(polygon, label=names.index(name), z_order=z, id=i, group=i)
                for i, (name, polygon, z) in enumerate(order[:3] if file == "b" else order, start=1)
            ]
            if file == "b":
                annotations += [
                    dm.Mask(ring(), label=0, z_order=5, id=9, group=9),
                    dm.Bbox(33, 5, 10, 9.5, label=2, z_order=0, id=10, group=10),
                ]
            yield dm.DatasetItem(
                file, subset=subset, annotations=annotations,
                media=dm.Image.from_numpy(np.full((*SIZE, 3), 99, np.uint8), ext=".png"),
            )  # fmt: skip

    def drawn(item, stacked):
        values = np.zeros(SIZE, np.uint8)
        for a in sorted(item.annotations, key=lambda a: a.z_order if stacked else 0):
            if isinstance(a, dm.Bbox) and not stacked:
                continue  # COCO has boxes without a segmentation
            if isinstance(a, dm.Mask):
                inside = np.asarray(a.image)
            else:
                polygon = a.as_polygon() if isinstance(a, dm.Bbox) else a.points
                polygon = [
                    float(number) for number in polygon
                ]  # of 32 bits; CVAT gets two digits of them
                polygon = [round(number, 2) for number in polygon] if form == "cvat" else polygon
                inside = mask_tools.rles_to_mask([polygon], SIZE[1], SIZE[0])
            values[np.asarray(inside, bool)] = a.label + 1
        return values

    for form, folder in (
        ("cvat", "cvat"),
        ("coco_instances", "coco-datumaro"),
        ("voc_segmentation", "voc"),
    ):
        shutil.rmtree(FILES / folder, ignore_errors=True)
        dataset = dm.Dataset.from_iterable(list(items()), categories=names)
        if form == "voc_segmentation":  # as CVAT does for "Segmentation mask 1.1"
            dataset.transform("polygons_to_masks")
            dataset.transform("boxes_to_masks")
        dataset.export(str(FILES / folder), form, save_media=True)
        for item in dataset:
            mask(
                FILES / folder / f"expected/{item.id}.png",
                drawn(item, stacked=form != "coco_instances"),
            )


def cvat_docs() -> None:
    """Write the example of docs.cvat.ai, "XML annotation format"; areas drawn by pycocotools."""
    import xml.etree.ElementTree as ET

    folder, size = FILES / "cvat-docs", (1200, 1600)
    root = ET.parse(folder / "annotations.xml").getroot()
    image(folder / "images/filename000.jpg", size, quality=1, optimize=True, progressive=True)
    expected, value = np.zeros(size, np.uint8), {"car": 1, "plate": 2}
    for shape in sorted(
        root.iter("image").__next__(), key=lambda shape: int(shape.get("z_order", "0"))
    ):
        if shape.tag == "polygon":
            inside = polygon_mask(
                [float(n) for n in shape.get("points").replace(";", ",").split(",")], size
            )
        elif shape.tag == "box":
            left, top, right, bottom = (
                float(shape.get(name)) for name in ("xtl", "ytl", "xbr", "ybr")
            )
            inside = polygon_mask([left, top, right, top, right, bottom, left, bottom], size)
        elif shape.tag == "mask":
            left, top, width, height = (
                int(shape.get(name)) for name in ("left", "top", "width", "height")
            )
            bits = [
                i % 2 for i, n in enumerate(shape.get("rle").split(", ")) for _ in range(int(n))
            ]
            inside = np.zeros(size, bool)
            inside[top : top + height, left : left + width] = np.reshape(bits, (height, width))
        else:
            continue
        expected[inside] = value[shape.get("label")]
    mask(folder / "expected/filename000.png", expected)


if __name__ == "__main__":
    globals()[sys.argv[1].replace("-", "_")]()
