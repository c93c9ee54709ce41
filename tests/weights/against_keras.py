"""Logits of networks here beside those that tests.golden.keras_networks wrote, with the same random weights.

python -m tests.weights.against_keras FILE.npz
"""

import sys

import jax
import numpy as np

from delta_jax import models, weights
from tests.golden import keras_networks as golden
from tests.weights.test_keras import arch_of, of_keras


def main(file: str) -> None:
    """Prints for each case how far the logits are apart, and how much they depend on the image."""
    for case, wanted in np.load(file).items():
        kind, size = case.split("-")
        spec, network = models.spec(arch_of(kind)), models.create(arch_of(kind), num_classes=golden.CLASSES)
        variables = weights.from_torch(of_keras(kind), arch_of(kind), golden.CLASSES)
        seen = ((golden.images(int(size)) / 255 - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)
        run = jax.jit(network.apply)
        logits, nudged = np.asarray(run(variables, seen)), np.asarray(run(variables, seen * np.float32(1 + 1e-6)))
        largest = abs(wanted).max()
        apart, images, moved = (
            abs(x).max() / largest for x in (logits - wanted, wanted[0] - wanted[1], logits - nudged)
        )
        print(f"{case}, of the largest logit, {largest:.3g}: {apart:.1e} from Keras', {images:.1e} between two images,")
        print(f"    {moved:.1e} for a millionth of the image more", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
