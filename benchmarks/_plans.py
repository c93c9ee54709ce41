"""Plans of ResNet-101 for docs/scale.md and launch/README.md: compiled once, and kept in docs/scale.json."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "scale.json"

SHARED = (
    *("--config=configs/default.py", "--config.arch=resnet101", "--config.weights=torchvision/resnet101-v1"),
    *("--config.attention_per=data_set", "--config.data.validation_fraction=0.0"),
    *("--classes=200", "--images=12000,0,3000"),
)
_BFLOAT16, _STEP = "--config.compute_dtype=bfloat16", ("--program=step", "--nolargest")


def _case(topology: str, chips: int, each: int, *flags: str) -> tuple[str, ...]:
    batches = {"batch_size": chips * each, "eval_batch_size": chips * 64, "attention_batch": chips * 8}
    return (f"--topology={topology}", *(f"--config.{name}={size}" for name, size in batches.items()), *flags)


# {name: flags of a plan beside those above}, in the order in which they are wanted; the images are those of a chip.
CASES: dict[str, tuple[str, ...]] = {
    "H100, 64 images": _case("h100x1", 1, 64, _BFLOAT16),
    "8 H100, 64 images": _case("h100x8", 8, 64, _BFLOAT16, *_STEP),
    "H100, 64 images, float32": _case("h100x1", 1, 64, *_STEP),
    "4 v5e, 32 images": _case("v5e:2x2", 4, 32, _BFLOAT16, *_STEP),
    "v5e, 64 images": _case("v5e:1x1", 1, 64, _BFLOAT16, "--program=step"),
    "v6e, 64 images": _case("v6e:1x1", 1, 64, _BFLOAT16, *_STEP),
    "v5p, 64 images": _case("v5p:1x1x1", 1, 64, _BFLOAT16, *_STEP),
    "v4, 64 images": _case("v4:1x1x1", 1, 64, _BFLOAT16, *_STEP),
    "256 v5e, 32 images": _case("v5e:16x16", 256, 32, _BFLOAT16, *_STEP),
    "64 v5p, 32 images": _case("v5p:4x4x4", 64, 32, _BFLOAT16, *_STEP),
    "4 v5e, 32 images, l2": _case("v5e:2x2", 4, 32, _BFLOAT16, "--config.method=l2", *_STEP),
    "4 v5e, 32 images, float32": _case("v5e:2x2", 4, 32, *_STEP),
}


def read() -> Mapping[str, Any]:
    """{case: plan} of those that were compiled."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def compile_missing(beginning: str, *, again: bool) -> None:
    """Case after case into the file: those whose names begin so, and that it has not, or again."""
    for name, flags in CASES.items():
        plans = read()
        if not name.startswith(beginning) or (name in plans and not again):
            continue
        print(f"{name}: python -m delta_jax.plan {' '.join([*SHARED, *flags])}", flush=True)
        command = [sys.executable, "-m", "delta_jax.plan", *SHARED, *flags, "--json"]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(f"error: the plan of {name!r} ended with status {done.returncode}")
        found = {"flags": flags, "jax": version("jax"), "compiler": _compiler(flags), **json.loads(done.stdout)}
        merged = {**read(), name: found}
        FILE.write_text(json.dumps({case: merged[case] for case in CASES if case in merged}, indent=1) + "\n")


def _compiler(flags: Sequence[str]) -> str:
    package = "jax-cuda13-plugin" if flags[0].startswith("--topology=h100") else "libtpu"
    return f"{package} {version(package)}"
