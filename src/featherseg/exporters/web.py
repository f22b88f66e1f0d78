"""web: a folder with a page that runs the model in the browser, opened from disk, offline.

A page on disk cannot fetch files, so the model and the WebAssembly of onnxruntime-web are stored in
scripts, as base64 of gzip. onnxruntime-web is no Python package: its npm archive is searched for,
and used only in the tested version.
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
"""The version of onnxruntime-web that the page was tested with."""

RUNTIME = {
    "ort.wasm.min.js": "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""The files of the package's dist/ that the page needs, and their sha256 in VERSION."""

VARIABLE = "FEATHERSEG_ONNXRUNTIME_WEB"
"""Environment variable for the .tgz written by `npm pack`, or the unpacked package."""

PLACES = (f"onnxruntime-web-{VERSION}.tgz", "node_modules/onnxruntime-web")
"""Where it is searched for in the current folder, if the variable is not set."""

PAGE = ("index.html", "page.css", "page.js", "png.js", "LICENCE-onnxruntime-web.txt")
"""featherseg's files of the page, in web_page/."""


def write(job: Job) -> None:
    """Write web/index.html and its files into the job's folder; web/model.onnx is the model.

    Raises MissingExtra if onnxruntime-web is not found, ExportError if its version is not the
    tested one, or if the model does not take RGB.
    """
    if len(job.model.mean) != 3:
        raise ExportError(
            f"a page shows RGB images, but this model takes {len(job.model.mean)} channels."
        )
    runtime = find_runtime()
    model = to_onnx(graph_form(job.model), job.facts, masks=True)
    folder = job.folder / "web"
    folder.mkdir()
    for name in PAGE:
        (folder / name).write_bytes(
            (files("featherseg.exporters") / "web_page" / name).read_bytes()
        )
    script, glue, wasm = (runtime[name] for name in RUNTIME)
    (folder / "ort.wasm.min.js").write_bytes(script)
    _pack(folder / "runtime.js", "runtime", {"glue": _packed(glue), "wasm": _packed(wasm)})
    _pack(folder / "model.js", "model", {"facts": _facts(job), "onnx": _packed(model)})
    (folder / "model.onnx").write_bytes(model)


def _facts(job: Job) -> dict[str, Any]:
    """Return what the page shows and needs to know about the model."""
    texts = job.metadata
    return {
        "name": job.facts.name,
        "licence": job.facts.licence,
        "classes": [{"name": row.name, "color": row.color} for row in job.facts.classes],
        "resize": job.facts.test_resize,
        # The page makes masks: it enlarges the scores of every class and crops them to the image
        "peak_bytes_per_pixel": max(
            json.loads(texts["peak_bytes_per_pixel"]), 8.0 * len(job.facts.classes) + 20
        ),
    }


def _pack(path: Path, key: str, value: dict[str, Any]) -> None:
    """Write a script that stores `value` for page.js."""
    path.write_text(
        f"var packed = {{ ...globalThis.packed, {key}: {json.dumps(value)} }};\n", encoding="ascii"
    )


def _packed(content: bytes) -> str:
    return b64encode(gzip.compress(content, mtime=0)).decode("ascii")


def find_runtime() -> dict[str, bytes]:
    """Return the files of RUNTIME. Raises MissingExtra, ExportError."""
    named = os.environ.get(VARIABLE)
    place = next((path for path in map(Path, [named] if named else PLACES) if path.exists()), None)
    if place is None:
        raise MissingExtra(
            f"the page is built on onnxruntime-web {VERSION}, which was not found: looked for "
            f"{named or ' and '.join(PLACES)}. Get it with: npm pack onnxruntime-web@{VERSION}  "
            "and run this again in the same folder, or name the .tgz (or the unpacked package) in "
            f"{VARIABLE}."
        )
    contents = {name: _read(place, name) for name in RUNTIME}
    for name, digest in RUNTIME.items():
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise ExportError(
                f"{name} of {place} is not that of onnxruntime-web {VERSION}, with which the page "
                f"was tested. Get it with: npm pack onnxruntime-web@{VERSION}"
            )
    return contents


def _read(place: Path, name: str) -> bytes:
    """Return one file of the package's dist/. Raises ExportError if it is missing."""
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
            f"{place} contains no dist/{name} ({error}): expected the npm package onnxruntime-web "
            f"{VERSION}, as written by: npm pack onnxruntime-web@{VERSION}"
        ) from None
