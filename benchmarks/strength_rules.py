"""Two rules for finding a strength within a run, beside a grid, on handwritten digits: minutes on one CPU core.

A network of two hidden layers is trained on the digits 0 to 4 (scikit-learn's, 8 x 8 pixels) and fine-tuned on 5 to 9,
as the library does it: L2-FE head, 600 steps of 16 with a cosine schedule, gradients clipped. "greedy" follows the
gradient of the validation loss alone, "gap" is what `training.strength` does. Prints test top-1 in percent, mean over
the seeds, and the strength that a run ended with (log10, mean and standard deviation).

python benchmarks/strength_rules.py [--seeds=6]
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from delta_jax.training import strength
from delta_jax.training.optim import learning_rate_schedule, make_optimizer

STEPS, BATCH, RATE = 600, 16, 0.02
EXPONENTS = (-3.0, -2.0, -1.0, 0.0, 1.0)  # of the strengths of the grid; of l2 two less
STARTS = (1, 3)  # places in the grid at which searches begin
PIXELS, DIGITS = load_digits(return_X_y=True)
PIXELS = (PIXELS / 16 - 0.3).astype(np.float32)


def forward(params, x):
    """Logits [B, 5], and the maps of both hidden layers."""
    maps = []
    for name in ("first", "second"):
        x = jax.nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
        maps.append(x)
    return x @ params["head"]["kernel"] + params["head"]["bias"], maps


def random_parameters(key):
    """Of 64, 64, 64 and 5 units."""
    keys = jax.random.split(key, 3)

    def layer(key, outputs):
        return {"kernel": jax.random.normal(key, (64, outputs)) * np.sqrt(2 / 64), "bias": jnp.zeros(outputs)}

    return {name: layer(key, n) for name, key, n in zip(("first", "second", "head"), keys, (64, 64, 5), strict=True)}


def cross_entropy(params, x, y):
    """Mean over a batch."""
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(forward(params, x)[0], y))


def penalty(method, params, source, x):
    """Of l2, l2_sp, and of delta without attention."""
    if method == "l2":
        return 0.5 * optax.tree.norm(params, squared=True)
    if method == "l2_sp":
        return 0.5 * sum(
            optax.tree.norm(optax.tree.sub(params[m], source[m]), squared=True) for m in params if m != "head"
        )
    pairs = zip(forward(params, x)[1], forward(source, x)[1], strict=True)
    return jnp.mean(sum(jnp.sum((ours - theirs) ** 2, -1) for ours, theirs in pairs))


def fitted(key, params, x, y, *, steps, rate, only_head):
    """SGD on the cross-entropy alone."""
    tx = make_optimizer(params, optax.constant_schedule(rate), head="head", freeze_body=only_head)

    def one(carry, key):
        params, state = carry
        picked = jax.random.randint(key, (BATCH,), 0, len(x))
        updates, state = tx.update(jax.grad(cross_entropy)(params, x[picked], y[picked]), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(one, (params, tx.init(params)), jax.random.split(key, steps))[0][0]


@partial(jax.jit, static_argnames=("method", "rule"))
def run(method, rule, key, sets, exponent):
    """One fine-tuning: (exponent at the end, validation top-1, test top-1); rule "" holds the strength."""
    (x, y), (x_validation, y_validation), (x_test, y_test) = sets
    keys = jax.random.split(key, 4)
    old = DIGITS < 5
    source = fitted(
        keys[0], random_parameters(keys[1]), jnp.array(PIXELS[old]), jnp.array(DIGITS[old]), steps=600, rate=0.05,
        only_head=False,
    )  # fmt: skip
    source = {**source, "head": jax.tree.map(jnp.zeros_like, source["head"])}
    source = fitted(keys[2], source, x, y, steps=300, rate=0.05, only_head=True)
    schedule = learning_rate_schedule("cosine", RATE, STEPS, warmup_steps=20)
    tx = make_optimizer(source, schedule, head="head", clip_norm=1.0)
    start = 10.0**exponent

    def objective(params, factor, x, y):
        paid = penalty(method, params, source, x)
        return cross_entropy(params, x, y) + start * factor * paid, paid

    def step(carry, key):
        params, state, factor = carry
        picked = jax.random.randint(key, (BATCH,), 0, len(x))
        gradient = jax.grad(objective, has_aux=True)(params, factor, x[picked], y[picked])[0]
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state, factor), None

    def loss(params, arguments):
        x, y, shares = arguments
        return shares[0] * cross_entropy(params, x, y) + shares[1] * penalty(method, params, source, x)

    slope = strength.make_slope(loss, optax.sgd(1.0))

    def between_looks(carry, numbered):
        params, state, search = carry
        number, key = numbered
        ours, theirs, rest = jax.random.split(key, 3)
        if rule:
            picked = jax.random.randint(ours, (BATCH,), 0, len(x))
            other = jax.random.randint(theirs, (BATCH,), 0, len(x_validation))
            own = jnp.array([1.0, start * search.factor]) if rule == "gap" else jnp.zeros(2)
            three = [(x[picked], y[picked])] * 2 + [(x_validation[other], y_validation[other])]
            images, labels = jax.tree.map(lambda *leaves: jnp.stack(leaves), *three)
            shares = jnp.stack([own, jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])])
            _, cosine = slope(params, (images, labels, shares))
            search = strength.move(search, cosine, schedule(number * strength.EVERY) / RATE)
        begin = (params, state, search.factor)
        (params, state, _), _ = jax.lax.scan(step, begin, jax.random.split(rest, strength.EVERY))
        return (params, state, search), None

    blocks = STEPS // strength.EVERY
    numbered = (jnp.arange(blocks), jax.random.split(keys[3], blocks))
    (params, _, search), _ = jax.lax.scan(between_looks, (source, tx.init(source), strength.begin()), numbered)

    def top1(x, y):
        return jnp.mean(jnp.argmax(forward(params, x)[0], -1) == y)

    return exponent + search.shift / np.log(10), top1(x_validation, y_validation), top1(x_test, y_test)


def drawn(seed, per_class, wrong):
    """(training, validation, test) images and labels; of the first two a share of the labels is drawn at random."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(np.flatnonzero(DIGITS >= 5))
    truth = DIGITS[rows] - 5
    told = np.where(rng.random(len(rows)) < wrong, rng.integers(0, 5, len(rows)), truth)
    ends = np.cumsum([0, per_class, per_class // 4, 75])
    found = []
    for first, last, labels in zip(ends[:-1], ends[1:], (told, told, truth), strict=True):
        picked = np.concatenate([np.flatnonzero(truth == label)[first:last] for label in range(5)])
        found.append((PIXELS[rows[picked]], labels[picked]))
    return found


def main():
    """Prints a table for each method and each number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6)
    seeds = parser.parse_args().seeds
    keys = jax.vmap(jax.random.key)(jnp.arange(seeds))
    for per_class, wrong in ((80, 0.0), (20, 0.2)):
        sets = jax.tree.map(
            lambda *leaves: jnp.array(np.stack(leaves)), *(drawn(s, per_class, wrong) for s in range(seeds))
        )
        for method in ("l2", "l2_sp", "delta_without_attention"):
            exponents = jnp.array(EXPONENTS) - (2 if method == "l2" else 0)

            def results(rule, exponents, method=method, sets=sets):
                of_seeds = jax.vmap(partial(run, method, rule), in_axes=(0, 0, None))
                return [np.asarray(a) for a in jax.vmap(of_seeds, in_axes=(None, None, 0))(keys, sets, exponents)]

            _, validation, test = results("", exponents)
            chosen = test[validation.argmax(0), np.arange(seeds)].mean()
            grid = ", ".join(f"1e{e:+.0f} {100 * t:.1f}" for e, t in zip(exponents, test.mean(1), strict=True))
            print(f"{method}, {per_class} a class, {wrong:.0%} of the labels drawn: {grid}", flush=True)
            print(f"  chosen on validation images: {100 * chosen:.1f}")
            for rule in ("greedy", "gap"):
                ends, _, test = results(rule, exponents[jnp.array(STARTS)])
                for place, end, found in zip(STARTS, ends, test, strict=True):
                    print(
                        f"  {rule:6} from 1e{exponents[place]:+.0f}: {100 * found.mean():.1f}, "
                        f"ends at {end.mean():.1f} +- {end.std():.1f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
