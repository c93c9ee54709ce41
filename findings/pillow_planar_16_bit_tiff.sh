#!/usr/bin/env bash
# Pillow 13.0.0: an uncompressed 16-bit RGB TIFF whose colours lie in three planes (PlanarConfiguration 2) opens without
# a word and shows the bytes of each plane as if they were pixels of 8 bits: both bytes of a sample side by side, and
# only half of the picture. The same picture compressed, or with its colours interleaved, is read rightly.
#
# Expected: the more significant byte of each sample, as in the other two. Seen:
#   interleaved        difference from the high bytes: 0
#   planes, deflate    difference from the high bytes: 0
#   planes, raw        difference from the high bytes: 245
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

samples = np.random.default_rng(0).integers(0, 65536, (8, 8, 3)).astype(np.uint16)
kinds = {
    "interleaved": (samples, {}),
    "planes, deflate": (samples.transpose(2, 0, 1).copy(), {"planarconfig": "separate", "compression": "zlib"}),
    "planes, raw": (samples.transpose(2, 0, 1).copy(), {"planarconfig": "separate"}),
}
found = {}
for name, (array, options) in kinds.items():
    tifffile.imwrite("photo.tif", array, photometric="rgb", **options)
    with Image.open("photo.tif") as image:
        found[name] = int(np.abs(np.asarray(image).astype(int) - (samples >> 8)).max())
    print(f"{name:18} difference from the high bytes: {found[name]}")
assert found["interleaved"] == found["planes, deflate"] == 0, "the other two are read otherwise now"
assert found["planes, raw"] > 100, "planes are read rightly now"
PY
