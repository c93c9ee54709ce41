"""Networks that the library does not bring: registered, imported, with arguments of their own, and what is refused."""

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from delta_jax import attention, features, models, regularizers, weights
from delta_jax.models import registry
from delta_jax.training import head as head_functions
from delta_jax.training import optim, provenance
from delta_jax.workdir import variable_files
from examples import own_model
from tests.reference import random_variables


class Body(nn.Module):
    @nn.compact
    def __call__(self, x, is_training):
        x = nn.Conv(8, (3, 3), name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not is_training, name="norm")(x))
        return nn.Dropout(0.2, deterministic=not is_training)(x)


class InSetup(nn.Module):
    """Children from setup, one of them of the name that an adapter might want."""

    num_classes: int

    def setup(self):
        self.network = Body()
        self.held = nn.Conv(6, (3, 3))
        self.out = nn.Dense(self.num_classes)

    def __call__(self, x, *, is_training):
        return self.out(jnp.mean(self.held(self.network(x, is_training)), (1, 2)))


class WithFields(nn.Module):
    """A child that is given as a field, nn.remat, nn.Sequential, a parameter of its own."""

    num_classes: int
    body: nn.Module = Body()

    @nn.compact
    def __call__(self, x, *, is_training):
        x = self.body(x, is_training)
        x = nn.remat(Body, static_argnums=(2,))(name="again")(x, is_training)
        x = nn.Sequential([nn.Conv(4, (1, 1)), nn.relu, nn.Dense(5)])(x)
        shift = self.param("shift", nn.initializers.ones, (5,))
        return nn.Dense(self.num_classes, name="out")(jnp.mean(x, (1, 2)) + shift[None])


@pytest.mark.parametrize("network", [InSetup(4), WithFields(4)], ids=["setup", "fields"])
def test_an_adapted_network_is_the_network(network):
    """Variables, taps, gaps and updated statistics: those of the network called in its own way."""
    adapted = models.adapt(network, "is_training")
    assert adapted == models.adapt(network.clone(), "is_training")
    assert hash(adapted) == hash(models.adapt(network.clone(), "is_training"))
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    variables = jax.jit(adapted.init)(jax.random.key(1), images)
    own = jax.jit(lambda key: network.init(key, images, is_training=False))(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, variables, own)

    shapes = features.list_taps(adapted, variables, images)
    assert shapes == features.list_taps(network, variables, images, is_training=False)
    taps = tuple(tap for tap in shapes if tap.split("/")[-1] in ("conv", "Sequential_0"))
    options = {"mutable": ("batch_stats",), "rngs": {"dropout": jax.random.key(2)}}

    @jax.jit
    def run(variables, images):
        ours = features.apply_with_taps(adapted, variables, images, taps, train=True, **options)
        theirs = features.apply_with_taps(network, variables, images, taps, is_training=True, **options)
        return ours, theirs, adapted.apply(variables, images), features.head_inputs(adapted, variables, images, "out")

    ours, theirs, predicted, inputs = run(variables, images)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert not np.allclose(ours[0], predicted)  # it is another network in training
    assert inputs.shape == (4, variables["params"]["out"]["kernel"].shape[0])

    labels, settings = jnp.arange(4) % 3, {"taps": taps[-1:], "filters": {taps[-1]: [0, 2]}}
    gaps = attention.filter_gaps(adapted, variables, images, labels, **settings)
    expected = attention.filter_gaps(
        network, variables, images, labels, **settings, apply_kwargs={"is_training": False}
    )
    np.testing.assert_array_equal(gaps[taps[-1]], expected[taps[-1]])
    assert (np.asarray(gaps[taps[-1]]) != 0).any()


