"""The training step of a run: what it computes, from which arguments, and of which shapes these are."""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from delta_jax import features, methods, models, precision
from delta_jax.processes import sharding
from delta_jax.training import head, head_restarts, layer_rates, measured_phase, optim, steps, strength
from delta_jax.training.programs import Programs
from delta_jax.training.setup import Setup
from delta_jax.training.state import TrainState, Variables, init_state

# The table of learning rates is a multiple of this long, so that shorter and longer runs share a program.
_TABLE = 1024


@flax.struct.dataclass
class Hyperparameters:
    """Arguments of the program rather than constants in it: runs that differ in them share one.

    Attributes:
      alpha, beta: float32 scalars, see `steps.make_loss`.
      learning_rates: float32 [T], of step 0, 1, ...; T is the number of steps or more.
      layer_factors: float32 [T, L], see `layer_rates.factors`; None where all layers have the same rate.
      restarts: int32 [R], steps before which the head is made anew; None for none.
      label_weights: float32 [K], see `steps.make_loss`; None for none.
      key: of all that is random.
    """

    alpha: Any
    beta: Any
    learning_rates: Any
    label_weights: Any
    key: Any
    layer_factors: Any = None
    restarts: Any = None


def learning_rates(setup: Setup, epoch_steps: float) -> np.ndarray:
    """Of every step and up to 1,023 more, float32 [T]; an epoch has so many steps."""
    config = setup.config
    schedule = optim.learning_rate_schedule(
        config.schedule,
        config.learning_rate,
        config.steps,
        warmup_steps=config.warmup_steps,
        decay_at=config.decay_at,
        decay_factor=config.decay_factor,
        epoch_steps=epoch_steps,
        epoch_factor=config.epoch_decay_factor,
    )
    count = jnp.arange(-(-config.steps // _TABLE) * _TABLE)
    return np.asarray(jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))(count))


def hyperparameters(setup: Setup, alpha: float, rates: np.ndarray) -> Hyperparameters:
    """Those of the run, on all devices."""
    config = setup.config
    weights = setup.label_weights if config.imbalance == "weighted_loss" else None
    key = np.asarray(jax.random.key_data(jax.random.key(config.seed)))
    numbers = (np.float32(alpha), np.float32(config.beta), rates, weights, *_of_layers(setup, rates))
    alpha_, beta, rates_, weights_, factors, restarts, bits = sharding.replicate((*numbers, key), setup.mesh)
    return Hyperparameters(alpha_, beta, rates_, weights_, jax.random.wrap_key_data(bits), factors, restarts)


