"""Every network as a program of every format, tried on noise: the table of docs/exports.md.

python -m tests.exports.all_networks [FORMAT...] [--of=NETWORK,NETWORK]

Small images and random weights; what is compared is what the file computes, so trained weights would say nothing else.
"""

import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from delta_jax import models
from delta_jax.exports import formats, trial
from delta_jax.training.classifier import Preprocessing
from tests.reference import random_variables

SIDES = {"inception_v3": 139}  # pixels; 64 of the others
CLASSES = ("blue", "dark green", "rot-weiß")


class Trained:
    """What an export takes of a finished run."""

    auxiliary = False
    class_names = CLASSES

    def __init__(self, arch: str):
        side = SIDES.get(arch, 64)
        self.arch = arch
        self.preprocessing = Preprocessing(side + 8, "bicubic", side, 1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
        self.variables = random_variables(models.create(arch, num_classes=len(CLASSES)), image)


def table(forms: list[str], archs: list[str]) -> None:
    """Prints a line for each as it is done."""
    print("| network | format | MB | largest difference | seconds to write and try |")
    print("| --- | --- | --- | --- | --- |")
    for arch in archs:
        trained = Trained(arch)
        for form in forms:
            said, started = [], time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out"
                try:
                    formats.export(trained, form, out, say=said.append)
                    size = (out / formats.PROGRAMS[form].FILE).stat().st_size / 1e6
                    found = f"{size:.1f} | {said[0].partition('within ')[2].partition(';')[0]}"
                except ValueError as error:
                    found = f"- | {error}"
            print(f"| {arch} | {form} | {found} | {time.perf_counter() - started:.0f} |", flush=True)


if __name__ == "__main__":
    trial.MADE_UP = 2
    jax.config.update("jax_disable_most_optimizations", True)  # what is compiled here runs on two images
    named = [word for word in sys.argv[1:] if not word.startswith("--of=")]
    chosen = [name for word in sys.argv[1:] if word.startswith("--of=") for name in word[5:].split(",")]
    table(named or list(formats.PROGRAMS), chosen or list(models.names()))
