"""Wrong training labels, 20 and 40 %, in one cell of configs/map/recipes.py; docs/map.md.

python benchmarks/noisy_labels.py --root=PHOTOS/caltech101_30 --share=0.2 --out=PHOTOS/noisy20.csv
python benchmarks/noisy_labels.py --root=PHOTOS/caltech101_30 --share=0.4 --out=PHOTOS/noisy40.csv
python -m delta_jax.sweep --config=configs/map/noise.py --workdir=runs/map/noise \
    --config.data_sets.noisy20.data.root=PHOTOS/noisy20.csv --config.data_sets.noisy40.data.root=PHOTOS/noisy40.csv
"""

from ml_collections import ConfigDict

from delta_jax.configs.map.recipes import get_config as get_recipes


def get_config() -> ConfigDict:
    """The gentle recipe; strengths chosen on validation images whose labels are as wrong as those of training."""
    config = get_recipes()
    config.name = "map_noise"
    config.title = "Where DELTA wins: wrong labels"
    config.data_sets = ConfigDict(
        {name: {"data": {"name": "manifest", "root": f"photos/{name}.csv"}} for name in ("noisy20", "noisy40")}
    )
    config.variants = ConfigDict()
    config.run.learning_rate = 0.01
    config.methods = ("l2_fe", *config.methods)
    return config
