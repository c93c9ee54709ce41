"""The networks by name: those that come with the library, registered ones, and any `module:function`."""

import difflib
import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn

from delta_jax.models.adapter import adapt, from_rngs
from delta_jax.models.checks import init_shapes
from delta_jax.models.elsewhere import named_elsewhere
from delta_jax.models.model_spec import ModelSpec
from delta_jax.models.networks import NETWORKS
from delta_jax.models.spellings import spelled_otherwise

_SPECS = {spec.name: spec for spec in NETWORKS}

# What `create` can be asked for beside the number of classes, and the config that does not ask for it.
_WITHOUT = {
    "dropout": "dropout=0",
    "frozen_norm": "batch_norm=train",
    "dtype": "compute_dtype=float32",
    "auxiliary": "auxiliary_weight=0",
}


def names() -> tuple[str, ...]:
    """Names of all networks that need no import: the library's and those registered."""
    return tuple(_SPECS)


def register(spec: ModelSpec) -> None:
    """Makes a network known under `spec.name` in this process.

    A run that commands like `predict` should be able to read later names its network by `module:function` instead.

    Raises:
      ValueError: the name is taken by another network, or is none.
    """
    if not spec.name or ":" in spec.name:
        raise ValueError(f"{spec.name!r} is no name for a network; expected a word without a colon")
    if _SPECS.setdefault(spec.name, spec) != spec:  # one step: threads cannot both find the name free
        raise ValueError(f"another network is called {spec.name!r} already; choose another name")


def spec(name: str) -> ModelSpec:
    """What is known about a network.

    Args:
      name: one of `names()`, or "package.module:function", where the function takes nothing and returns a ModelSpec.

    Raises:
      ValueError: there is no such network (the closest names are given), module or function, or it returns no spec.
    """
    if ":" in name:
        return _imported(name)
    if name not in _SPECS:
        listed = f"{len(_SPECS)} are known, see python -m delta_jax.describe"
        known = f"{listed}; a network of your own: package.module:function"
        elsewhere = named_elsewhere(name)
        if elsewhere and elsewhere.arch in _SPECS:
            raise ValueError(f"no network called {name!r}; here it is called {elsewhere.arch}. {known}")
        spelled = [] if elsewhere and elsewhere.like else spelled_otherwise(name, _SPECS)
        if spelled:
            left_out = len(spelled) - 4 if len(spelled) > 5 else 0
            shown = " or ".join([*spelled[: len(spelled) - left_out], *([f"{left_out} more"] if left_out else [])])
            raise ValueError(f"no network called {name!r}; did you mean {shown}? {known}")
        if elsewhere:
            # The closest name would be that of another network, which may even load its weights.
            alike = f"; {elsewhere.like} is like it, but {elsewhere.name} {elsewhere.differs}" if elsewhere.like else ""
            raise ValueError(f"{name} is not supported here{alike}. {known}")
        close = difflib.get_close_matches(name, _SPECS, n=3)
        meant = f"; did you mean {' or '.join(close)}?" if close else "."
        raise ValueError(f"no network called {name!r}{meant} {known}")
    return _SPECS[name]


def _imported(path: str) -> ModelSpec:
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"the network {path!r} cannot be found: {error}; start from the folder that holds "
            f"{module_name.split('.')[0] or 'the module'}, or put that folder on PYTHONPATH"
        ) from error
    except Exception as error:  # whatever a user's module does while it is imported
        raise ValueError(
            f"the network {path!r}: {module_name} cannot be imported ({type(error).__name__}: {error})"
        ) from error
    if not callable(function := getattr(module, attribute, None)):
        functions = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        close = difflib.get_close_matches(attribute, functions, n=2) or functions
        raise ValueError(
            f"the network {path!r}: {module_name} has no function {attribute!r}; it has {', '.join(close) or 'none'}"
        )
    found = function()
    if not isinstance(found, ModelSpec):
        raise ValueError(f"{path} returns {type(found).__name__}, expected a delta_jax.models.ModelSpec")
    return found


def _parameters(module: Any) -> Mapping[str, inspect.Parameter]:
    """Of the class or function that makes a network; the classes of NNX hide theirs."""
    hidden = inspect.isclass(module) and not issubclass(module, nn.Module)
    found = dict(inspect.signature(module.__init__ if hidden else module).parameters)
    found.pop("self", None)
    return found


def create(
    name: str,
    *,
    num_classes: int = 1000,
    dropout: float = 0.0,
    frozen_norm: bool = False,
    dtype: Any = None,
    auxiliary: bool = False,
    platform: str = "",
) -> Any:
    """The Flax module of the network `name`; of an NNX module, what `delta_jax.frameworks.nnx` makes of it.

    A module gets `num_classes` and, of the others, what is asked for; its own defaults hold for the rest.

    Args:
      name: as in `spec`.
      num_classes: outputs of its head.
      dropout: rate in front of the head.
      frozen_norm: BatchNorm keeps to its running statistics in training.
      dtype: of the computation, e.g. jnp.bfloat16; parameters stay float32.
      auxiliary: with the network's second classifier.
      platform: of the devices that will run it, as jax calls them: on "tpu" networks that have a form for TPUs get it,
        `ModelSpec.on_tpu`. The numbers are the same, but closed forms of `filter_gaps` are not found in it.

    Returns:
      A module called as `apply(variables, images [B, H, W, 3], train=False)` -> logits [B, num_classes].

    Raises:
      ValueError: no such network, or it cannot do what is asked for.
    """
    found = spec(name)
    if auxiliary and not found.auxiliary:
        others = [other.name for other in _SPECS.values() if other.auxiliary]
        raise ValueError(
            f"{name} has no second classifier to train along; leave auxiliary out (--config.auxiliary_weight=0)"
            + (f", or take {' or '.join(others)}" if others else "")
        )
    asked = {"dropout": dropout, "frozen_norm": frozen_norm, "auxiliary": auxiliary}
    asked = {option: value for option, value in asked.items() if value}
    if dtype is not None:
        asked["dtype"] = dtype
    takes = _parameters(found.module)
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    is_nnx = "rngs" in takes
    lacking = [option for option in ("num_classes", *asked) if option not in takes and not takes_all]

    if is_nnx and "frozen_norm" in lacking:
        lacking.remove("frozen_norm")  # NNX has a switch for it in its layers
        del asked["frozen_norm"]

    def build(options: dict[str, Any]) -> Any:
        form = found.on_tpu if platform == "tpu" else {}
        make = partial(found.module, **{**found.arguments, **form, "num_classes": num_classes, **options})
        if is_nnx:
            return from_rngs(make, found.train_argument, frozen_norm=frozen_norm)
        return adapt(make(), found.train_argument)

    # Without running statistics there is nothing to freeze: GroupNorm and LayerNorm are the same in training.
    may_ignore = "frozen_norm" in lacking and "num_classes" not in lacking
    if may_ignore and "batch_stats" not in init_shapes(build({}), found.input_size):
        lacking.remove("frozen_norm")
        del asked["frozen_norm"]
    if lacking:
        way_out = f"add it to the module, or set --config.{_WITHOUT.get(lacking[0])}"
        if lacking[0] == "num_classes":
            way_out = "let ModelSpec.module be a function of num_classes that returns the module"
        own = ", ".join(option for option in takes if option not in ("parent", "name", "rngs"))
        raise ValueError(
            f"{getattr(found.module, '__name__', found.module)} takes {own}, but no {lacking[0]}; {way_out}"
        )
    return build(asked)
