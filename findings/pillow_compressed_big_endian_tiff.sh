#!/usr/bin/env bash
# Pillow 13.0.0: a big-endian TIFF of signed 16-bit, signed 32-bit or floating-point grey that is compressed opens without
# a word, with the bytes of every sample the wrong way round: -1000 becomes 6396. libtiff hands its samples over in the
# order of the machine, which Pillow minds for unsigned 16-bit ones only. The same values uncompressed, little-endian, or
# unsigned are read rightly.
#
# Expected: the values that were saved. Seen on a little-endian machine, the largest difference from them:
#   uint16  big-endian raw 0, deflate 0; little-endian deflate 0
#   int16   big-endian raw 0, deflate 33406; little-endian deflate 0
#   int32   big-endian raw 0, deflate 2.14735e+09; little-endian deflate 0
#   float32 big-endian raw 0, deflate 1000; little-endian deflate 0
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3
cd "$folder"

venv/bin/python - <<'PY'
import numpy as np
import tifffile
from PIL import Image

values = np.arange(-1000, 1000, 40).reshape(5, 10)
for kind in ("uint16", "int16", "int32", "float32"):
    saved = (values + 1000 if kind == "uint16" else values).astype(kind)
    found = []
    for order, compression in ((">", None), (">", "zlib"), ("<", "zlib")):
        tifffile.imwrite("grey.tif", saved, byteorder=order, compression=compression, photometric="minisblack")
        with Image.open("grey.tif") as image:
            found.append(float(np.abs(np.asarray(image).astype(np.float64) - saved).max()))
    print(f"{kind:7} big-endian raw {found[0]:g}, deflate {found[1]:g}; little-endian deflate {found[2]:g}")
    assert found[0] == found[2] == 0, "the others are read otherwise now"
    assert (found[1] == 0) == (kind == "uint16"), f"{kind} is read otherwise now"
PY
