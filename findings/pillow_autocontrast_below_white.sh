#!/usr/bin/env bash
# Pillow 13.0.0: ImageOps.autocontrast is to stretch a channel from its darkest and brightest level to 0 and 255. For
# 4,852 of the 32,640 pairs of levels the brightest becomes 254: scale and offset are floats, and their sum, which falls
# short of 255 by the last bit, is cut off to a whole number. A second call is then another image than the first.
#
# Expected: [0, 255] for an image of the levels 0 and 25. Seen: [0, 254], and [0, 255] after the second call.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pillow==13.0.0 numpy==2.4.6
cd "$folder"

venv/bin/python - <<'PY'
import numpy as np
from PIL import Image, ImageOps


def stretched(image):
    return ImageOps.autocontrast(image)


def levels(image):
    return np.asarray(image)[0].tolist()


image = Image.fromarray(np.array([[0, 25]], np.uint8))
once = stretched(image)
print(f"levels 0 and 25 become {levels(once)}, and these {levels(stretched(once))}")
pairs = [(low, high) for high in range(256) for low in range(high)]
found = [levels(stretched(Image.fromarray(np.array([pair], np.uint8)))) for pair in pairs]
short = sum(after != [0, 255] for after in found)
print(f"{short:,} of {len(pairs):,} pairs of levels do not become 0 and 255")
assert (levels(once), levels(stretched(once)), short) == ([0, 254], [0, 255], 4852), "it is otherwise now"
PY