class Word(nn.Module):
    """Says with which word it was called."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, x, **kwargs):
        (value,) = kwargs.values() or (False,)
        return 0 * nn.Dense(self.num_classes)(jnp.mean(x, (1, 2))) + float(value)


@pytest.mark.parametrize(
    ("argument", "in_training"),
    [("train", 1), ("is_training", 1), ("deterministic", 0), ("use_running_average", 0), ("", 0)],
)
def test_a_network_is_told_in_its_own_word_that_it_trains(argument, in_training):
    model = models.adapt(Word(), argument)
    images = jnp.zeros((1, 4, 4, 3))
    variables = model.init(jax.random.key(0), images)
    assert float(model.apply(variables, images, train=True)[0, 0]) == in_training
    assert float(model.apply(variables, images)[0, 0]) == (1 - in_training if argument else 0)


class TrainsByDefault(nn.Module):
    """As the ResNet of Flax's examples: train=True unless told otherwise."""

    num_classes: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(8, (3, 3), name="conv", dtype=self.dtype)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm", dtype=self.dtype)(x))
        return nn.Dense(self.num_classes, name="head", dtype=self.dtype)(jnp.mean(x, (1, 2)))


def _spec(module=TrainsByDefault, **changed):
    facts = {"name": "foreign", "family": "own", "module": module, "arguments": {}, "head": "head", "taps": ("conv",)}
    return models.ModelSpec(**(facts | changed))


@pytest.fixture
def registered():
    """Registers a spec for the length of a test."""
    before = dict(registry._SPECS)
    yield lambda spec: models.register(spec) or spec.name
    registry._SPECS.clear()
    registry._SPECS.update(before)


def test_a_registered_network_is_created_by_its_name_and_no_other_may_take_it(registered):
    name = registered(_spec())
    assert name in models.names()
    assert models.spec(name).taps == ("conv",)
    assert models.create(name, dtype=jnp.bfloat16) == models.adapt(TrainsByDefault(1000, jnp.bfloat16), "train")
    model = models.create(name, num_classes=3)
    images = jnp.ones((2, 8, 8, 3))
    variables = random_variables(model, images)
    jax.eval_shape(model.apply, variables, images)  # or it would update statistics, which nothing here allows
    registered(_spec())  # the same again
    with pytest.raises(ValueError, match="another network is called 'foreign' already"):
        registered(_spec(head="conv"))
    with pytest.raises(ValueError, match="another network is called 'resnet18'"):
        registered(_spec(name="resnet18"))
    for name in ("", "a:b"):
        with pytest.raises(ValueError, match="no name for a network"):
            registered(_spec(name=name))


def test_threads_do_not_overwrite_each_other(registered):
    specs = [_spec(head=f"head_{i}") for i in range(16)]

    def one(spec):
        try:
            return registered(spec)
        except ValueError:
            return None

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(one, specs)).count("foreign") == 1


MODULE = """
import flax.linen as nn
from delta_jax.models import ModelSpec

class Net(nn.Module):
    num_classes: int
    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))

def network():
    return ModelSpec("n", "own", Net, {}, "head", train_argument="")

def something():
    return Net
"""


