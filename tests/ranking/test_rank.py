"""The command rank: two networks on a folder of small photos, begun, broken off, gone on with; and what is refused."""

import json
import re
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from delta_jax.ranking import candidates, comparison, measuring, order, scores
from delta_jax.training import head_features
from delta_jax.training.config import ConfigError
from tests import small_network
from tests.small_run import config_flags, make_photos, run, small_config, weights_of


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Small photos, the small network's weights beside them, and the same with a stem that is nearly nothing."""
    root = make_photos(tmp_path_factory.mktemp("ranked") / "photos")
    arrays = load_file(weights_of(root))
    arrays["params/stem_conv/kernel"] = 1e-4 * arrays["params/stem_conv/kernel"]
    save_file(arrays, weights_of(root).with_name("dull.safetensors"))
    return root


def pairs(photos):
    return [
        f"{small_network.ARCH}={weights_of(photos).with_name(name)}"
        for name in ("small_network.safetensors", "dull.safetensors")
    ]


@pytest.fixture
def counted(monkeypatch):
    """How often features were computed."""
    calls = []
    compute = head_features.compute
    monkeypatch.setattr(head_features, "compute", lambda setup: calls.append(setup) or compute(setup))
    return calls


def test_broken_off_between_two_networks_it_goes_on_with_the_second(photos, tmp_path, monkeypatch, counted, capsys):
    config, texts = small_config(photos, batch_size=64), pairs(photos)
    logme = scores.logme
    monkeypatch.setattr(measuring.scores, "logme", Mock(side_effect=[0.5, KeyboardInterrupt]))
    with pytest.raises(KeyboardInterrupt):
        comparison.compare(config, (), texts, tmp_path)
    monkeypatch.setattr(measuring.scores, "logme", logme)
    assert not (tmp_path / comparison.RANKING).exists()
    assert len(list((tmp_path / measuring.FOLDER).iterdir())) == 1
    assert len(counted) == 2

    found = comparison.compare(config, (), texts, tmp_path)
    assert len(counted) == 2  # the second network's had been kept
    said = capsys.readouterr().out
    assert f"{weights_of(photos)}: measured before" in said
    assert json.loads((tmp_path / comparison.RANKING).read_text()) == json.loads(json.dumps(found))
    assert found["order"][0] == str(weights_of(photos))
    assert found["images"] == {"train": 40, "validation": 14}
    assert found["words"] in said
    for row in found["rows"]:
        assert row["l2_fe"]["top1"] == pytest.approx(1 - len(row["wrong"]) / 14)
        assert set(row["seconds"]) == {"features", "logme", "h_scores", "l2_fe"}
    assert found["rows"][0]["logme"] == 0.5  # what was measured before stays

    # A file that is damaged is made again.
    for kept in (photos.parent / "decoded" / "features").rglob("*.safetensors"):
        kept.write_bytes(kept.read_bytes()[:100])
    comparison.compare(config, (), texts[:1], tmp_path / "damaged")
    assert "features.safetensors could not be read" in capsys.readouterr().out
    assert len(counted) == 3

    # Other images are another ranking; of the same ones nothing is measured again, in another workdir neither.
    comparison.compare(config, (), texts[:1], tmp_path / "other")
    assert len(counted) == 3
    config.data.validation_fold = 1
    comparison.compare(config, (), texts[:1], tmp_path)
    assert len(counted) == 4
    assert len(list((tmp_path / measuring.FOLDER).iterdir())) == 3


