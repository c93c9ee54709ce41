"""Photos through a run that was exported, by onnxruntime and Pillow: neither jax nor delta_jax is needed.

python -m delta_jax.export --workdir=runs/mine --format=onnx --out=exported
python examples/onnx_batch.py exported/model.onnx photos/*.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

BATCH = 32


def prepared(name: str, seen: dict) -> np.ndarray:
    """A photo as the run saw its own, uint8 [crop, crop, 3]."""
    photo = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    shorter = photo.size if seen["aspect"] == "squash" else [min(photo.size)] * 2
    sides = [seen["resize"] * side // short for side, short in zip(photo.size, shorter, strict=True)]
    photo = photo.resize(sides, Image.Resampling[seen["interpolation"].upper()])
    left, top = (round((side - seen["crop"]) / 2) for side in photo.size)
    return np.asarray(photo.crop((left, top, left + seen["crop"], top + seen["crop"])))


def main(model: str, *names: str) -> None:
    """Prints the class of each photo and its probability."""
    session = onnxruntime.InferenceSession(model)
    facts = session.get_modelmeta().custom_metadata_map
    classes, seen = json.loads(facts["classes"]), json.loads(facts["preprocessing"])
    for start in range(0, len(names), BATCH):
        images = np.stack([prepared(name, seen) for name in names[start : start + BATCH]])
        for name, found in zip(names[start:], session.run(None, {"images": images})[0], strict=False):
            print(f"{name}  {classes[found.argmax()]}  {found.max():.2%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