@pytest.fixture
def importable(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (("nets_of_a_user", MODULE), ("broken_nets", "1 / 0"), ("hungry_nets", "import no_such_package")):
        (tmp_path / f"{name}.py").write_text(text)
    yield
    for name in ("nets_of_a_user", "broken_nets", "hungry_nets"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("importable")
def test_networks_by_module_and_function():
    model = models.create("nets_of_a_user:network", num_classes=5)
    variables = model.init(jax.random.key(0), jnp.ones((1, 4, 4, 3)))
    assert variables["params"]["head"]["kernel"].shape == (3, 5)
    assert models.spec("nets_of_a_user:network") == models.spec("nets_of_a_user:network")


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nets_of_a_usr:network", r"No module named 'nets_of_a_usr'; start from the folder that holds nets_of_a_usr"),
        ("nets_of_a_user:netwrk", r"has no function 'netwrk'; it has network"),
        ("nets_of_a_user:something", r"returns _ModuleMeta|returns ModuleMeta|returns type"),
        ("broken_nets:network", r"cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("hungry_nets:network", r"No module named 'no_such_package'"),
        (":network", r"cannot be found|cannot be imported"),
        ("own_net", r"no network called 'own_net'.*a network of your own: package.module:function"),
    ],
)
def test_networks_that_are_not_there(name, complaint):
    with pytest.raises(ValueError, match=complaint):
        models.create(name)


def test_options_that_a_network_does_not_have(registered):
    name = registered(_spec())
    with pytest.raises(ValueError, match=r"TrainsByDefault takes .*, but no dropout; add it.*--config.dropout=0"):
        models.create(name, dropout=0.5)
    # It has running statistics, and nothing to freeze them by.
    with pytest.raises(ValueError, match=r"no frozen_norm; add it.*--config.batch_norm=train"):
        models.create(name, frozen_norm=True)
    with pytest.raises(ValueError, match=r"foreign has no second classifier"):
        models.create(name, auxiliary=True)
    name = registered(_spec(lambda classes: TrainsByDefault(classes), name="other_word"))
    with pytest.raises(ValueError, match=r"takes classes, but no num_classes; let ModelSpec.module be a function"):
        models.create(name)
    name = registered(_spec(lambda num_classes: TrainsByDefault(num_classes), name="by_function"))
    assert models.create(name, num_classes=3) == models.adapt(TrainsByDefault(3), "train")
    name = registered(_spec(name="no_word", train_argument="is_training"))
    with pytest.raises(ValueError, match=r"called with \(x, train\) and has no argument 'is_training'.*train_argument"):
        models.create(name)


def test_taps_are_given_once():
    spec = models.spec("resnet18")
    assert dataclasses.replace(spec, torch_taps={}, taps=["layer1_0"]).taps == ("layer1_0",)
    assert dataclasses.replace(spec, torch_taps={"layer1.0": "layer1_0"}, taps=()).taps == ("layer1_0",)
    with pytest.raises(ValueError, match=r"resnet18: taps \('layer1_0',\) are not those of torch_taps"):
        dataclasses.replace(spec, taps=("layer1_0",))


@pytest.mark.usefixtures("importable")
def test_a_network_without_running_statistics_is_frozen_already():
    assert models.create("nets_of_a_user:network", frozen_norm=True) == models.create("nets_of_a_user:network")


class Wrong(nn.Module):
    """A network with one thing wrong."""

    what: str
    num_classes: int = 3

    @nn.compact
    def __call__(self, x):
        if self.what == "state":
            self.variable("counters", "calls", jnp.zeros, (1,))
        if self.what == "size":
            x = x + jnp.zeros((1, 7, 7, 3))
        head = nn.Conv(self.num_classes, (1, 1), name="head") if self.what == "conv" else None
        head = head or nn.Dense(10 if self.what == "classes" else self.num_classes, name="head")
        x = head(jnp.mean(x, (1, 2), keepdims=self.what in ("conv", "maps")))
        return {"logits": x} if self.what == "dict" else x


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("conv", r"the head 'head' is no Dense layer .* it holds .*\(1, 1, 3, 3\).*not to be found"),
        ("classes", r"the head 'head' has 10 outputs where 3 classes are asked for"),
        ("maps", r"Wrong returns \(2, 1, 1, 3\) for 2 images, expected logits \(2, 3\)"),
        ("dict", r"Wrong returns \{'logits': \(2, 3\)\} for 2 images"),
        ("state", r"Wrong has the collections counters; a training state keeps params and batch_stats only"),
        ("size", r"Wrong does not run on images \[B, 8, 8, 3\]: "),
    ],
)
def test_networks_that_cannot_be_fine_tuned(what, complaint):
    with pytest.raises(ValueError, match=complaint):
        models.check(models.adapt(Wrong(what), ""), "head", 3, size=8)
    models.check(models.adapt(Wrong("nothing"), ""), "head", 3, size=8)


def test_variables_that_do_not_fit():
    model = models.adapt(TrainsByDefault(3), "train")
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    models.check(model, "head", 3, size=8, variables=variables)
    with pytest.raises(ValueError, match=r"needs the collection batch_stats \(running statistics of BatchNorm\), and"):
        models.check(model, "head", 3, size=8, variables={"params": variables["params"]})
    other = jax.eval_shape(TrainsByDefault(10).init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"the head 'head' of the variables has .*\(8, 10\).*, expected .*\(8, 3\)"):
        models.check(model, "head", 3, size=8, variables=other)
    with pytest.raises(ValueError, match=r"no module 'haed' in the parameters to be the head; did you mean head"):
        models.check(model, "haed", 3, size=8)


