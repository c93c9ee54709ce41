"""What methods measure on the source before fine-tuning: by hand, once, and only where it can be measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from delta_jax import methods, models, weights
from delta_jax.training import config as configs
from delta_jax.training import measured_phase, trainer
from delta_jax.training.setup import Setup
from delta_jax.workdir import logs
from tests.golden import public_methods as public
from tests.small_rivals import rival_config
from tests.small_run import interrupted, make_photos, weights_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("rivals") / "photos", per_class=12)


def test_the_fisher_information_is_the_mean_of_squared_gradients_of_drawn_classes(photos):
    setup = Setup(configs.resolve(rival_config(photos, "l2_sp_fisher")))
    found = flatten_dict(measured_phase._MEASURES["fisher"](setup))
    # Image by image, through the network with its own ten classes, and classes drawn as the phase draws them.
    head = weights.load_head(setup.config.weights, setup.config.arch)
    model = models.create(setup.config.arch, num_classes=10)
    params = flatten_dict({**setup.source["params"], "classifier": head})
    kernels = {path: leaf for path, leaf in params.items() if path in found}

    @jax.jit
    def squares(kernels, image, number):
        def log_p(kernels):
            variables = {**setup.source, "params": unflatten_dict({**params, **kernels})}
            answers = jax.nn.log_softmax(model.apply(variables, image[None])[0])
            return answers[jax.random.categorical(jax.random.fold_in(jax.random.key(0), number), answers)]

        return jax.tree.map(jnp.square, jax.grad(log_p)(kernels))

    batch = setup.train.batch(np.arange(20))
    images = setup.centre(batch["image"])
    each = [squares(kernels, image, number) for image, number in zip(images, range(20), strict=True)]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *each)
    scale = sum(leaf.sum() for leaf in mean.values()) / sum(leaf.size for leaf in mean.values())
    assert len(mean) == 5
    for path, leaf in mean.items():
        np.testing.assert_allclose(found[path], leaf / scale, rtol=2e-3, atol=1e-4 * leaf.max() / scale)


def test_relationships_are_tllibs_and_classes_without_images_have_none():
    with np.load(public.FILE) as file:
        expected = file["co_tuning/relationship"]
    found = measured_phase.relationship(public.SOURCE_LOGITS, public.LABELS, 4)
    np.testing.assert_allclose(found[:3], expected, rtol=1e-6)
    assert not found[3].any()


@pytest.mark.parametrize("name", ["lwf", "co_tuning"])
def test_the_sources_answers_are_measured_once(photos, tmp_path, monkeypatch, name):
    config = rival_config(photos, name, steps=2, log_every=1)
    interrupted(config, tmp_path, after=1)
    monkeypatch.setattr(measured_phase, "_MEASURES", {})  # it is on disk
    summary = trainer.fit(config, tmp_path).summary
    assert summary["alpha"] == methods.create(name).default_alpha
    penalties = [record["penalty"] for record in logs.read(tmp_path) if record["phase"] == "fine_tune"]
    assert all(penalty > 0 for penalty in penalties)
    # And for runs that differ in what it does not depend on.
    other = Setup(configs.resolve(rival_config(photos, name, seed=1, alpha=0.5)))
    found = measured_phase.measured(other, tmp_path / "other")
    kept = load_file(tmp_path / measured_phase.FILE)
    assert {key: np.asarray(leaf).tobytes() for key, leaf in found.items()} == {
        key: array.tobytes() for key, array in kept.items()
    }


def test_weights_without_a_classifier_are_refused_where_one_is_needed(photos, tmp_path):
    tensors = load_file(weights_of(photos))
    bare = {name: array for name, array in tensors.items() if "classifier" not in name}
    save_file(bare, tmp_path / "bare.safetensors")
    config = rival_config(photos, "lwf", weights=str(tmp_path / "bare.safetensors"))
    with pytest.raises(configs.ConfigError, match=r"method=lwf: it needs the classifier .* or another method"):
        Setup(configs.resolve(config))
