"""What lies beside a weights file and says how its network is made and sees images: config.json and its kin."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from delta_jax import downloads
from delta_jax.weights.catalogue import SOURCES
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.kinds import FetchedSource
from delta_jax.weights.origins import HubFile
from delta_jax.weights.reading import split_choice

# timm's and Hugging Face's config.json; the latter's image processor; what runs here leave in their workdir.
TIMM, PROCESSOR, OURS = "config.json", "preprocessor_config.json", "classifier.json"
_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# Arguments of a network of timm that leave its function as it is, or belong to its head.
_HARMLESS = {"num_classes", "drop_rate", "drop_path_rate", "aux_logits", "in_chans", "pretrained"}


@dataclass(frozen=True, kw_only=True)
class Images:
    """How a network saw images; None for what is not said. The units are those of `kinds.WeightsSource`.

    Attributes:
      where: the file that says so.
    """

    where: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None


def images(name_or_path: str | Path) -> Images | None:
    """How the network of a weights file saw images, as a file beside it says; None where none does.

    Args:
      name_or_path: of the weights; an address has nothing beside it, but may be that of a repository that is known.

    Raises:
      WeightsError: what is said cannot be.
    """
    if downloads.is_url(str(name_or_path)):
        return _of_repository(str(name_or_path))
    path, _ = split_choice(name_or_path)
    if not path.is_file():
        return None
    for file, reader in ((OURS, _ours), (TIMM, of_timm), (PROCESSOR, _processor)):
        place = path.parent / file
        try:
            found = reader(_content(place))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise WeightsError(
                f"{place}: what it says of images cannot be understood ({type(error).__name__}: {error}); correct it, "
                "or move it away"
            ) from error
        for key in {"mean", "std"} & found.keys():
            if problem := problem_of_channels(found[key], positive=key == "std"):
                raise WeightsError(
                    f"{place}: its {key} is {found[key]}: expected {problem}; correct it, or move it away"
                )
        if found:
            return Images(where=str(place), **found)
    return None


def _of_repository(url: str) -> Images | None:
    """Of https://huggingface.co/OWNER/NAME/resolve/..., where that is a known source."""
    source = SOURCES.get("/".join(urlsplit(url).path.split("/")[1:3]))
    if source is None or not isinstance(source, FetchedSource) or not isinstance(source.origin, HubFile):
        return None
    return Images(
        where=f"the table of {source.name}",
        mean=source.mean,
        std=source.std,
        resize=source.resize,
        crop=source.crop,
        interpolation=source.interpolation,
    )


def problem_of_channels(values: Any, *, positive: bool) -> str:
    """What was expected of a mean, or of a deviation, which is to be `positive`; "" where that is what it is."""
    expected = f"three numbers {'above 0' if positive else 'from 0'} to 1, of images scaled to [0, 1]"
    numbers = isinstance(values, list | tuple) and all(isinstance(v, int | float) for v in values)
    if not numbers or len(values) != 3 or any(isinstance(value, bool) or not math.isfinite(value) for value in values):
        return f"{expected}, such as (0.485, 0.456, 0.406)"
    if max(values) > 1:
        divided = ", ".join(f"{value / 255:.3g}" for value in values)
        return f"{expected}; of images from 0 to 255 divide them by 255: ({divided})"
    return "" if min(values) >= 0 and (min(values) > 0 or not positive) else expected


def statements(path: Path) -> list[tuple[str, str]]:
    """(where, text) of what the files beside a weights file call its network."""
    found = []
    timm, ours = _content(path.parent / TIMM), _content(path.parent / OURS)
    if isinstance(text := timm.get("architecture"), str):
        # An export of a run here for torchvision has torchvision's names, which are those of the networks here.
        found.append((f"{TIMM} beside it", text))
    if isinstance(text := ours.get("arch"), str):
        found.append((f"{OURS} beside it", f"delta_jax:{text}"))
    return found


def changes(path: Path) -> dict[str, Any]:
    """Arguments with which config.json says that the network was made, and which make it another one."""
    return altered(_content(path.parent / TIMM))


def altered(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same of what a config.json holds."""
    given = content.get("model_args")
    given = given if isinstance(given, dict) else {}
    return {
        key: value for key, value in given.items() if key not in _HARMLESS and (key, value) != ("global_pool", "avg")
    }


def _content(path: Path) -> dict[str, Any]:
    """{} for no file, and for one that is none of JSON: it is then not one of these."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _ours(content: Mapping[str, Any]) -> dict[str, Any]:
    seen = content.get("preprocessing", {})
    keys = ("mean", "std", "resize", "crop", "interpolation")
    return {key: tuple(seen[key]) if key in ("mean", "std") else seen[key] for key in keys if key in seen}


def of_timm(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Images` that a config.json of timm states."""
    if "preprocessing" in content:  # an export of a run here
        return _ours(content)
    given = content.get("pretrained_cfg", content if "mean" in content else {})
    found: dict[str, Any] = {key: tuple(map(float, given[key])) for key in ("mean", "std") if key in given}
    size, part = given.get("input_size"), given.get("crop_pct")  # timm's test_... are of measurements at a larger size
    if size:
        found["crop"] = int(size[-1])
        if part:
            found["resize"] = max(math.floor(size[-1] / part), found["crop"])
    if given.get("interpolation") in _RESAMPLING.values():
        found["interpolation"] = given["interpolation"]
    return found


def _processor(content: Mapping[str, Any]) -> dict[str, Any]:
    """Of Hugging Face's image processors."""
    found: dict[str, Any] = {}
    if not content.get("do_normalize", True):
        found = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    elif "image_mean" in content:
        found = {"mean": tuple(map(float, content["image_mean"])), "std": tuple(map(float, content["image_std"]))}
    size, crop = _side(content.get("size")), _side(content.get("crop_size"))
    if content.get("do_center_crop", bool(crop)) and crop:
        found["crop"] = crop
    elif size:
        found["crop"] = size
    if size and found.get("crop"):
        part = content.get("crop_pct")
        found["resize"] = max(math.floor(size / part) if part and not crop else size, found["crop"])
    if content.get("resample") in _RESAMPLING:
        found["interpolation"] = _RESAMPLING[content["resample"]]
    return found


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    return int(size) if size else None
