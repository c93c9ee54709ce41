#!/usr/bin/env bash
# Pillow 13.0.0: of grey TIFFs in which 0 shows white (PhotometricInterpretation 0) it inverts those of 8 bits, as
# viewers do. Of 16 bits it opens the little-endian ones as they are, a negative without a word, and refuses the
# big-endian ones; those of float it opens as they are in both orders.
#
# Expected: all inverted, or all as stored. Seen (the first pixel is stored as 0, which is white):
#   uint8 <    first pixel 255
#   uint8 >    first pixel 255
#   uint16 <   first pixel 0
#   uint16 >   refused
#   float32 <  first pixel 0
#   float32 >  first pixel 0
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3
cd "$folder"

venv/bin/python - <<'PY'
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

found = {}
for kind in ("uint8", "uint16", "float32"):
    ramp = np.linspace(0, 255, 64).round().reshape(8, 8).astype(kind)
    for order in "<>":
        tifffile.imwrite("photo.tif", ramp, photometric="miniswhite", byteorder=order)
        try:
            with Image.open("photo.tif") as image:
                found[kind, order] = f"first pixel {np.asarray(image)[0, 0]:g}"
        except UnidentifiedImageError:
            found[kind, order] = "refused"
        print(f"{kind + ' ' + order:10} {found[kind, order]}")
expected = ["first pixel 255"] * 2 + ["first pixel 0", "refused"] + ["first pixel 0"] * 2
assert list(found.values()) == expected, "it is otherwise now"
PY
