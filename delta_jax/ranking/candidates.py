"""The weights that are to be compared: which network each is of, and whether each fits, before anything slow."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from ml_collections import ConfigDict

from delta_jax import data, downloads, models, weights
from delta_jax.data.splits import listed
from delta_jax.training import config as configs
from delta_jax.training import setup
from delta_jax.training.config import ConfigError
from delta_jax.training.setup import Setup
from delta_jax.weights import WeightsError, identity
from delta_jax.workdir import logs

# What --weights decides, and what only matters to fine-tuning and may not suit every network.
DECIDED = ("arch", "weights", "taps", "method")


@dataclass(frozen=True)
class Candidate:
    """Weights, as they were named, and their network.

    Attributes:
      weights: a named source, a file or an address.
      arch: of `models.names()`, or a function of one's own.
    """

    weights: str
    arch: str

    @property
    def name(self) -> str:
        """To be shown, without a password."""
        return downloads.shown(self.weights) if downloads.is_url(self.weights) else self.weights


def split(given: Sequence[str]) -> list[str]:
    """Names, files, addresses and ARCH=FILE of the flag --weights; those without an address may have commas between."""
    texts = [part.strip() for one in given for part in ([one] if "://" in one else one.split(","))]
    texts = [text for text in texts if text]
    if not texts:
        raise ConfigError(
            "--weights is empty; expected names, such as --weights=pip/efficientnet-lite0,pip/mobilenet-v2"
        )
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise ConfigError(f"--weights: {listed(twice)} is given twice; expected each once")
    return texts


def named(text: str) -> Candidate:
    """A candidate of a name, a file, an address, or ARCH= in front of one.

    Raises:
      ConfigError, WeightsError: there are no such weights, or nothing says which network they are of.
    """
    arch, equals, rest = text.partition("=")
    if equals and not re.search(r"[/#?]", arch) and not Path(text).exists():
        try:
            models.spec(arch)
        except ValueError as error:
            raise ConfigError(f"{error}; expected ARCH=FILE") from error
        return Candidate(rest, arch)
    if source := weights.named(text):
        return Candidate(text, source.arch)
    with logs.transfer("fetching weights", "kB", 1000) as progress:
        path, _ = weights.locate(text, progress)
    meant = [(where, one.arch) for where, one in identity.statements(text, weights.read_content(path).says) if one.arch]
    meant = meant or [("its name", one.arch) for one in identity.mentions(text) if one.arch]
    said = {arch for _, arch in meant}
    candidate = Candidate(text, meant[0][1] if meant else "")
    if len(said) == 1:
        logs.say(f"{candidate.name}: taken for {candidate.arch}, as {meant[0][0]} says")
        return candidate
    found = f"it may be of {' or '.join(sorted(said))}" if said else "nothing says which network it is of"
    raise ConfigError(
        f"{found}; expected ARCH=FILE, such as {min(said, default='resnet50')}={candidate.name}, with a network of "
        "python -m delta_jax.describe"
    )


def config_of(config: ConfigDict, candidate: Candidate) -> ConfigDict:
    """The config of the candidate's L2-FE: images, splits and strengths as given, all else of one network left out."""
    own = config.copy_and_resolve_references()
    own.arch, own.weights, own.taps, own.method = candidate.arch, candidate.weights, ("default",), "l2_fe"
    own.freeze_until, own.remat, own.attention_file, own.auxiliary_weight = "", False, "", 0.0
    own.batch_size, own.accumulate, own.patience = jax.device_count(), 1, 0  # nothing is trained in batches
    return own


def checked(config: ConfigDict, texts: Sequence[str]) -> list[tuple[Candidate, Setup]]:
    """Every candidate with its network, weights and images, of which none is decoded yet.

    Args:
      config: of a run.
      texts: of `split`.

    Raises:
      ConfigError: what does not fit, of all candidates at once.
      DataError: there are no such images.
    """
    found: list[tuple[Candidate, Setup]] = []
    wrong: list[str] = []
    images: data.Catalogue | None = None
    for text in texts:
        try:
            candidate = named(text)
            resolved = configs.resolve(config_of(config, candidate))
            if images is None:
                images = setup.identified(setup.found(resolved), resolved)
            logs.say(f"{candidate.name}: {candidate.arch}, images of {resolved.data.crop} px")
            found.append((candidate, Setup(resolved, images=images)))
        except (ConfigError, WeightsError) as error:
            shown = downloads.shown(text) if downloads.is_url(text) else text
            # Many errors begin with the file, or the address, already.
            reason = str(error).replace("\n", "\n    ").removeprefix(shown.rpartition("=")[2]).removeprefix(": ")
            wrong.append(f"{shown}: {reason}")
    if len(wrong) > 1:
        raise ConfigError("\n  ".join([f"{len(wrong)} of {len(texts)} weights cannot be compared:", *wrong]))
    if wrong:
        raise ConfigError(wrong[0])
    return found
