"""The config that a workdir holds: read, and compared with that of a run that is to go on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from delta_jax import models, weights
from delta_jax.training.config import ConfigError, flat

# Fields that change how fast or where something happens, and no number: free to differ when a run goes on. Images that
# have moved are the same images: they are known by their contents.
_FREE = (
    *("log_every", "data.root", "data.cache_dir", "data.on_device", "data.near_doubles"),
    *("checkpoint_every", "attention_chunk", "attention_batch"),
)


# Fields that came later, and what runs did before there were any.
_BEFORE: dict[str, Any] = {
    "attention_share": 0.0,
    "attention_shrink": False,
    "matmul_precision": "default",
    "strength_search": False,
    "optimizer": "sgd",
    "label_smoothing": 0.0,
    "layer_decay": 1.0,
    "surgical": False,
    "unfreeze": 0.0,
    "head_restarts": 0,
    "average": 0.0,
    "data.upright": True,
    "data.erase": 0.0,
    "data.rand_augment": (0, 9),
    "data.mix": (0.0, 0.0),
    "patience": 0,
    "effort": 1.0,
    "singular_values": 1,
    "radius": 7.4,
    "head_radius": 7.4,
    "data.split_column": "",
    "data.group": "",
    "data.image_column": "",
    "data.label_column": "",
    "data.white": None,
    "data.near_doubles": False,
}


def _as_before(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stored config, with those that came later as they would have been."""
    later = {field: value for field, value in _BEFORE.items() if value is not None}
    fields = json.loads(json.dumps(later)) | flat(stored)
    if "data.mean" not in fields and "arch" in fields:
        known = weights.SOURCES.get(fields["weights"]) or models.spec(fields["arch"])
        fields |= {"data.mean": list(known.mean), "data.std": list(known.std)}
    return fields


def differences(config: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Lines "field: stored value, now value" for every field that would change the result of a run."""
    now, before = flat(json.loads(json.dumps(dict(config)))), _as_before(stored)
    fields = sorted((now.keys() | before.keys()) - set(_FREE))
    missing = "(not there)"
    return [
        f"{field}: {before.get(field, missing)!r} there, {now.get(field, missing)!r} here"
        for field in fields
        if now.get(field) != before.get(field)  # not set is what a field was before there was one
    ]


def read(workdir: Path) -> FrozenConfigDict:
    """The resolved config of the run in `workdir`."""
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; is {workdir} the workdir of a run?")
    values = json.loads(path.read_text())
    if "mean" not in values.get("data", {}):  # of before these were fields: the classifier knows them
        facts = path.with_name("classifier.json")
        seen = json.loads(facts.read_text())["preprocessing"] if facts.is_file() else {}
        values.get("data", {}).update({field: seen[field] for field in ("mean", "std") if field in seen})
    for field, value in _BEFORE.items():
        *group, name = field.split(".")
        (values.setdefault(group[0], {}) if group else values).setdefault(name, value)
    return FrozenConfigDict(ConfigDict(values, convert_dict=True))
