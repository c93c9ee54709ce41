"""The accuracies of the paper (Li et al., ICLR 2019, arXiv 1901.09229), as data.

Mean and standard deviation over five runs, top-1 of the test images. Its Indoor 67 rows start from weights trained on
Places365, all others from ImageNet's.
"""

TABLES = ("table1", "table2")
DATA_SETS = {
    "indoor67": "MIT Indoor 67",
    "stanford_dogs": "Stanford Dogs 120",
    "caltech256_30": "Caltech 256-30",
    "caltech256_60": "Caltech 256-60",
    "cub200": "CUB-200-2011",
    "food101": "Food-101",
}
NETWORKS = {"resnet101": "ResNet-101", "inception_v3": "Inception-V3"}
METHODS = {
    "l2_fe": "L2-FE",
    "l2": "L2",
    "l2_sp": "L2-SP",
    "delta_without_attention": "DELTA w/o attention",
    "delta": "DELTA",
}
SOURCE = "source"  # the network before fine-tuning, a column of Table 3

# Percent, mean and standard deviation in turn, in the order of the columns.
_COLUMNS = {"table1": tuple(METHODS), "table2": ("l2", "l2_sp", "delta")}
_ACCURACIES: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("table1", "resnet101"): {
        "indoor67": (80.4, 0.2, 83.7, 0.3, 85.1, 0.1, 85.3, 0.2, 85.5, 0.3),
        "stanford_dogs": (84.7, 0.1, 83.3, 0.2, 88.3, 0.2, 88.3, 0.2, 88.7, 0.1),
        "caltech256_30": (82.9, 0.2, 84.7, 0.3, 85.4, 0.2, 85.7, 0.3, 86.6, 0.1),
        "caltech256_60": (85.3, 0.2, 87.2, 0.3, 87.2, 0.1, 87.6, 0.2, 88.7, 0.1),
        "cub200": (61.5, 0.1, 78.4, 0.1, 79.5, 0.1, 78.9, 0.1, 80.5, 0.1),
        "food101": (64.3, 0.1, 85.3, 0.1, 86.4, 0.1, 85.9, 0.1, 86.3, 0.2),
    },
    ("table1", "inception_v3"): {
        "indoor67": (74.9, 0.2, 74.8, 0.4, 74.6, 0.4, 76.9, 0.3, 78.1, 0.4),
        "stanford_dogs": (84.1, 0.1, 88.6, 0.2, 89.4, 0.1, 88.7, 0.1, 88.7, 0.1),
        "caltech256_30": (82.5, 0.2, 83.6, 0.2, 83.3, 0.2, 83.4, 0.3, 84.9, 0.2),
    },
    ("table2", "resnet101"): {
        "indoor67": (84.4, 0.5, 85.2, 0.3, 85.9, 0.3),
        "stanford_dogs": (85.7, 0.2, 90.8, 0.2, 91.2, 0.2),
        "caltech256_30": (85.1, 0.4, 86.4, 0.2, 87.1, 0.2),
        "caltech256_60": (87.4, 0.2, 88.3, 0.1, 89.1, 0.1),
        "cub200": (81.7, 0.2, 82.3, 0.2, 82.6, 0.2),
        "food101": (86.7, 0.1, 87.2, 0.2, 87.5, 0.1),
    },
    ("table2", "inception_v3"): {
        "indoor67": (75.5, 0.4, 76.5, 0.3, 78.7, 0.3),
        "stanford_dogs": (91.2, 0.1, 91.9, 0.1, 92.1, 0.1),
        "caltech256_30": (84.7, 0.2, 84.5, 0.2, 85.5, 0.2),
    },
}
# Table 3: sum of the normalised activations at the 15 parts of a bird, mean over CUB's test images; ResNet-101.
PART_ACTIVATIONS = {SOURCE: 5.298, "l2": 5.392, "l2_sp": 6.258, "delta_without_attention": 6.241, "delta": 6.367}


def accuracy(table: str, data: str, network: str, method: str) -> tuple[float, float] | None:
    """Mean and standard deviation of top-1 as fractions; None where the paper's table has no such number.

    Args:
      table: "table1" (images squashed, centre crop) or "table2" (aspect kept, ten crops).
      data: a name of DATA_SETS.
      network: a name of NETWORKS.
      method: of `delta_jax.methods.names()`.
    """
    row = _ACCURACIES.get((table, network), {}).get(data)
    if row is None or method not in _COLUMNS[table]:
        return None
    column = 2 * _COLUMNS[table].index(method)
    # Rounded, so that 0.887 is 0.887 and not 88.7 / 100.
    return round(row[column] / 100, 4), round(row[column + 1] / 100, 4)
