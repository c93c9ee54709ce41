"""DELTA with the weights of its attention dealt to the filters at random: question 4 of docs/map.md.

python benchmarks/shuffled_attention.py --out=shuffled.json \
    --run=runs/map/recipes/runs/caltech101/mobilenet_v2/frozen-trained-1e-02/delta/seed-0
python -m delta_jax.sweep --config=configs/map/shuffled.py --workdir=runs/map/shuffled \
    --config.run.attention_file=shuffled.json --config.data_sets.caltech101.data.root=PHOTOS/caltech101_30

The run is one of recipes.py: all of these measure the same gaps but for the seed that their images are drawn with.
"""

from ml_collections import ConfigDict

from delta_jax.configs.map.recipes import get_config as get_recipes

# {recipe: what the validation images chose for exact attention, docs/study/map_recipes.jsonl}. At its strength the two
# differ in nothing but which filter has which weight. With batch statistics and 0.05 nothing is left with either.
CHOSEN = {
    "batch-random-1e-02": 10.0,
    "batch-trained-1e-02": 10.0,
    "frozen-random-1e-02": 1.0,
    "frozen-random-5e-02": 1.0,
    "frozen-trained-1e-02": 1.0,
    "frozen-trained-5e-02": 1.0,
}


def get_config() -> ConfigDict:
    """The recipes of the two middle rates in which exact attention trained, two seeds: 12 runs."""
    config = get_recipes()
    config.name = "map_shuffled"
    config.title = "Where DELTA wins: shuffled attention"
    config.variants = ConfigDict(
        {name: {**config.variants[name].to_dict(), "alpha_relative": alpha} for name, alpha in CHOSEN.items()}
    )
    config.methods = ("delta",)
    config.strengths = ConfigDict()
    return config
