"""Module paths here and parameter names elsewhere: per family one table for each scheme, read in both directions."""

import re
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from delta_jax.models import ModelSpec
from delta_jax.weights import block_names, network_names

Path = tuple[str, ...]  # ("params", "layer1_0", "conv1", "kernel")

FLAX = "flax"  # "params/layer1_0/conv1/kernel": what delta_jax itself writes, in Flax's layouts
OWN = "own"  # names by `ModelSpec.torch_name`

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

_Table = Callable[[ModelSpec, str], str]


def _resnet(_: ModelSpec, module: str) -> str:
    module = re.sub(r"^layer(\d)_(\d+)/", r"layer\1.\2.", module)
    return module.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1")


def _torchvision_mobilenet_v2(_: ModelSpec, module: str) -> str:
    outer = {
        "stem_conv": "features.0.0",
        "stem_bn": "features.0.1",
        "head_conv": "features.18.0",
        "head_bn": "features.18.1",
        "classifier": "classifier.1",
    }
    if module in outer:
        return outer[module]
    block, child = module.removeprefix("block_").split("/")
    order = ("expand_conv", "expand_bn", "depthwise_conv", "depthwise_bn", "project_conv", "project_bn")
    position = order.index(child)
    if block == "0":  # does not expand: its children are numbered from the depthwise convolution
        position -= 2
    pairs = 1 if block == "0" else 2  # (conv, bn) pairs that torchvision wraps, in front of the bare projection
    inner = f"{position // 2}.{position % 2}" if position < 2 * pairs else f"{position - pairs}"
    return f"features.{int(block) + 1}.conv.{inner}"


def _efficientnet_lite_pytorch(_: ModelSpec, module: str) -> str:
    outer = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "head_conv": "_conv_head",
        "head_bn": "_bn1",
        "classifier": "_fc",
    }
    if module in outer:
        return outer[module]
    block, child = module.removeprefix("block_").split("/")
    norms = {"expand_bn": "_bn0", "depthwise_bn": "_bn1", "project_bn": "_bn2"}
    return f"_blocks.{block}.{norms.get(child, '_' + child)}"


def _timm_inverted_residuals(spec: ModelSpec, module: str) -> str:
    outer = {"stem_conv": "conv_stem", "stem_bn": "bn1", "head_conv": "conv_head", "head_bn": "bn2"}
    if "/" not in module:
        return outer.get(module, module)
    block, child = module.removeprefix("block_").split("/")
    places = [
        (f"blocks.{stage}.{i}", expansion)
        for stage, (expansion, _, repeats, *_) in enumerate(spec.arguments["stages"])
        for i in range(repeats)
    ]
    place, expansion = places[int(block)]
    # Without an expansion timm's block is another class, whose projection is called as elsewhere the expansion.
    convs = ("conv_pw", "conv_dw", "conv_pwl") if expansion > 1 else ("conv_dw", "conv_pw")
    parts = ("expand", "depthwise", "project")[-len(convs) :]
    part, kind = child.split("_")
    position = parts.index(part)
    return f"{place}.{convs[position] if kind == 'conv' else f'bn{position + 1}'}"


def _inception(_: ModelSpec, module: str) -> str:
    return module.replace("/", ".")


_TABLES: dict[str, dict[str, _Table]] = {
    "resnet": {"torchvision": _resnet, "timm": _resnet},
    "mobilenet_v2": {"torchvision": _torchvision_mobilenet_v2, "timm": _timm_inverted_residuals},
    "efficientnet_lite": {
        "efficientnet_lite_pytorch": _efficientnet_lite_pytorch,
        "timm": _timm_inverted_residuals,
    },
    "timm_efficientnet_lite": {"timm": _timm_inverted_residuals},
    "inception": {"torchvision": _inception, "timm": _inception},
    **network_names.TABLES,
    **block_names.TABLES,
}


def _tables(spec: ModelSpec) -> dict[str, _Table]:
    if spec.torch_name is not None:
        own = spec.torch_name
        return {OWN: lambda _, module: own(module)}
    return _TABLES.get(spec.family, {})


def torch_schemes(spec: ModelSpec) -> tuple[str, ...]:
    """Whose parameter names are known for a network of PyTorch, the most usual first: "torchvision", "timm", ..."""
    return tuple(_tables(spec))


