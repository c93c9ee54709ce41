"""Who may import whom: the arrows between the modules of delta_jax, and the one owner of each outside thing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((ROOT / "delta_jax").rglob("*.py"))
}

LIBRARY = ("precision", "regularizers", "features", "attention", "methods")
PARTS = ("models", "weights", "data")
GROUND = ("processes", "chips", "workdir")  # know nothing of networks and images
COMMANDS = ("train", "evaluate", "predict", "attend", "prepare", "sweep", "export", "describe", "plan", "tune", "rank")

# The rooms from the ground up: who imports stands above whom it imports. docs/design.md says what each is for.
FLOORS = (
    ("processes", "chips", "precision", "regularizers", "winograd", "downloads", "configs"),
    ("equations",),
    ("repeats", "features"),
    ("frameworks", "ablation", "chunks"),
    ("models", "attention"),
    ("workdir", "weights", "data", "methods"),
    ("training",),
    ("exports", "analysis", "command_line"),
    ("page", "planning"),
    ("reports",),
    ("sweeps", "tuning", "ranking"),
    ("train",),
    tuple(name for name in COMMANDS if name != "train"),
)

# The pure part of training: arrays in, arrays out.
PURE = (
    *("training.state", "training.steps", "training.optim", "training.evaluation"),
    *("training.convergence", "training.course", "training.wise_ft", "training.gain", "training.strength"),
    "training.layer_rates",
)

# What a module may import of delta_jax. The longest name that fits a module counts, and holds for all below it.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "processes": ("processes",),
    "workdir": ("processes", "workdir"),
    "workdir.stored_trees": (),
    "precision": (),
    "chips": ("chips",),
    "regularizers": (),
    "equations": ("chips.target",),
    "features": ("precision", "equations", "features"),
    "winograd": (),
    "repeats": ("equations",),
    "ablation": ("winograd", "equations", "repeats"),
    "chunks": ("chips.target",),
    "attention": ("features", "ablation", "chunks", "repeats", "precision", "chips.target", "attention"),
    "attention.weights": (),
    "attention.loss": (),
    "methods": ("attention", "features", "regularizers", "methods"),
    "frameworks": ("features",),
    "models": ("models", "frameworks.nnx"),
    "models.layers": ("models.layers",),
    "models.__main__": (),
    "downloads": ("downloads",),
    "weights": ("weights", "models", "downloads"),
    "data": ("data", "downloads"),
    "training": (*GROUND, *LIBRARY, *PARTS, "training"),
    **dict.fromkeys(PURE, (*LIBRARY, *PURE)),
    "training.evaluation": (*LIBRARY, "data", *PURE),
    "training.head_fit": (),
    "training.two_phase": (),
    "training.combinations": ("methods",),
    "training.techniques": ("methods",),
    "configs": (),  # its modules lie in configs/, and start from one another
    "command_line": ("configs", "training.config", "command_line"),
    "exports": (*GROUND, *PARTS, "precision", "equations", "downloads", "training", "exports"),
    "analysis": (*GROUND, *LIBRARY, *PARTS, "training", "analysis"),
    "analysis.statistics": (),
    "analysis.published": (),
    "planning": (*GROUND, "data", "training", "planning"),
    # Reads files; of the rest it takes names, statistics and the readers of two files.
    "page": (
        "methods",
        "workdir",
        "analysis.drift",
        "analysis.recipes",
        "analysis.statistics",
        "analysis.published",
        "page",
    ),
    "reports": (*GROUND, *LIBRARY, *PARTS, "training", "analysis", "page", "reports"),
    "sweeps": (*GROUND, "methods", *PARTS, "training", "analysis", "page", "reports", "sweeps"),
    "sweeps.typesetting": (),
    "tuning": (*GROUND, "methods", *PARTS, "training", "analysis.statistics", "page", "reports", "tuning"),
    "ranking": (*GROUND, *PARTS, "downloads", "training", "analysis.statistics", "ranking"),
    "ranking.scores": (),
    "tuning.halving": (),
    "tuning.pace": ("methods",),
    # --config, --workdir and the errors of a run are those of `train`.
    **dict.fromkeys(COMMANDS, (*GROUND, *LIBRARY, *PARTS, "training", "analysis", "command_line", "train")),
    "train": (*GROUND, *PARTS, "training", "reports", "command_line"),
    "prepare": ("processes", "workdir", *PARTS, "downloads", "training", "command_line"),
    "sweep": (*GROUND, "training", "sweeps", "command_line", "train"),
    "export": (*GROUND, "training", "exports", "weights", "command_line"),
    "describe": (*GROUND, "models", "analysis", "command_line"),
    "plan": (*GROUND, "training", "planning", "command_line"),
    "tune": (*GROUND, "training", "tuning", "command_line", "train"),
    "rank": (*GROUND, "ranking", "command_line", "train"),
}
PUBLIC = (*LIBRARY, *PARTS)  # delta_jax/__init__.py re-exports them
MAY_IMPORT_TRAINER = ("training.trainer", "reports", "sweeps.runner", "tuning.trials", "tuning.ending", *COMMANDS)

# Names of other packages, and the only modules of delta_jax that may use them.
OWNERS: dict[str, tuple[str, ...]] = {
    "orbax": ("workdir.checkpoints",),
    "tensorflow_datasets": ("data",),
    "grain": ("data",),
    "pyarrow": ("data.arrow_tables", "data.arrow_columns", "data.arrow_source"),
    "h5py": ("weights.keras_file",),
    "fsspec": ("workdir.storage",),
    "optuna": ("tuning.sampling",),
    "jinja2": ("page.rendering",),
    "jax.distributed": ("processes.group",),
    "jax.make_mesh": ("processes.sharding",),
    "jax.sharding.Mesh": ("processes.sharding",),
    "absl.flags": (*COMMANDS, "processes.process_flags", "command_line.parsing"),
    "absl.app": COMMANDS,
    "ml_collections.config_flags": COMMANDS,
    "tensorflow": (),
    "torch": (),
}


def within(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def used_names(module: str, source: str) -> list[tuple[int, str]]:
    """(line, dotted name) of everything imported, and of every dotted expression that starts at something imported."""
    tree = ast.parse(source)
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    names, meaning = [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.append((node.lineno, alias.name))
                root = alias.name.split(".")[0]
                meaning[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            for alias in node.names:
                names.append((node.lineno, f"{base}.{alias.name}"))
                meaning[alias.asname or alias.name] = f"{base}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            if root in meaning:
                names.append((node.lineno, f"{meaning[root]}.{rest}"))
    return names


def problem_with(own: str, name: str) -> str | None:
    """Why the module `own` may not use `name`; None if it may."""
    if not name.startswith("delta_jax."):
        for owned, owners in OWNERS.items():
            if within(name, (owned,)) and not within(own, owners):
                return f"{owned} belongs to {', '.join(owners) or 'no module'}"
        if own == "regularizers" and not within(name, ("jax", "numpy", *sys.stdlib_module_names)):
            return "the penalties are to need jax only (and numpy, which comes with it)"
        return None
    target = name.removeprefix("delta_jax.")
    part = target.split(".")[0]
    allowed = PUBLIC if own == "" else MAY_IMPORT[max((key for key in MAY_IMPORT if within(own, (key,))), key=len)]
    if not within(target, allowed):
        return f"{', '.join(allowed) or 'nothing'} of delta_jax may be imported here"
    if within(target, ("training.trainer",)) and not within(own, MAY_IMPORT_TRAINER):
        return "only the commands, reports, sweeps.runner and two of tuning import the trainer"
    inside = ".".join(["delta_jax", *target.split(".")[:2]])
    if (
        part in PARTS
        and within(own, PARTS)
        and not within(own, (part,))
        and inside != f"delta_jax.{part}"
        and inside in FILES
    ):
        return f"{inside} is an inside of that package: use what delta_jax.{part} offers"
    return None


def violations(module: str, source: str) -> list[str]:
    own = module.removeprefix("delta_jax").removeprefix(".")
    where = FILES[module].relative_to(ROOT)
    # A chain a.b.c is seen as a.b.c and as a.b; one line of complaint is enough.
    found = {(line, problem): name for line, name in used_names(module, source) if (problem := problem_with(own, name))}
    return [f"{where}:{line}: {name}: {problem}" for (line, problem), name in sorted(found.items())]


def test_imports_follow_the_arrows():
    unknown = [m for m in FILES if m != "delta_jax" and not within(m.removeprefix("delta_jax."), tuple(MAY_IMPORT))]
    assert not unknown, f"modules without a place in MAY_IMPORT: {unknown}"
    found = [line for module, file in FILES.items() for line in violations(module, file.read_text())]
    assert not found, "\n" + "\n".join(found)


def room_of(module: str) -> str:
    """The room of a module, and of the public library, whose modules are rooms of their own, its name."""
    return module.removeprefix("delta_jax").removeprefix(".").split(".")[0]


def test_no_arrow_between_rooms_runs_upwards():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = {room_of(module) for module in FILES} - {""}
    assert rooms == set(floor), "each room has a floor"
    upward = [
        f"{FILES[module].relative_to(ROOT)}:{line}: {name}"
        for module, file in FILES.items()
        for line, name in used_names(module, file.read_text())
        if name.startswith("delta_jax.")
        and (here := room_of(module))
        and (there := room_of(name)) != here
        and floor.get(there, -1) >= floor[here]
    ]
    assert not upward, "\n" + "\n".join(upward)


def test_the_ground_floor_knows_nothing_of_delta_jax_and_the_next_one_processes_alone():
    assert MAY_IMPORT["processes"] == ("processes",)
    assert MAY_IMPORT["workdir"] == ("processes", "workdir")


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("regularizers", "import flax.linen as nn", "jax only"),
        ("regularizers", "from delta_jax import features", "nothing of delta_jax"),
        ("features", "from delta_jax.attention import filter_gaps", "precision, equations, features of delta_jax"),
        (
            "attention",
            "from delta_jax import methods",
            "features, ablation, chunks, repeats, precision, chips.target, attention of delta_jax",
        ),
        ("models", "import delta_jax.weights", "models, frameworks.nnx of delta_jax"),
        ("data", "from delta_jax import models", "data, downloads of delta_jax"),
        ("weights.merging", "from ..models.resnet import ResNet", "inside of that package"),
        ("training.steps", "import delta_jax.training.trainer", "of delta_jax may be imported"),
        ("training", "from delta_jax.training.trainer import fit", "only the commands"),
        ("training.steps", "def f():\n    import orbax.checkpoint as ocp", "orbax belongs to workdir.checkpoints"),
        ("features", "import jax.sharding as s\nmesh = s.Mesh(devices, ('data',))", "belongs to processes.sharding"),
        ("features", "import jax\njax.distributed.initialize()", "belongs to processes.group"),
        ("training.steps", "from jax import make_mesh", "belongs to processes.sharding"),
        ("workdir.checkpoints", "from absl import flags", "belongs to train, evaluate"),
        ("training.optim", "from ml_collections import config_flags", "belongs to train, evaluate"),
        ("weights", "import torch", "belongs to no module"),
        ("processes.interruption", "from delta_jax.workdir import logs", "processes of delta_jax may be imported"),
        ("workdir.logs", "from delta_jax.training import config", "processes, workdir of delta_jax may be imported"),
        ("training.trainer", "from delta_jax.analysis import pictures", "of delta_jax may be imported"),
        ("training.report", "from delta_jax import page", "of delta_jax may be imported"),
        ("models.__main__", "from delta_jax.analysis.overview import overview", "nothing of delta_jax"),
        ("", "from delta_jax import training", "may be imported here"),
    ],
)
def test_a_forbidden_import_is_found(module, source, complaint):
    found = violations(f"delta_jax.{module}".rstrip("."), source)
    assert len(found) == 1
    assert complaint in found[0]
    assert f".py:{len(source.splitlines())}: " in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("regularizers", "import jax.numpy as jnp\nfrom collections.abc import Mapping"),
        (
            "weights.merging",
            "from delta_jax import models\nfrom delta_jax.models import ModelSpec\nmodels.spec('resnet18')",
        ),
        ("features", "import jax\nmesh = jax.sharding.get_abstract_mesh()"),
        ("features", "torch = {}\ntorch.keys()"),  # a variable, not the package
        ("data", "from delta_jax.data.errors import DataError\nimport grain"),
    ],
)
def test_an_allowed_import_is_left_alone(module, source):
    assert violations(f"delta_jax.{module}", source) == []


def test_importing_the_library_loads_none_of_the_heavy_packages():
    # flax itself loads rich and absl.flags: what counts is what delta_jax adds to the packages it is built on.
    script = """
import json, sys
import jax, flax.linen, optax
before = set(sys.modules)
import delta_jax
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    command = [sys.executable, "-c", script]
    added = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    heavy = (
        "tensorflow_datasets",
        "grain",
        "orbax",
        "absl.flags",
        "matplotlib",
        "PIL",
        "tensorboardX",
        "rich",
        "sklearn",
        "requests",
        "huggingface_hub",
        "pyarrow",
        "h5py",
        "optuna",
    )
    assert [name for name in added if within(name, heavy)] == []