def first_updates(tx, params):
    """What the optimizer adds to the parameters when every gradient is 1."""
    return jax.jit(lambda params: tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)[0])(params)


class Inside(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(4, (3, 3), name="b")(x))


class Named(nn.Module):
    """A network whose names are not words."""

    num_classes: int
    beside: str = "a"

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="a.b")(x))
        x = nn.relu(nn.Conv(4, (3, 3), name="s/t")(x))
        x = Inside(name=self.beside)(x)
        return nn.Dense(self.num_classes, name="head/fc.1")(jnp.mean(x, (1, 2)))


def test_dots_and_slashes_in_names(registered, tmp_path):
    """The head is found, nothing else is taken for it, and a file in Flax's names is read."""
    name = registered(_spec(Named, head="head/fc.1", taps=("a.b", "s/t"), train_argument=""))
    model = models.create(name, num_classes=3)
    images = jnp.ones((2, 8, 8, 3))
    variables = random_variables(model, images)
    models.check(model, "head/fc.1", 3, size=8, variables=variables)
    assert models.module_path(variables["params"], "head/fc.1") == ("head/fc.1",)

    params = variables["params"]
    new = head_functions.new_head("zeros", head_functions.get_head(params, "head/fc.1"), jax.random.key(1))
    replaced = head_functions.put_head(params, "head/fc.1", new)
    assert jax.tree.structure(replaced) == jax.tree.structure(params)
    assert not np.asarray(replaced["head/fc.1"]["kernel"]).any()
    np.testing.assert_array_equal(replaced["s/t"]["kernel"], params["s/t"]["kernel"])
    # By hand: all but the head differs by 1, half of the squares is half of the number of parameters.
    others = {key: value for key, value in params.items() if key != "head/fc.1"}
    moved = {**jax.tree.map(lambda leaf: np.asarray(leaf) + 1, others), "head/fc.1": params["head/fc.1"]}
    expected = 0.5 * sum(leaf.size for leaf in jax.tree.leaves(others))
    assert float(regularizers.l2_sp(moved, params, head="head/fc.1")) == pytest.approx(expected, rel=1e-5)
    rates = optim.make_optimizer(params, lambda _: 1.0, head="head/fc.1", momentum=0.0, freeze_body=True)
    updates = first_updates(rates, params)
    moving = {key for key, node in updates.items() if any(np.asarray(leaf).any() for leaf in jax.tree.leaves(node))}
    assert moving == {"head/fc.1"}

    path = tmp_path / "own.safetensors"
    variable_files.save_variables(path, variables)
    jax.tree.map(np.testing.assert_array_equal, weights.load(str(path), name, num_classes=3), variables)
    fewer = weights.load(str(path), name, num_classes=2)  # another head, zeros
    assert not np.asarray(fewer["params"]["head/fc.1"]["kernel"]).any()


@pytest.mark.parametrize("beside", ["s", "head"])
def test_names_that_read_as_if_one_were_inside_of_another_are_refused(beside):
    with pytest.raises(
        ValueError, match=rf"Named has modules .* called '{beside}' and '{beside}/\S+' beside each other"
    ):
        models.check(models.adapt(Named(3, beside), ""), "head/fc.1", 3, size=8)


class LayerNormBlock(nn.Module):
    """As in ConvNeXt: depthwise convolution, LayerNorm, two Dense layers, a factor per channel, shortcut."""

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        y = nn.Conv(width, (7, 7), feature_group_count=width, name="depthwise")(x)
        y = nn.LayerNorm(name="norm")(y)
        y = nn.Dense(width, name="narrow")(nn.gelu(nn.Dense(4 * width, name="wide")(y)))
        return x + self.param("gamma", nn.initializers.constant(0.5), (1, 1, 1, width)) * y


