#!/usr/bin/env bash
# Pillow 13.0.0: a 16-bit RGB PNG may name one transparent colour in 16 bits (chunk tRNS). Pillow keeps the first byte
# of every sample, but compares it with the second byte of that colour: for the colour (256, 256, 256) what is black
# becomes transparent, and what has the colour stays opaque.
#
# Expected: alpha [255, 0, 255] for pixels of 0, 256 and 65535. Seen: alpha [0, 255, 255].
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6
cd "$folder"

venv/bin/python - <<'PY'
import struct
import zlib

import numpy as np
from PIL import Image


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


row = np.repeat(np.array([0, 256, 65535], ">u2"), 3)  # three grey pixels in RGB
with open("photo.png", "wb") as file:
    file.write(b"\x89PNG\r\n\x1a\n")
    file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 1, 16, 2, 0, 0, 0)))
    file.write(chunk(b"tRNS", struct.pack(">HHH", 256, 256, 256)))
    file.write(chunk(b"IDAT", zlib.compress(b"\0" + row.tobytes())) + chunk(b"IEND", b""))
with Image.open("photo.png") as image:
    alpha = np.asarray(image.convert("RGBA"))[0, :, 3].tolist()
print(f"alpha of 0, 256 and 65535 where 256 is transparent: {alpha}")
assert alpha == [0, 255, 255], "it is otherwise now"
PY
