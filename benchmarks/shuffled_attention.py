"""The measured gaps of a run, dealt to the filters of their tap at random: the control of docs/attention.md.

    python benchmarks/shuffled_attention.py --run=runs/elpv --out=shuffled.json

RUN is a workdir of `train` or `attend`. `--config.attention_file=shuffled.json` then has weights as uneven as the
measured ones, on other filters.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from delta_jax.training import channel_weights
from delta_jax.training.attention_phase import FILE


def shuffled(gaps: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """{tap: [C]}, each in an order of its own."""
    rng = np.random.default_rng(seed)
    return {tap: rng.permutation(of_tap) for tap, of_tap in gaps.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="workdir with attention.npz")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not (args.run / FILE).exists():
        raise SystemExit(f"error: {args.run} has no {FILE}; give the workdir of a run of delta, or of `attend`")
    taps = json.loads((args.run / "config.json").read_text())["taps"]
    with np.load(args.run / FILE) as file:
        gaps = {tap: file[f"gap/{tap}.npy"] for tap in taps}
    found = shuffled(gaps, args.seed)
    channel_weights.write(args.out, found)
    moved = sum(int((gaps[tap] != found[tap]).sum()) for tap in gaps)
    print(f"{args.out}: {len(gaps)} taps, {sum(map(len, gaps.values()))} filters, {moved} of them with another's gap")


if __name__ == "__main__":
    main()