def torch_names(spec: ModelSpec, paths: Iterable[Path], scheme: str | None = None) -> dict[str, Path]:
    """{PyTorch's parameter name: path} for the variables of a network.

    Args:
      spec: of the network.
      paths: of every leaf, the collection first: ("params", "layer1_0", "conv1", "kernel").
      scheme: one of `torch_schemes(spec)`; without it the first.

    Raises:
      ValueError: two variables have the same name, which only a `ModelSpec.torch_name` can cause.
    """
    scheme = scheme or torch_schemes(spec)[0]
    table, leaves = _tables(spec)[scheme], _LEAVES | block_names.LEAVES.get(scheme, {})
    names: dict[str, Path] = {}
    for path in paths:
        module, leaf = "/".join(path[1:-1]), leaves.get(path[-1], path[-1])
        name = f"{table(spec, module)}.{leaf}" if module else leaf
        if name in names:
            raise ValueError(
                f"torch_name of {spec.name} calls both {'/'.join(names[name])} and {'/'.join(path)} {name}"
            )
        names[name] = path
    return names


def detect(given: Iterable[str], spec: ModelSpec, paths: Iterable[Path]) -> tuple[str, dict[str, Path]]:
    """The scheme, FLAX or one of `torch_schemes(spec)`, that most of the names `given` belong to, and its names."""
    given, paths = set(given), tuple(paths)
    known = {scheme: torch_names(spec, paths, scheme) for scheme in torch_schemes(spec)}
    flax = [{"/".join(path): path for path in paths}, network_names.flax_names(spec, paths)]
    known[FLAX] = max(flax, key=lambda names: len(names.keys() & given))
    return max(known.items(), key=lambda item: len(item[1].keys() & given))  # of equals the first


def may_hold(given: Iterable[str], spec: ModelSpec) -> bool:
    """Whether the names `given` have, in any scheme, the default taps of a network among them; nothing is traced."""
    if spec.torch_name is not None:  # which may know the names of layers alone
        return True
    given = tuple(given)
    tables: list[Callable[[str], str]] = [partial(table, spec) for table in _tables(spec).values()]
    places = [[f"{table(tap)}." for tap in spec.taps] for table in tables]
    places.append([f"params/{tap}/" for tap in spec.taps])
    return any(all(any(name.startswith(place) for name in given) for place in taps) for taps in places)


def auxiliary_prefixes(spec: ModelSpec, scheme: str) -> tuple[str, ...]:
    """What the names of everything that belongs to the second classifier begin with; () where there is none."""
    if not spec.auxiliary:
        return ()
    if scheme == FLAX:
        module = spec.auxiliary.rpartition("/")[0] or spec.auxiliary
        return (f"params/{module}/", f"batch_stats/{module}/")
    dense = _tables(spec)[scheme](spec, spec.auxiliary)
    return (f"{dense.rpartition('.')[0] or dense}.",)


def trailing_axes(spec: ModelSpec, scheme: str, path: Path) -> tuple[int, ...]:
    """Sizes of the axes that PyTorch's tensor has where the variable has them as one: what `to_torch_layout` takes."""
    if spec.torch_name is not None:
        return ()
    pattern, sizes = block_names.TRAILING.get((spec.family, scheme), ("", ()))
    if re.fullmatch(pattern, "/".join(path[1:])):
        return sizes
    windows = network_names.WINDOWS.get((spec.family, scheme), {})
    return windows.get("/".join(path[1:-1]), ()) if path[-1] == "kernel" else ()


def to_flax_layout(tensor: np.ndarray, leaf: str, axes: int | None = None) -> np.ndarray:
    """OIHW -> HWIO and [out, in] -> [in, out] for a `kernel`, with any number of axes; all else as it is.

    Where there are more than `axes`, the last ones become one before.
    """
    if axes and tensor.ndim > axes:
        tensor = tensor.reshape(*tensor.shape[: axes - 1], -1)
    if leaf == "kernel" and tensor.ndim >= 2:
        return tensor.transpose(*range(2, tensor.ndim), 1, 0)
    return tensor


def to_torch_layout(array: np.ndarray, leaf: str, trailing: tuple[int, ...] = ()) -> np.ndarray:
    """The inverse of `to_flax_layout`; the last axis becomes several, the last of them of the sizes `trailing`."""
    if leaf == "kernel" and array.ndim >= 2:
        array = array.transpose(-1, -2, *range(array.ndim - 2))
    return array.reshape(*array.shape[:-1], -1, *trailing) if trailing else array