def _of_layers(programs: Programs, rates: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """`layer_factors` and `restarts` of the hyperparameters."""
    config = programs.config
    factors = restarts = None
    if programs.layers and (config.layer_decay != 1 or config.unfreeze or config.head_restarts):
        factors = layer_rates.factors(
            rates,
            config.steps,
            programs.layers.count,
            decay=config.layer_decay,
            unfreeze=config.unfreeze,
            restarts=config.head_restarts,
        )
    if config.head_restarts:
        restarts = layer_rates.restart_steps(config.steps, config.head_restarts)
    return factors, restarts


def initial_state(setup: Setup, start: Variables) -> TrainState:
    """The state before the first step, on all devices."""
    return sharding.replicate(_start(setup, start), setup.mesh)


def _start(programs: Programs, variables: Variables, source_head: Any = None) -> TrainState:
    search = strength.begin() if programs.config.strength_search else None
    own = programs.own_parameters(source_head)
    carried = programs.first_buffers(variables["params"], own) if programs.method.carries else None
    # What the optimizer is told of rates has no part in its first state.
    factors, _ = _of_layers(programs, np.zeros(1, np.float32))
    still = optax.constant_schedule(0.0)
    return init_state(
        variables,
        _optimizer(programs, still, layer_factors=factors),
        search,
        average=programs.config.average > 0,
        own=own,
        own_tx=_own_optimizer(programs, still),
        carried=carried,
    )


def _optimizer(
    setup: Programs,
    schedule: optax.Schedule,
    search: strength.Search | None = None,
    *,
    layer_factors: Any = None,
) -> optax.GradientTransformation:
    config = setup.config
    decay: Any = config.weight_decay if setup.method.decays_weights else 0.0
    return optim.make_optimizer(
        setup.source["params"],
        schedule,
        head=setup.heads,
        kind=config.optimizer,
        momentum=config.momentum,
        weight_decay=decay * search.factor if search is not None and decay else decay,
        clip_norm=config.clip_norm,
        head_learning_rate_factor=config.head_learning_rate_factor,
        freeze_norm=config.batch_norm == "frozen",
        frozen=setup.frozen,
        layers=setup.layers,
        layer_factors=layer_factors,
        surgical=config.surgical,
    )


def _own_optimizer(setup: Programs, schedule: optax.Schedule) -> optax.GradientTransformation | None:
    """Of the method's own parameters; their gradient is clipped by itself."""
    if not setup.method.has_own_parameters:
        return None
    config, own = setup.config, jax.eval_shape(setup.own_parameters, setup.shapes.source_head)
    return optim.make_optimizer(
        own,
        schedule,
        head=tuple(own),
        kind=config.optimizer,
        momentum=config.momentum,
        weight_decay=config.weight_decay if setup.method.decays_weights else 0.0,
        clip_norm=config.clip_norm,
        head_learning_rate_factor=config.head_learning_rate_factor if setup.method.own_rate_is_the_heads else 1.0,
    )


def _step(setup: Programs, state: TrainState, source: Variables, batch: Any, attention: Any, chosen: Hyperparameters):
    """One step, as `steps.make_train_step` has it, with the metrics [M] in the order of `steps.METRICS`.

    Where the strength is searched, the factor on it comes after them.
    """
    # Loss and optimizer are made while jax traces: so what they are told can be arguments.
    config = setup.config
    search = state.search if config.strength_search else None
    if search is not None:
        chosen = dataclasses.replace(chosen, alpha=chosen.alpha * search.factor)
    loss = make_loss(setup, chosen)
    if chosen.restarts is not None:
        kind = config.head_init if config.head_init in head.KINDS else "normal"
        state = head_restarts.restarted(state, chosen.restarts, chosen.key, heads=setup.heads, kind=kind)
    rates, factors = chosen.learning_rates, chosen.layer_factors

    def schedule(count):
        return rates[count]

    step = steps.make_train_step(
        loss,
        _optimizer(setup, schedule, search, layer_factors=factors),
        setup.augment,
        mix=setup.mix,
        average=config.average,
        accumulate=config.accumulate,
        own_tx=_own_optimizer(setup, schedule),
        project=partial(setup.method.project, head=setup.heads) if setup.method.projects else None,
    )
    with precision.of(config.matmul_precision):
        state, metrics = step(state, source, batch, attention, chosen.key)
    strengths = [] if search is None else [search.factor]
    return state, jnp.stack([*(metrics[name].astype(jnp.float32) for name in steps.METRICS), *strengths])


def make_loss(setup: Programs, chosen: Hyperparameters, method: methods.Method | None = None) -> Callable[..., Any]:
    """`steps.make_loss` of the run, or of another method on its network; made inside of a jitted function."""
    config = setup.config
    return steps.make_loss(
        setup.trained_network(),
        setup.network(compute_dtype=config.compute_dtype, platform=setup.platform),
        method or setup.method,
        taps=config.taps,
        head=setup.heads,
        alpha=chosen.alpha,
        beta=chosen.beta,
        auxiliary=setup.spec.auxiliary.rpartition("/")[0] if setup.trains_auxiliary else "",
        auxiliary_weight=config.auxiliary_weight,
        label_weights=chosen.label_weights,
        label_smoothing=config.label_smoothing,
        freeze_until=config.freeze_until,
        recompute=features.blocks(setup.source["params"]) if config.remat else (),
        within=models.stochastic_norm if config.batch_norm == "stochastic" else nullcontext,
        # TPU compilers see by themselves what is quicker computed again than kept.
        keep=models.keep_products_and_sums if setup.platform == "gpu" and not config.remat else None,
    )


def function(programs: Programs) -> Any:
    """The step, jitted: (state, source, batch, attention, hyperparameters) -> (state, metrics); see `arguments`."""
    return jax.jit(partial(_step, programs), donate_argnums=0)


def arguments(programs: Programs, pixels: Any, rows: int) -> tuple[Any, ...]:
    """Shapes of (state, source, batch, attention, hyperparameters), and how they lie on the devices.

    Args:
      programs: of the run.
      pixels: shapes of a batch of decoded images, see `Programs.pixels`.
      rows: training images, each of which may have an attention of its own.
    """
    config = programs.config
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    index = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    each = (rows,) if _has_one_each(config, programs) else ()
    attention = {tap: jax.ShapeDtypeStruct((*each, n), jnp.float32) for tap, n in programs.channels.items()}
    weighted = config.imbalance == "weighted_loss"
    chosen = Hyperparameters(
        alpha=scalar,
        beta=scalar,
        learning_rates=jax.ShapeDtypeStruct((-(-config.steps // _TABLE) * _TABLE,), jnp.float32),
        label_weights=jax.ShapeDtypeStruct((programs.num_classes,), jnp.float32) if weighted else None,
        key=jax.eval_shape(jax.random.key, 0),
    )
    of_layers = _of_layers(programs, np.zeros(chosen.learning_rates.shape, np.float32))
    factors, restarts = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), of_layers)
    chosen = dataclasses.replace(chosen, layer_factors=factors, restarts=restarts)
    state = jax.eval_shape(partial(_start, programs), programs.source, programs.shapes.source_head)
    measured = measured_phase.shapes(programs, rows)
    source = {**programs.source, "measured": measured} if measured else programs.source
    everywhere = (state, source, attention if programs.method.uses_attention else None, chosen)
    state, source, attention, chosen = sharding.planned(everywhere, programs.mesh)
    numbers = sharding.planned({"label": index, "index": index}, programs.mesh, split=True)
    return state, source, {"image": pixels, **numbers}, attention, chosen


def _has_one_each(config: Any, programs: Programs) -> bool:
    if "source_logits" in programs.method.measures:
        return True
    return programs.method.uses_attention and config.attention_per != "data_set"


def expected_arguments(setup: Setup) -> tuple[Any, ...] | None:
    """`arguments` of the run; None where they depend on the decoded images."""
    config, settings = setup.config, setup.config.data
    if settings.aspect == "keep" or (_has_one_each(config, setup) and settings.on_broken == "skip"):
        return None
    return arguments(setup, setup.pixels(config.batch_size), len(setup.catalogue.rows("train")))
