"""A plan on simulated CPU devices: it is of the run's own programs, and counts what the run does."""

import dataclasses
import json

import jax
import pytest

from delta_jax import chips
from delta_jax.planning import amounts as counting
from delta_jax.planning import plan, tables, works
from delta_jax.planning.amounts import Amounts
from delta_jax.processes import sharding
from delta_jax.training import attention_program, step_program
from delta_jax.training import config as configs
from delta_jax.training.config import ConfigError
from delta_jax.training.programs import Programs
from delta_jax.training.setup import Setup
from tests.small_run import make_photos, small_config

COUNTED = Amounts(classes=3, train=40, validation=14, test=18, origin="told")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("plan") / "photos")


def planned(photos, **changed):
    topology = chips.find("cpu:4")
    config = configs.resolve(small_config(photos, **changed))
    return Programs(config, sharding.mesh_of(topology.devices), 3)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"method": "l2", "accumulate": 2, "batch_norm": "frozen", "imbalance": "weighted_loss"},
        {"preset": "paper", "remat": True, "eval_crops": 10, "attention_estimator": "mixed"},
    ],
)
def test_programs_are_those_of_the_run(photos, changed):
    run, shapes = Setup(configs.resolve(small_config(photos, **changed))), planned(photos, **changed)
    step = step_program.function(run).lower(*step_program.expected_arguments(run)).as_text()
    assert (
        works.step(shapes, COUNTED, 1e9).make()[0].lower(*works.step(shapes, COUNTED, 1e9).make()[1]).as_text() == step
    )
    found = {work.name: work for work in works.works(shapes, COUNTED, 1e9)}
    evaluated, arguments = found["evaluation"].make()
    batch = next(run.test.batches(8))[2]["image"]
    assert evaluated.lower(*arguments).as_text() == run.predict.lower(run.source, batch).as_text()
    features, arguments = found["features"].make()
    assert features.lower(*arguments).as_text() == run.head_features().lower(run.source, batch).as_text()
    if run.method.uses_attention:
        gaps, arguments = found["attention"].make()
        batch = run.train.batch(range(8))
        real = (run.source, None), jax.jit(run.centre)(batch["image"]), batch["label"]
        own = attention_program.program(run, attention_program.estimators(run.config)[0], None)
        assert gaps.lower(*arguments).as_text() == own.lower(*real).as_text()


def test_calls_are_counted(photos):
    found = {work.name: work.calls for work in works.works(planned(photos), COUNTED, 1e9)}
    # 40, 14 and 18 images in batches of 8: 5, 2 and 3. 8 steps with a look at the validation images after every 4.
    assert found == {
        "features": {"head": 5 + 2},
        "attention": {"attention": 5},
        "step": {"fine-tuning": 8},
        "evaluation": {"validation while it trains": 2 * 2, "evaluation": 2 * (2 + 3)},
    }
    both = works.works(planned(photos, attention_estimator="two_phase"), COUNTED, 1e9)
    two = {work.name: work.calls for work in both}
    assert (two["estimates"], two["attention"]) == ({"attention": 5}, {"attention": 2})  # of 40 images 16 exactly
    few = works.works(planned(photos, attention_images=9, eval_every=0), COUNTED, 1e9)
    assert few[1].calls == {"attention": 2}
    assert few[3].calls == {"evaluation": 10}
    head = works.works(planned(photos, method="l2_fe"), COUNTED, 1e9)
    assert [(work.name, work.calls) for work in head] == [("features", {"head": 7}), ("evaluation", {"evaluation": 5})]


def test_decoded_images_lie_beside_the_programs(photos):
    size = (40 + 14 + 18) * 40 * 40 * 3  # all splits, uint8, before the crop
    assert works.step(planned(photos), COUNTED, 1e9).beside == size
    assert (
        works.step(planned(photos), COUNTED, size / 0.31).beside == 0
    )  # more than 0.3 of the memory: read batch by batch
    assert works.step(planned(photos, data__on_device="no"), COUNTED, 1e9).beside == 0


