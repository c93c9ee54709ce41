"""DELTA with the weights of its attention dealt to the filters at random: question 4 of docs/map.md.

python -m delta_jax.attend --config=configs/folder.py --workdir=runs/map/attention ... --export=gaps.json
python benchmarks/shuffled_attention.py --gaps=gaps.json --out=shuffled.json
python -m delta_jax.sweep --config=configs/map/shuffled.py --workdir=runs/map/shuffled \
    --config.run.attention_file=shuffled.json --config.data_sets.caltech101.data.root=PHOTOS/caltech101_30

The network, size and images of `attend` are those of recipes.py, so that the weights are the same but for their places.
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
