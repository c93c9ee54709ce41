"""All weights, one after the other; the table, and ranking.json, which holds it as data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from delta_jax import processes
from delta_jax.data.splits import listed
from delta_jax.processes import interruption
from delta_jax.ranking import candidates, measuring, order
from delta_jax.training import advice, agreement
from delta_jax.training.config import ConfigError
from delta_jax.workdir import environment, json_files, logs

RANKING = "ranking.json"


def compare(config: ConfigDict, given: Sequence[str], texts: Sequence[str], workdir: Path) -> dict[str, Any]:
    """Measures what is not measured yet, prints the table and says what it means.

    Args:
      config: of a run, not yet resolved.
      given: its fields that were set on the command line.
      texts: of `candidates.split`.
      workdir: for ranking.json and a file for each of the weights.

    Returns:
      The content of ranking.json: "order", "rows" (see `measuring.measured`), "agreement", "images", "words".

    Raises:
      ConfigError, DataError, WeightsError: bad input, before anything slow.
    """
    for other, what in (("config.json", "a run"), ("tune.json", "a search"), ("sweep.json", "an experiment")):
        if json_files.exists(workdir / other):
            raise ConfigError(f"{workdir} is the workdir of {what}; choose another --workdir for a ranking")
    if decided := [f"--config.{field}" for field in candidates.DECIDED if field in given]:
        logs.say(f"note: without effect here: {listed(decided)} (--weights and L2-FE say it)")
    found = candidates.checked(config, texts)
    advice.say_unread(
        candidates.config_of(config, found[0][0]), [one for one in given if one not in candidates.DECIDED]
    )
    for _, setup in found:
        agreement.on_config(setup.config)
        agreement.on_setup(setup)
    first = found[0][1]
    if processes.is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        environment.write(workdir)
    agreement.on_workdir(workdir)
    for line in (*first.catalogue.notes, first.catalogue.describe()):
        logs.say(line)
    first.warn_of_leaks()
    rows = []
    while found:
        candidate, setup = found.pop(0)  # its network takes memory no longer than its turn
        rows.append(measuring.measured(candidate, setup, workdir))
        interruption.check(f"after {candidate.name}")
    return _said(rows, workdir)


def _said(rows: Sequence[dict[str, Any]], workdir: Path) -> dict[str, Any]:
    ranked = order.ordered(rows)
    images = {split: ranked[0][split] for split in ("train", "validation")}
    ranking = {
        "order": [row["weights"] for row in ranked],
        "by": "l2_fe" if ranked[0]["validation"] else "logme",
        "images": images,
        "agreement": order.agreements(ranked) if ranked[0]["validation"] else {},
        "words": order.words(ranked),
        "rows": ranked,
    }
    json_files.write(workdir / RANKING, ranking)
    title = f"Weights to start from: {images['train']:,} training and {images['validation']:,} validation images"
    logs.table(title, order.COLUMNS, [order.cells(row) for row in ranked])
    logs.say(f"{ranking['words']}\n  {workdir / RANKING}")
    return ranking
