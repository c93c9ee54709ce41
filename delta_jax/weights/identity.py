"""Whether weights whose names and shapes fit are those of the network: what the file says of itself, and its name."""

from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from delta_jax import downloads, models
from delta_jax.models import Elsewhere
from delta_jax.weights import beside
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.reading import split_choice

# Names of files that say nothing: then the folder's name counts.
_GENERAL = {"model", "pytorch_model", "weights", "checkpoint", "model_best", "best", "last", "model_state_dict"}


def statements(name_or_path: str | Path, says: tuple[tuple[str, str], ...]) -> list[tuple[str, Elsewhere]]:
    """(where, network) of all that is said of weights and understood.

    Args:
      name_or_path: as users write it: a path or an address.
      says: (where, text) of what the file says itself.
    """
    found = list(says)
    if not downloads.is_url(str(name_or_path)):
        found += beside.statements(split_choice(name_or_path)[0])
    return [(where, meant) for where, text in found if (meant := models.named_elsewhere(text))]


def mentions(name_or_path: str | Path) -> list[Elsewhere]:
    """The networks that the name of the file, of its folder or of its repository speaks of."""
    if downloads.is_url(str(name_or_path)):
        parts = urlsplit(urldefrag(str(name_or_path))[0]).path.split("/")
        texts = [parts[-1], *(parts[1:3] if "resolve" in parts else [])]
    else:
        path = split_choice(name_or_path)[0].absolute()
        texts = [path.name]
        if path.stem in _GENERAL:
            texts.append(path.parent.name)
        # .../models--OWNER--NAME/snapshots/COMMIT/FILE, where huggingface_hub keeps them
        texts += [part for part in path.parts if part.startswith("models--")]
    return [meant for text in texts for meant in models.mentioned_elsewhere(text)]


def check(name_or_path: str | Path, says: tuple[tuple[str, str], ...], arch: str, scheme: str) -> str:
    """Whether weights that fit the network `arch` by names and shapes are its own.

    Args:
      name_or_path: as users write it: a path or an address.
      says: (where, text) of what the file says itself.
      arch: a network of `models.names()`.
      scheme: whose names the tensors have.

    Returns:
      A line, where several networks have tensors of these names and shapes and nothing says which it is; or "".

    Raises:
      WeightsError: they are said to be those of another network whose names and shapes are the same.
    """
    known = statements(name_or_path, says)
    for where, meant in known:
        if meant.like == models.like(arch) and meant.arch != arch:
            raise WeightsError(_another(f"{where} says", meant, arch))
    mentioned = mentions(name_or_path)
    same = any(meant.arch == arch for meant in [*mentioned, *(meant for _, meant in known)])
    for meant in mentioned:
        if not same and meant.like == models.like(arch) and meant.arch != arch:
            raise WeightsError(_another("its name says", meant, arch))
    path = split_choice(name_or_path)[0]
    changed = {} if downloads.is_url(str(name_or_path)) else beside.changes(path)
    if changed:
        made = ", ".join(f"{key}={value!r}" for key, value in changed.items())
        raise WeightsError(
            f"{beside.TIMM} beside it says that its network was made with {made:.200}, which is not supported here: it "
            f"may compute something else than {arch}; if it does not, take model_args out of {beside.TIMM}"
        )
    others = models.lookalikes(arch, scheme)
    if same or not others or scheme not in ("timm", "torchvision"):
        return ""
    return (
        f"nothing says which network these weights are of; {arch} is assumed, but {' and '.join(others)} "
        f"{'has' if len(others) == 1 else 'have'} tensors of the same names and shapes, and other logits"
    )


def _another(who: str, meant: Elsewhere, arch: str) -> str:
    differs = f", which {meant.differs}" if meant.differs else ""
    way_out = f"set arch to {meant.arch}" if meant.arch else "that network is not supported here"
    return (
        f"{who} {meant.name}{differs}: names and shapes are those of {arch} here, the logits would not be; {way_out} "
        "(if that is wrong, correct what says so)"
    )
