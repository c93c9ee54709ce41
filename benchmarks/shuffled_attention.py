"""A file of gaps whose values are dealt to the filters of their tap at random: the control of docs/attention.md.

    python -m delta_jax.attend --config=configs/elpv.py --workdir=runs/elpv --export=gaps.json
    python benchmarks/shuffled_attention.py --gaps=gaps.json --out=shuffled.json

`--config.attention_file=shuffled.json` then has weights as uneven as the measured ones, on other filters.
"""

import argparse
import json
from pathlib import Path

import numpy as np


def shuffled(gaps: list[list[float]], seed: int) -> list[list[float]]:
    """Each list in an order of its own."""
    rng = np.random.default_rng(seed)
    return [[of_tap[place] for place in rng.permutation(len(of_tap))] for of_tap in gaps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaps", type=Path, required=True, help="JSON with a list of gaps per tap")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    gaps = json.loads(args.gaps.read_text())
    found = shuffled(gaps, args.seed)
    args.out.write_text(json.dumps(found))
    moved = sum(a != b for one, other in zip(gaps, found, strict=True) for a, b in zip(one, other, strict=True))
    print(f"{args.out}: {len(gaps)} taps, {sum(map(len, gaps))} filters, {moved} of them with another's gap")


if __name__ == "__main__":
    main()
