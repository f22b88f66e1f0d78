"""How an .onnx file is used without featherseg: the lines that `export` prints; docs/formats.md shows them as well."""

import json
from pathlib import Path

from featherseg.inference.runtimes.file_facts import FileFacts

HEAD = """\
import json
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({path})
facts = {{key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}}
image = np.asarray(ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB"))  # (H, W, 3) uint8, red first
"""

MASKS = """\
mask = session.run(["masks"], {"images": image[None]})[0][0]  # (H, W) uint8; 0 is facts["classes"][0]
"""

LOGITS = """\
normal = (image - np.float32(facts["mean"])) / np.float32(facts["std"])  # all three in units of 0..255
logits = session.run(["logits"], {"images": normal.transpose(2, 0, 1)[None]})[0][0]  # (classes, h, w)
(H, W), step = image.shape[:2], facts["size_divisor"]
size = [-(-max(side, facts["minimum_size"]) // step) * step for side in (W, H)]  # the graph pads right and below
"""

ENLARGE = """\
planes = [Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR) for plane in logits]
"""

ENLARGE_BY_CORNERS = """\
steps = [(n - 1) / (N - 1) for n, N in zip(logits.shape[:0:-1], size)]  # align_corners: corners lie on corners
box = [0.5 - s / 2 for s in steps] + [n - 0.5 + s / 2 for n, s in zip(logits.shape[:0:-1], steps)]
planes = [Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR, box) for plane in logits]
"""

ARGMAX = """\
mask = np.argmax(np.stack(planes), axis=0)[:H, :W].astype(np.uint8)  # (H, W); 0 is facts["classes"][0]
"""

SAVE = 'Image.fromarray(mask).save("mask.png")\n'


def onnx_lines(path: Path, facts: FileFacts) -> str | None:
    """Python lines that make mask.png of photo.jpg with the .onnx file at `path`; None where it takes no RGB images.

    The mask is that of `predict`, but for pixels of two classes that are equally likely to the last bits. What the
    lines leave out (resizing to test_resize, objects) is said above them.
    """
    if facts.channels != 3:
        return None
    notes = ""
    if facts.test_resize:
        notes += "# predict first makes the short side {}, or the long one {} where that is less\n".format(
            *facts.test_resize
        )
    if facts.panoptic:
        notes += "# classes alone: objects are found by featherseg's predict\n"
    enlarge = ENLARGE_BY_CORNERS if facts.align_corners else ENLARGE
    body = MASKS if facts.masks else LOGITS + enlarge + ARGMAX
    return notes + HEAD.format(path=json.dumps(str(path), ensure_ascii=False)) + body + SAVE
