"""web: a folder with a page that runs the model in the browser, opened from disk: no server, no connection.

A page on disk may fetch nothing, so the model and the WebAssembly of onnxruntime-web travel inside scripts, as base64
of gzip. onnxruntime-web is no Python package: its npm archive is looked for, and taken if it is the tested one.
"""

import gzip
import hashlib
import json
import os
import tarfile
import zlib
from base64 import b64encode
from importlib.resources import files
from pathlib import Path
from typing import Any

from featherseg.core.errors import ExportError, MissingExtra
from featherseg.exporters.job import Job
from featherseg.exporters.onnx import graph_form, to_onnx

VERSION = "1.30.0"
"""Of onnxruntime-web: the one that the page was tested with."""

RUNTIME = {
    "ort.wasm.min.js": "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""What the page needs of the package's dist/, and the sha256 of each in VERSION."""

VARIABLE = "FEATHERSEG_ONNXRUNTIME_WEB"
"""The environment variable that names the .tgz that `npm pack` writes, or the unpacked package."""

PLACES = (f"onnxruntime-web-{VERSION}.tgz", "node_modules/onnxruntime-web")
"""Where it is looked for in the current folder, where the variable names nothing."""

PAGE = ("index.html", "page.css", "page.js", "png.js", "LICENCE-onnxruntime-web.txt")
"""Our own files of the page, in web_page/."""


def write(job: Job) -> None:
    """web/index.html and what it needs, in the job's folder; web/model.onnx is the model inside, as a file.

    Raises MissingExtra where onnxruntime-web is not found, ExportError where it is another version than the tested one,
    or the model does not take RGB.
    """
    if len(job.model.mean) != 3:
        raise ExportError(f"a page shows RGB images, but this model takes {len(job.model.mean)} channels.")
    runtime = find_runtime()
    model = to_onnx(graph_form(job.model), job.facts, masks=True)
    folder = job.folder / "web"
    folder.mkdir()
    for name in PAGE:
        (folder / name).write_bytes((files("featherseg.exporters") / "web_page" / name).read_bytes())
    script, glue, wasm = (runtime[name] for name in RUNTIME)
    (folder / "ort.wasm.min.js").write_bytes(script)
    _pack(folder / "runtime.js", "runtime", {"glue": _packed(glue), "wasm": _packed(wasm)})
    _pack(folder / "model.js", "model", {"facts": _facts(job), "onnx": _packed(model)})
    (folder / "model.onnx").write_bytes(model)


def _facts(job: Job) -> dict[str, Any]:
    """What the page tells about the model, and needs to know."""
    texts = job.metadata
    return {
        "name": job.facts.name,
        "licence": job.facts.licence,
        "classes": [{"name": row.name, "color": row.color} for row in job.facts.classes],
        "resize": job.facts.test_resize,
        # the page has masks, for which scores of every class are enlarged, and cropped to the image
        "peak_bytes_per_pixel": max(json.loads(texts["peak_bytes_per_pixel"]), 8.0 * len(job.facts.classes) + 20),
    }


def _pack(path: Path, key: str, value: dict[str, Any]) -> None:
    """A script that puts `value` where page.js reads it."""
    path.write_text(f"var packed = {{ ...globalThis.packed, {key}: {json.dumps(value)} }};\n", encoding="ascii")


def _packed(content: bytes) -> str:
    return b64encode(gzip.compress(content, mtime=0)).decode("ascii")


def find_runtime() -> dict[str, bytes]:
    """The files of RUNTIME. Raises MissingExtra, ExportError."""
    named = os.environ.get(VARIABLE)
    place = next((path for path in map(Path, [named] if named else PLACES) if path.exists()), None)
    if place is None:
        raise MissingExtra(
            f"the page is built on onnxruntime-web {VERSION}, which was not found: looked for "
            f"{named or ' and '.join(PLACES)}. Get it with: npm pack onnxruntime-web@{VERSION}  and run this again in "
            f"the same folder, or name the .tgz (or the unpacked package) in {VARIABLE}."
        )
    found = {name: _read(place, name) for name in RUNTIME}
    for name, digest in RUNTIME.items():
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise ExportError(
                f"{name} of {place} is not that of onnxruntime-web {VERSION}, with which the page was tested. "
                f"Get it with: npm pack onnxruntime-web@{VERSION}"
            )
    return found


def _read(place: Path, name: str) -> bytes:
    """One file of the package's dist/. Raises ExportError where it is not there."""
    try:
        if place.is_dir():
            return (place / "dist" / name).read_bytes()
        with tarfile.open(place) as archive:
            file = archive.extractfile(f"package/dist/{name}")
            if file is None:
                raise KeyError(name)
            return file.read()
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise ExportError(
            f"{place} holds no dist/{name} ({error}): expected the npm package onnxruntime-web {VERSION}, "
            f"as written by: npm pack onnxruntime-web@{VERSION}"
        ) from None
