"""Serve the included model and ask it for a mask: python scripts/ask_service.py IMAGES MASKS

The mask of the first image must be the one that `featherseg predict` wrote. Standard library only.
"""

import subprocess
import sys
import urllib.request
from pathlib import Path

image = sorted(Path(sys.argv[1]).glob("*.png"))[0]
expected = (Path(sys.argv[2]) / f"{image.stem}_mask.png").read_bytes()
command = ["featherseg", "serve", "efficientvit-seg-b0-shapes", "--port", "0"]
with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as service:
    try:
        address = next(line for line in service.stdout or () if line.startswith("http://")).strip()
        part = (
            b'--part\r\nContent-Disposition: form-data; name="image"; filename="image.png"\r\n\r\n'
        )
        body = part + image.read_bytes() + b"\r\n--part--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=part"}
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}v1/segment", body, kind), timeout=60
        ) as answer:
            mask = answer.read()
    finally:
        service.terminate()
sys.exit("the service's mask is not the one of predict" if mask != expected else service.returncode)
