"""New settings from those that were tried, by optuna's tree-structured Parzen estimator (Bergstra et al., 2011).

optuna proposes, and nothing more: what was tried lies in the folders of the trials, and its study is made anew of them
for every proposal. So there is one record of the truth, which survives kill -9 and is shared like any other file.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from delta_jax.training.config import ConfigError
from delta_jax.tuning.space import Setting, Space

_DRAWN = 8  # settings before the estimator has something to learn from; until then they are drawn at random


def require() -> None:
    """Raises ConfigError where optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError("optuna, which proposes settings, is not installed: pip install 'delta_jax[tune]'") from error


def propose(
    space: Space, tried: Sequence[Setting], values: Mapping[int, Mapping[int, float]], rungs: int, seed: int
) -> dict[str, Any]:
    """Fields of the next setting.

    Args:
      space: to draw from.
      tried: all settings so far; those without a value are under way.
      values: {number: {rung: value}}, larger is better.
      rungs: how many there are; a setting that passed the last one is complete.
      seed: of the proposal; the same arguments give the same one.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # constant_liar
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_DRAWN, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for one in tried:
        if one.method in space.methods:
            study.add_trial(_as_trial(space, one, values.get(one.number, {}), rungs))
    return _suggested(space, study.ask())


def _as_trial(space: Space, setting: Setting, values: Mapping[int, float], rungs: int) -> Any:
    import optuna

    every = _distributions(space)
    fields = {name: value for name, value in setting.fields.items() if name in every}
    state, last = optuna.trial.TrialState.RUNNING, None
    if values:
        # One that stopped half-way is worth less than any that came to the end, and is not taken for a failure.
        complete = max(values) == rungs - 1
        state = optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED
        last = values[max(values)]
    return optuna.trial.create_trial(
        state=state,
        value=last,
        params=fields,
        distributions={name: every[name] for name in fields},
        intermediate_values=dict(values),
    )


def _distributions(space: Space) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    found: dict[str, Any] = {"method": CategoricalDistribution(space.methods)}
    if space.rates:
        found["learning_rate"] = FloatDistribution(*space.rates, log=True)
    for field, low, high in space.strengths.values():
        found[field] = FloatDistribution(low, high, log=True)
    if len(space.crops) > 1:
        found["data.crop"] = CategoricalDistribution(space.crops)
    return found


def _suggested(space: Space, trial: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"method": trial.suggest_categorical("method", space.methods)}
    if space.rates:
        fields["learning_rate"] = trial.suggest_float("learning_rate", *space.rates, log=True)
    if strength := space.strengths.get(fields["method"]):
        field, low, high = strength
        fields[field] = trial.suggest_float(field, low, high, log=True)
    if len(space.crops) > 1:
        return fields | space.size(trial.suggest_categorical("data.crop", space.crops))
    return fields | space.size((*space.crops, 0)[0])
