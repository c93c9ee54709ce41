"""Processor seconds for the head of L2-FE, all penalties, beside scipy's L-BFGS in float64 to the same bounds.

    python benchmarks/head.py [--classes=101] [--examples=1200] [--width=320] [--features=FILE.npz] [--threads=1]

Features are rectified mixtures of Gaussians with correlated noise, or those of a file: "views" [N, D] and "labels" [N],
and "hv" and "hl" of the validation images.
"""

import argparse
import contextlib
import time
from pathlib import Path

import numpy as np
from scipy import optimize, special
from threadpoolctl import threadpool_limits

from delta_jax.training import head_phase

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def drawn(classes: int, examples: int, width: int) -> Problem:
    """Features [N, D] and labels [N] to fit and as many, or 600, to choose by."""
    rng = np.random.default_rng(0)
    centres = 0.12 * rng.standard_normal((classes, width))
    mixing = rng.standard_normal((width, width)) / np.sqrt(width) * np.geomspace(0.1, 2, width)

    def some(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.resize(np.arange(classes), count)
        return np.maximum(centres[labels] + rng.standard_normal((count, width)) @ mixing, 0).astype(np.float32), labels

    return *some(examples), *some(min(examples, 600))


def plain(features: np.ndarray, labels: np.ndarray, classes: int, l2: float, until: float, start: np.ndarray):
    """Weights [D + 1, K] at which no more than `until` of the loss can be missing, and the gradients it took."""
    x = np.concatenate([features, np.ones((len(features), 1))], 1)
    own, count = (np.arange(len(labels)), labels), 0

    class Near(Exception):
        pass

    last = start

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal count, last
        count, last = count + 1, flat.reshape(start.shape)
        logits = x @ last
        residual = special.softmax(logits, 1)
        loss = float((special.logsumexp(logits, 1) - logits[own]).mean() + l2 / 2 * np.vdot(flat, flat))
        residual[own] -= 1
        gradient = x.T @ (residual / len(labels)) + l2 * last
        if np.vdot(gradient, gradient) <= until * 2 * l2 * loss:
            raise Near
        return loss, gradient.ravel()

    options = {"maxcor": 20, "maxiter": 20_000, "maxfun": 20_000, "ftol": 0.0, "gtol": 0.0}
    with contextlib.suppress(Near):
        optimize.minimize(loss_and_gradient, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return last, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=101)
    parser.add_argument("--examples", type=int, default=1200)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.features:
        with np.load(args.features) as file:
            features, labels, *held_out = (file[name] for name in ("views", "labels", "hv", "hl"))
    else:
        features, labels, *held_out = drawn(args.classes, args.examples, args.width)
    classes, width = int(labels.max()) + 1, features.shape[1]
    zeros = {"kernel": np.zeros((width, classes), np.float32), "bias": np.zeros(classes, np.float32)}
    print(f"{len(features)} x {width} features, {classes} classes, {args.threads} thread(s)")
    with threadpool_limits(args.threads):
        began = time.process_time()
        _, facts = head_phase.choose(features, labels, (held_out[0], held_out[1]), STRENGTHS, zeros)
        ours = time.process_time() - began
        start, theirs = np.zeros((width + 1, classes)), 0.0
        for one in facts["tried"]:
            began = time.process_time()
            start, count = plain(features, labels, classes, one["l2"], max(one["suboptimality"], 1e-10), start)
            theirs += time.process_time() - began
            chosen = ", chosen" if one["l2"] == facts["l2"] else ""
            print(f"penalty {one['l2']:g}: within {one['suboptimality']:.1e}{chosen}; scipy: {count} gradients")
    print(f"head: {ours:.1f} s of processor time; scipy, as near: {theirs:.1f} s; ratio {theirs / ours:.1f}")


if __name__ == "__main__":
    main()
