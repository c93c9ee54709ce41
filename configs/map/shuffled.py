"""DELTA with the weights of its attention dealt to the filters at random: question 4 of docs/map.md.

python benchmarks/shuffled_attention.py --out=shuffled.json \
    --run=runs/map/recipes/runs/caltech101/mobilenet_v2/frozen-trained-1e-02/delta/seed-0
python -m delta_jax.sweep --config=configs/map/shuffled.py --workdir=runs/map/shuffled \
    --config.run.attention_file=shuffled.json --config.data_sets.caltech101.data.root=PHOTOS/caltech101_30

The run is one of recipes.py: all of these measure the same gaps but for the seed that their images are drawn with.
"""

from ml_collections import ConfigDict

from delta_jax.configs.map.recipes import get_config as get_recipes

RATES = (0.01, 0.05)


def get_config() -> ConfigDict:
    """The recipes of the two middle rates, three strengths and two seeds, as there: 40 runs."""
    config = get_recipes()
    config.name = "map_shuffled"
    config.title = "Where DELTA wins: shuffled attention"
    config.variants = ConfigDict(
        {name: fields for name, fields in config.variants.items() if fields.learning_rate in RATES}
    )
    config.methods = ("delta",)
    config.strengths = ConfigDict({"delta": config.strengths.delta})
    return config