def test_how_many_images_there_are(photos):
    config = configs.resolve(small_config(photos))
    found = counting.amounts(config)
    assert (found.classes, found.train, found.validation, found.test) == (3, 40, 14, 18)
    assert str(found).startswith("3 classes, 40 training, 14 validation and 18 test images: images of ")
    told = counting.amounts(config, classes=7, images=[300])
    # validation_fraction 0.25: 100 of 400; test_fraction 0.25: 133 of 533.
    assert (told.classes, told.train, told.validation, told.test) == (7, 300, 100, 133)
    assert told.origin == "as told; validation and test images in the proportions of the config"
    assert counting.amounts(config, classes=7, images=[300, 20, 10]).test == 10
    assert counting.amounts(config, classes=7).train == 40
    gone = configs.resolve(small_config(photos, data__root=str(photos / "gone")))
    with pytest.raises(
        ConfigError, match=r"not known: .*; without the data, tell it by --classes=10 and --images=3000"
    ):
        counting.amounts(gone)
    with pytest.raises(ConfigError, match=r"tell it by --images=3000$"):
        counting.amounts(gone, classes=3)


def test_a_plan_for_scripts_and_for_people(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CI", "1")  # plain text, as where there is no terminal
    config = configs.resolve(small_config(photos, data__on_device="yes"))
    topology = chips.find("cpu:4")
    found = plan.make(config, topology, COUNTED, tmp_path, names=("step", "evaluation"), largest=False)
    told = json.loads(json.dumps(tables.as_json(found)))
    assert list(told["programs"]) == ["step", "evaluation"]
    step = told["programs"]["step"]
    assert step["memory"] == step["beside"] + step["held"] + step["temporary"]
    assert step["collectives"]["all-reduce"]["count"] > 0
    assert [row["calls"] for row in told["run"]] == [8, 4, 10]
    capsys.readouterr()
    tables.show(found)
    text = capsys.readouterr().out
    assert "tests.small_network:spec, delta: a call on each chip of cpu:4, GB" in text
    assert [
        word
        for word in ("all-reduce", "fine-tuning", "validation while it trains", "18 test images: told")
        if word not in text
    ] == []

    # A chip on which the step does not fit, by one byte: half of the batch does.
    small = dataclasses.replace(topology, chip=dataclasses.replace(topology.chip, memory=step["memory"] - 1, clock=1e9))
    found = plan.make(config, small, COUNTED, tmp_path, names=("step",))
    told = tables.as_json(found)
    assert not told["programs"]["step"]["fits"]
    assert told["changes"][-1]["fits"]
    assert 0 < told["largest_batch"]["batch_size"] < 8
    capsys.readouterr()
    tables.show(found)
    text = capsys.readouterr().out
    assert "too much" in text
    assert f"largest batch that fits: {told['largest_batch']['batch_size']} images" in text


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (
            {"batch_size": 6, "attention_batch": 6},
            "batch_size=6 is not a multiple of the 4 devices; .*attention_batch=6",
        ),
        ({"batch_size": 44}, "there are only 40 training images"),
        ({"taps": ("block_7",)}, "block_7"),
        ({"freeze_until": "nowhere"}, "freeze_until"),
    ],
)
def test_a_run_that_would_not_begin_has_no_plan(photos, tmp_path, changed, complaint):
    config = configs.resolve(small_config(photos, **changed))
    with pytest.raises(ConfigError, match=complaint):
        plan.make(config, chips.find("cpu:4"), COUNTED, tmp_path)


@pytest.mark.parametrize(
    "changed", [{"data__aspect": "keep"}, {"arch": "examples.own_model:spec", "taps": ("default",)}]
)
def test_other_images_and_other_networks(photos, tmp_path, changed):
    config = configs.resolve(small_config(photos, **changed))
    found = plan.make(config, chips.find("cpu:4"), COUNTED, tmp_path, names=("step",), largest=False)
    assert found.parts[0].fits


def test_a_run_has_the_form_of_its_platform(photos, monkeypatch):
    programs = planned(photos, arch="resnet18", taps=("layer4_1/conv2",), weights="")
    assert programs.platform == "cpu"
    barriers = {}
    for platform, columns in (("tpu", 2), ("gpu", 1), ("cpu", 1)):
        monkeypatch.setattr(Programs, "platform", platform)
        assert programs.trained_network().columns == columns
        assert programs.network().columns == 1  # the attention's: filters are silenced in it
        function, arguments = works.step(programs, COUNTED, 1e9).make()
        barriers[platform] = function.lower(*arguments).as_text().count("optimization_barrier")
    assert barriers["gpu"] > barriers["cpu"]  # the same network; what is more are those of jax.checkpoint
