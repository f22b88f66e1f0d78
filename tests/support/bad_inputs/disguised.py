"""Files that are not images, whatever their name; and sound images under another format's name."""

import io
import json
import pickle
import zipfile

from PIL import Image
from support.bad_inputs.case import RGB, BadInput, bad, good, saved

SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">\
<script>alert(1)</script><text>&a;</text></svg>"""
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n%%EOF\n"
HTML = b"<!doctype html><title>404</title><script>alert(1)</script><h1>Not found</h1>"


def disguised() -> list[BadInput]:
    """Return text, pages, archives and foreign images named .png, and sound images misnamed."""
    strangers = {
        "nothing": b"",
        "one byte": b"\x89",
        "a line break": b"\n",
        "zeros": bytes(4096),
        "text": "An image of a street, in words: ä ö ü 街.\n".encode() * 20,
        "text in UTF-16": "no image".encode("utf-16"),
        "a page": HTML,
        "a drawing": SVG,
        "a document": PDF,
        "a program of PostScript": EPS,
        "an archive": _zip({"a.png": saved(RGB, "PNG")}),
        "a table": b"file,class\na.png,road\n",
        "JSON": json.dumps({"image": "a.png", "size": [24, 33]}).encode(),
        "a pickle": pickle.dumps(RGB),
        "an array of numpy": _npy(),
        "a program": b"\x7fELF\x02\x01\x01" + bytes(200),
        "a script": b"#!/bin/sh\nrm -rf /tmp/nothing\n",
        "a sound": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + bytes(20),
        "a video": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(200),
        "an image of a phone": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "a pointer to a large file": b"version https://git-lfs.github.com/spec/v1\n"
        b"oid sha256:0\nsize 12345\n",
        "the beginning of a PNG, then text": b"\x89PNG\r\n\x1a\n" + b"and then words " * 9,
        "the beginning of a JPEG, then text": b"\xff\xd8\xff\xe0" + b"and then words " * 9,
        "the beginning of a BMP, then text": b"BM" + b"and then words " * 9,
        "the beginning of a TIFF, then text": b"II*\0" + b"and then words " * 9,
        "a PNG behind a line of text": b"HTTP/1.1 200 OK\r\n\r\n" + saved(RGB, "PNG"),
        "a PNG sent as text": saved(RGB, "PNG").replace(b"\r\n", b"\n"),
    }
    cases = [bad(f"disguised/{name}", "street.png", content) for name, content in strangers.items()]
    image = Image.fromarray(RGB)
    for kind in ("ICO", "ICNS", "TGA", "PCX", "SGI", "EPS", "PDF", "DDS", "XBM"):
        content = _other(image, kind)
        if content is not None:
            cases.append(bad(f"disguised/an image of format {kind}", "street.png", content))
    names = [
        ("PNG", "a.jpg"),
        ("BMP", "a.png"),
        ("TIFF", "a.bmp"),
        ("PNG", "a"),
        ("PNG", "a.png.exe"),
    ]
    for kind, file in (*names, ("PPM", "a.png"), ("JPEG2000", "a.png")):
        cases.append(good(f"disguised/{kind} named {file}", file, saved(RGB, kind), RGB))
    return cases


def _other(image: Image.Image, kind: str) -> bytes | None:
    """An image in a format that is not read; None where this machine's Pillow cannot write it."""
    try:
        return saved(image.convert("1") if kind == "XBM" else image, kind)
    except (OSError, KeyError):
        return None


def _zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # the date of 1980, always the same
    return out.getvalue()


def _npy() -> bytes:
    import numpy as np

    out = io.BytesIO()
    np.save(out, RGB)
    return out.getvalue()