def test_scores_are_of_the_training_images_as_they_are_and_test_images_have_no_part(photos, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(measuring.scores, "logme", lambda x, y: seen.update(features=x, labels=y) or 0.5)
    ((candidate, setup),) = candidates.checked(small_config(photos), pairs(photos)[:1])
    row = measuring.measured(candidate, setup, tmp_path)
    # What the network's own head would see: the logits without kernel and bias are its features.
    model = setup.network()
    images = setup.train.batch(np.arange(40))
    params = dict(setup.source["params"])
    params["classifier"] = {"kernel": np.eye(40, 3, dtype=np.float32), "bias": np.zeros(3, np.float32)}
    expected = model.apply({**setup.source, "params": params}, setup.centre(images["image"]))
    np.testing.assert_allclose(seen["features"][:, :3], expected, rtol=1e-5, atol=1e-5)
    assert seen["labels"].tolist() == setup.train.labels.tolist()
    assert "test" not in vars(setup)
    assert (row["logme"], row["features"], row["train"], row["validation"]) == (0.5, 40, 40, 14)


def test_without_validation_images_the_order_is_that_of_logme(photos, tmp_path, capsys):
    config = small_config(photos, data__validation_fraction=0.0)
    found = comparison.compare(config, (), pairs(photos)[:1], tmp_path)
    assert found["by"] == "logme"
    assert found["agreement"] == {}
    assert "There are no validation images, so the order is that of LogME" in capsys.readouterr().out


def test_what_does_not_fit_is_one_error_of_all_before_any_image_is_decoded(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison.measuring, "measured", lambda *_: pytest.fail("measured"))
    own = weights_of(photos)
    unnamed = tmp_path / "best.safetensors"
    unnamed.write_bytes(own.read_bytes())
    missing = f"{small_network.ARCH}={tmp_path / 'missing.pth'}"
    texts = [*pairs(photos), missing, f"resnet18={own}", str(unnamed), f"resnet19={own}", "pip/mobilenet-v3"]
    with pytest.raises(ConfigError) as error:
        comparison.compare(small_config(photos, arch="resnet18"), (), texts, tmp_path / "work")
    first, *lines = str(error.value).split("\n  ")
    assert first == "5 of 7 weights cannot be compared:"
    for text, expected in (
        (missing, "neither a file nor a named source of weights"),
        (f"resnet18={own}", "these weights do not fit resnet18"),
        (str(unnamed), "nothing says which network it is of; expected ARCH=FILE, such as resnet50="),
        (f"resnet19={own}", "did you mean"),
        ("pip/mobilenet-v3", "or pip/mobilenet-v2 or"),
    ):
        (line,) = [line for line in lines if line.startswith(f"{text}: ")]
        assert expected in line
    assert not (tmp_path / "work").exists()


def test_the_network_is_what_the_file_says_or_its_name(tmp_path, monkeypatch, capsys):
    file = tmp_path / "resnet50.a1_in1k.safetensors"
    save_file({"fc.bias": np.zeros(3, np.float32)}, file)
    assert candidates.named(str(file)) == candidates.Candidate(str(file), "resnet50")
    assert "taken for resnet50, as its name says" in capsys.readouterr().out
    assert candidates.named("pip/mobilenet-v2").arch == "mobilenet_v2"
    assert candidates.named(f"resnet18={file}") == candidates.Candidate(str(file), "resnet18")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1-resnet34.safetensors").write_bytes(file.read_bytes())
    assert candidates.named("lr=0.1-resnet34.safetensors").arch == "resnet34"  # no network is called lr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a,b", "resnet18=c"], ["a", "b", "resnet18=c"]),
        ([" a , b,"], ["a", "b"]),
        (["https://host/a,b.pth#sha256=0123456789abcdef", "c"], ["https://host/a,b.pth#sha256=0123456789abcdef", "c"]),
        (["resnet18=https://host/a,b.pth"], ["resnet18=https://host/a,b.pth"]),
    ],
)
def test_names_are_split_at_commas_and_addresses_are_not(given, expected):
    assert candidates.split(given) == expected


@pytest.mark.parametrize(
    ("given", "error"), [([], "--weights is empty"), ([","], "--weights is empty"), (["a,b,a"], "a is given twice")]
)
def test_no_weights_and_the_same_twice_are_refused(given, error):
    with pytest.raises(ConfigError, match=error):
        candidates.split(given)


def row(name, wrong, logme, h, *, n=200, **changed):
    top1 = 1 - len(wrong) / n
    seconds = dict.fromkeys(("features", "logme", "h_scores", "l2_fe"), 1.0)
    facts = {
        "weights": name,
        "crop": 72,
        "features": 8,
        "train": 100,
        "validation": n,
        "logme": logme,
        "seconds": seconds,
    }
    scored = {"h_score": h, "shrunk_h_score": h, "l2_fe": {"top1": top1, "cross_entropy": 1.0, "n": n}, "wrong": wrong}
    return facts | scored | changed


def test_the_words_say_how_sure_the_order_is():
    good, near, far = (
        row("good", [*range(10)], 0.3, 2.0),
        row("near", [*range(3, 15)], 0.4, 1.5),
        row("far", [*range(90)], 0.1, 1.0),
    )
    ranked = order.ordered([far, near, good])
    assert [one["weights"] for one in ranked] == ["good", "near", "far"]
    # By hand: good-near is wrong for LogME alone.
    assert order.agreements(ranked) == {"logme": (2, 3), "shrunk_h_score": (3, 3), "h_score": (3, 3)}
    words = order.words(ranked)
    assert "good is first: the head alone has 95.0% of 200 images right." in words
    # 5 images gained, 3 lost: 1.0 point; the t interval by hand, 0.01 -+ 1.972 * 0.2002 / sqrt(200).
    assert "That is 1.0 points above near (95% interval -1.8 to +3.8), which may be chance." in words
    assert "far" not in words
    assert "LogME 2 of 3, shrunk H-score 3 of 3, H-score 3 of 3" in words


def test_limits_are_said():
    full, endless = row("full", [0], 0.1, 2.0, train=8), row("endless", [], None, 2.0, crop=96)
    words = order.words(order.ordered([full, endless]))
    assert "The plain H-score says nothing of full" in words
    assert "LogME of endless has no bound" in words
    assert "endless 96 px, full 72 px" in words
    assert order.cells(endless)[2] == "inf"


def test_the_workdir_of_a_run_is_refused(photos, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"{tmp_path} is the workdir of a run; choose another --workdir"):
        comparison.compare(small_config(photos), (), pairs(photos), tmp_path)


def test_the_command(photos, tmp_path):
    flags = [*config_flags(photos, arch=None, weights=None, taps=None, alpha=None), f"--workdir={tmp_path}"]
    ended = run("rank", *flags, f"--weights={pairs(photos)[0]}", "--config.arch=resnet18")
    assert ended.returncode == 0, ended.stderr
    assert "note: without effect here: --config.arch (--weights and L2-FE say it)" in ended.stdout
    assert re.search(r"^weights +L2-FE top-1 +LogME", ended.stdout, re.MULTILINE)
    assert (tmp_path / comparison.RANKING).exists()
