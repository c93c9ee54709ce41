"""Which of the states in a checkpoint of a training script is meant, and what it says of its network."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from delta_jax.weights.errors import WeightsError
from delta_jax.weights.pickled_arrays import Array
from delta_jax.weights.pickled_tensors import WAY_OUT, Tensor
from delta_jax.weights.pickles import Record

# Where training scripts put the weights in a checkpoint: what was trained first, averages of it last.
NESTED_UNDER = (
    *("state_dict", "model", "model_state_dict", "net", "network", "module", "student", "online_network"),
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model", "swa_model", "teacher", "target_network"),
)
# Dicts with tensors that are no network.
_OTHER_STATES = ("optim", "sched", "lr_", "scaler", "criterion", "loss", "callbacks", "loops", "rng")
# Under which names a checkpoint, or the arguments of its script in it, tells the network.
_NETWORK = ("arch", "architecture", "model_name", "model", "backbone")
_ARGUMENTS = ("args", "config", "cfg", "opt", "hparams", "hyper_parameters")
# Functions that make tensors of other kinds: quantised, sparse, on a device of their own, distributed.
_TENSORS_OF_OTHER_KINDS = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.distributed.")


@dataclass(frozen=True)
class State:
    """Named tensors of a checkpoint.

    Attributes:
      tensors: by name.
      under: the keys that lead there, "" at the top: "state_dict", "model.state_dict".
      others: those that lead to further states like this one.
      says: (where, text) of what the checkpoint calls its network: ("its args.model", "resnet50").
    """

    tensors: dict[str, Tensor]
    under: str
    others: tuple[str, ...]
    says: tuple[tuple[str, str], ...]


def find(program: Any, choice: str = "") -> State:
    """The state of a checkpoint that is meant.

    Args:
      program: what `pickles.decode` made of the file.
      choice: the keys that lead to it. Where no keys are called so, the usual state is given: `choice` may begin the
        names in it.

    Raises:
      WeightsError: there is none, or there are several and nothing says which.
    """
    top = _items(program)
    if top is None:
        raise _no_state(program)
    states = dict(_states(top))
    found = choice if choice and choice in states else _usual(states)
    if found is None:
        raise _no_state(program)
    tensors = _tensors(states[found])
    others = tuple(
        under for under, value in states.items() if under not in ("", found) and 2 * len(_tensors(value)) > len(tensors)
    )
    _refuse_other_kinds(states[found])
    return State(tensors, found, others, tuple(_statements(top)))


def _items(value: Any) -> dict[Any, Any] | None:
    """Of a dict, or of an object that was a kind of dict."""
    if isinstance(value, Record):
        return value.items or None
    return value if isinstance(value, dict) else None


def _tensors(value: dict[Any, Any]) -> dict[str, Tensor]:
    return {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}


def _states(value: dict[Any, Any], under: str = "", levels: int = 2) -> Iterator[tuple[str, dict[Any, Any]]]:
    """(keys, dict) of every dict with tensors, the outer before the inner, down to so many levels."""
    if _tensors(value):
        yield under, value
    for key, item in value.items() if levels else ():
        inner = _items(item)
        if isinstance(key, str) and inner is not None and not key.lower().startswith(_OTHER_STATES):
            yield from _states(inner, f"{under}.{key}" if under else key, levels - 1)


def _usual(states: dict[str, dict[Any, Any]]) -> str | None:
    """The keys of the state that training scripts mean, None where there is none."""
    ranks = {key: rank for rank, key in enumerate(NESTED_UNDER)}
    sizes = {under: len(_tensors(value)) for under, value in states.items()}
    # Nested first: checkpoints keep their best accuracy as a tensor beside the weights.
    known = [under for under in states if under.partition(".")[0] in ranks]
    if known:
        return min(known, key=lambda under: ([ranks.get(key, len(ranks)) for key in under.split(".")], -sizes[under]))
    other = [under for under in states if under and sizes[under] > sizes.get("", 0)]
    if len(other) > 1:
        raise WeightsError(f"it holds several states: {_listed(other)}; say which, as in 'FILE#{other[0]}'")
    return other[0] if other else "" if "" in states else None


def _statements(top: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    places: list[tuple[str, Any]] = [("", top)]
    for key in _ARGUMENTS:
        found = top.get(key)
        places.append((f"{key}.", found.attributes or found.items if isinstance(found, Record) else found))
    for where, values in places:
        for key in _NETWORK:
            text = values.get(key) if isinstance(values, dict) else None
            if isinstance(text, str) and text:
                yield f"its {where}{key}", text[:80]


def _refuse_other_kinds(value: dict[Any, Any]) -> None:
    unread: dict[str, list[str]] = {}
    for key, item in value.items():
        if isinstance(item, Tensor) and item.unread:
            unread.setdefault(item.unread, []).append(str(key))
        elif isinstance(item, Record) and item.name.startswith(_TENSORS_OF_OTHER_KINDS):
            unread.setdefault(item.name, []).append(str(key))
    if unread:
        kind, names = next(iter(unread.items()))
        raise WeightsError(unread_numbers(kind, names))


def unread_numbers(kind: str, names: list[str]) -> str:
    """What is wrong with tensors whose numbers are of a type that is not read, and what to do."""
    return (
        f"{len(names)} of its tensors, such as {names[0]}, are of the kind {kind}, which is not read here; the file "
        "is sound: convert it to float32 where it was made, for instance with torch: {name: tensor.float() for name, "
        "tensor in state_dict.items()}"
    )


def _no_state(program: Any) -> WeightsError:
    for under, value in [("", program), *((_items(program) or {}).items())]:
        if isinstance(value, Record) and "_modules" in value.attributes:
            where = f" under {under}" if under else ""
            return WeightsError(
                f"it holds a whole module of the class {value.name}{where}, not its weights; where that class can be "
                "imported, save them alone: torch.save(module.state_dict(), 'weights.pth')"
            )
    if _items(program) is None:
        what = f" but an object of {program.name}" if isinstance(program, Record) else ""
        return WeightsError(f"it holds no state_dict (a dict of named tensors){what}; {WAY_OUT}")
    inside = [item for value in [program, *(_items(program) or {}).values()] for item in (_items(value) or {}).values()]
    if any(isinstance(item, Array) for item in inside):
        return WeightsError(
            "its weights are arrays of numpy in a pickle, not tensors; where it was made, save them with "
            "numpy.savez('weights.npz', **state_dict)"
        )
    keys = [str(key)[:40] for key in _items(program) or {}]
    return WeightsError(
        f"it has no named tensors at the top or under {', '.join(NESTED_UNDER)}, but {_listed(keys) or 'nothing'}; "
        f"{WAY_OUT}"
    )


def _listed(names: list[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