class LayerNormNet(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(name="stem_norm")(nn.Conv(8, (4, 4), strides=(4, 4), name="stem")(x))
        for i in range(2):
            x = LayerNormBlock(name=f"block_{i}")(x)
        return nn.Dense(self.num_classes, name="head")(nn.LayerNorm(name="norm")(jnp.mean(x, (1, 2))))


def test_a_network_with_layer_norm_has_taps_attention_penalty_and_frozen_norms(registered):
    """Taps, exact attention and penalty; and which parameters batch_norm=frozen leaves alone."""
    name = registered(_spec(LayerNormNet, taps=("block_0", "block_1/depthwise"), train_argument=""))
    taps, model = models.spec(name).taps, models.create(name, num_classes=3, frozen_norm=True)
    images = jnp.asarray(np.random.default_rng(0).standard_normal((3, 16, 16, 3)), jnp.float32)
    labels, variables = jnp.arange(3), random_variables(model, images)
    models.check(model, "head", 3, size=16, variables=variables)
    assert features.list_taps(model, variables, images)["block_1/depthwise"] == (3, 4, 4, 8)
    gaps = attention.filter_gaps(model, variables, images, labels, taps=taps)

    @jax.jit
    def losses(factors):
        changes = {tap: lambda maps, tap=tap: maps * factors[tap][None, None, None] for tap in taps}
        logits, _ = features.apply_with_changes(model, variables, images, changes)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)

    whole = {tap: np.ones(8, np.float32) for tap in taps}
    for tap in taps:  # Eq. 6: a forward pass with one filter set to zero
        for j in (0, 5):
            without = (np.arange(8) != j).astype(np.float32)
            expected = np.asarray(losses(whole | {tap: without})) - np.asarray(losses(whole))
            np.testing.assert_allclose(gaps[tap][:, j], expected, atol=2e-6)

    numbers = {tap: np.asarray(gap) for tap, gap in gaps.items()}
    weights = attention.normalize(numbers, "standardized_softmax", temperature=5.0)
    _, maps = jax.jit(lambda x: features.apply_with_taps(model, variables, x, taps, train=True))(images)
    moved = jax.tree.map(lambda m: np.asarray(m) + 1, maps)
    # The weights of a tap sum to 1: moved by 1 at all 4 x 4 positions, each tap costs 16.
    np.testing.assert_allclose(regularizers.feature_distance(moved, maps, weights), [32.0] * 3, rtol=1e-5)

    params = variables["params"]
    tx = optim.make_optimizer(params, lambda _: 0.1, head="head", freeze_norm=True, head_learning_rate_factor=10.0)
    updates = first_updates(tx, params)
    rates = {"/".join(k.key for k in path): float(-u.ravel()[0]) for path, u in jax.tree.leaves_with_path(updates)}
    frozen = {name for name, rate in rates.items() if rate == 0}
    assert frozen == {name for name in rates if "norm/" in name}
    assert {name for name, rate in rates.items() if np.isclose(rate, 1.0)} == {"head/kernel", "head/bias"}
    assert rates["block_0/gamma"] == pytest.approx(0.1)


def test_measurements_of_a_changed_network_are_not_shared():
    def facts(module, spec):
        model = models.adapt(module, "")
        images = jnp.ones((1, 8, 8, 3))
        return provenance.of_network(
            SimpleNamespace(
                spec=spec,
                config=SimpleNamespace(arch="nets:own"),
                preprocessing=SimpleNamespace(crop=8),
                network=lambda: model,
                source=jax.eval_shape(model.init, jax.random.key(0), images),
            )
        )

    class Edited(Wrong):  # the same parameters, another function of them
        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.num_classes, name="head")(jnp.max(x, (1, 2)))

    spec = dataclasses.replace(own_model.spec(), name="x")
    assert facts(Wrong("nothing"), spec) == facts(Wrong("nothing"), spec)
    assert facts(Wrong("nothing"), spec) != facts(Edited("nothing"), spec)
    assert facts(Wrong("nothing"), models.spec("resnet18")) == "nets:own"  # the library's own: by name
