"""What benchmarks/on_gpu.sh measured, beside what was predicted: a table from the files in its folder.

Predicted are, by `delta_jax.plan`, memory as the chip's compiler sets it aside, and the least time: products at the
published peak, or arguments moved once. No step reaches that; the ratio says how far from it one is.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = tuple[str, float | None, float | None]  # what, predicted, measured


def rows(folder: Path) -> Iterator[Row]:
    """What is missing because its part failed is None."""
    for method in ("l2", "delta"):
        planned = _json(folder / f"plan-{method}.txt").get("programs", {}).get("step", {})
        for dtype in ("bfloat16", "float32"):
            found = _json(folder / f"step-{dtype}.json")
            measured = found.get("methods", {}).get(method, {})
            predicted = planned if dtype == "bfloat16" else {}
            name = f"step {method} {dtype}"
            rate = measured.get("images_per_second")
            yield f"{name}, ms", _times(1e3, predicted.get("least_seconds")), rate and 1e3 * found["batch"] / rate
            for kind in ("held", "temporary"):
                size = measured.get("bytes", {}).get(kind)
                yield f"{name}, GB {kind}", _times(1e-9, predicted.get(kind)), _times(1e-9, size)
    planned = _json(folder / "plan-attention.txt").get("programs", {}).get("attention", {})
    for estimator in ("exact", "first_order"):
        least = planned.get("least_seconds") if estimator == "exact" else None
        each = 1e3 / planned["images"] if planned.get("images") else None
        yield f"attention {estimator} float32, ms an image", _times(each, least), _times(1e3, _last(folder, estimator))


def ratios(folder: Path) -> Iterator[tuple[str, float]]:
    """What has no prediction: delta over l2, and the speed of bfloat16 over float32."""
    steps = {dtype: _json(folder / f"step-{dtype}.json").get("methods", {}) for dtype in ("bfloat16", "float32")}
    for dtype, methods in steps.items():
        if "delta" in methods:
            yield f"{dtype}: time of delta over l2", methods["delta"]["time_over_l2"]
            if share := methods["delta"]["share_of_peak"]:
                yield f"{dtype}: delta's share of the published peak", share
    if all("delta" in methods for methods in steps.values()):
        rates = [steps[dtype]["delta"]["images_per_second"] for dtype in ("bfloat16", "float32")]
        yield "images per second of delta, bfloat16 over float32", rates[0] / rates[1]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _last(folder: Path, estimator: str) -> float | None:
    """The number in the last line of what benchmarks/attention.py prints."""
    path = folder / f"attention-{estimator}.txt"
    lines = path.read_text().split() if path.exists() else []
    return float(lines[-1]) if lines and re.fullmatch(r"[\d.]+", lines[-1]) else None


def _times(factor: float | None, value: float | None) -> float | None:
    return factor * value if factor and value else None  # nothing takes no time: no peak is published for CPUs


def _cell(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.3g}':>12}"


def main() -> None:
    folder = Path(sys.argv[1])
    print(f"{'':44}{'predicted':>12}{'measured':>12}{'ratio':>12}")
    for what, predicted, measured in rows(folder):
        ratio = measured / predicted if predicted and measured else None
        print(f"{what:44}{_cell(predicted)}{_cell(measured)}{_cell(ratio)}")
    for what, ratio in ratios(folder):
        print(f"{what:44}{'':24}{_cell(ratio)}")


if __name__ == "__main__":
    main()
