"""Which pictures a sweep leaves: those of the paper, and over learning rates those of its recipes."""

import json

from delta_jax.sweeps import figures
from tests import synthetic_sweep

VARIANTS = {"slow": {"learning_rate": 0.001}, "fast": {"learning_rate": 0.1}}


def test_recipes_are_drawn_where_variants_differ_in_the_rate(tmp_path):
    sweep = synthetic_sweep.make(tmp_path / "sweep", seeds=2, steps=400, filters=16, images=40)
    records = [json.loads(line) for line in (sweep / "results.jsonl").read_text().splitlines()]
    records = [one for one in records if one["method"] in ("l2", "delta")]
    assert not [path for path in figures.write(sweep, records, {}, "") if path.name.startswith(("rates", "gains"))]
    of_rates = [{**one, "variant": "fast" if one["seed"] else "slow"} for one in records]
    written = {path.name for path in figures.write(sweep, of_rates, VARIANTS, "l2")}
    assert {"rates-stanford_dogs-resnet101.png", "gains-stanford_dogs-resnet101.png"} <= written
    assert all((sweep / figures.FOLDER / name).exists() for name in written)
    # Of one method there is nothing to compare.
    (sweep / figures.FOLDER / "gains-stanford_dogs-resnet101.png").unlink()
    figures.write(sweep, [one for one in of_rates if one["method"] == "l2"], VARIANTS, "l2")
    assert not (sweep / figures.FOLDER / "gains-stanford_dogs-resnet101.png").exists()
