"""The step on paper against numbers computed by hand, and docs/scale.md against the tables that it is to hold."""

import re

import pytest

from delta_jax.analysis import scaling
from delta_jax.analysis.scaling import H100, V5E, Network
from tests.benchmark_scripts import load

# Round numbers to compute with.
SMALL = Network(
    parameters=10**6,
    norm_layers=10,
    norm_channels=1000,
    layers=20,
    forward_flops=10**9,
    outputs=10**6,
    kept_bytes=10**7,
    ablation_flops=10**12,
)


@pytest.fixture(scope="module")
def script():
    return load("scale")


@pytest.fixture(scope="module")
def resnet101():
    return scaling.of_network("resnet101", size=224, num_classes=200)


@pytest.fixture(scope="module")
def tables(script, resnet101):
    return script.tables(resnet101, script._plans.read())


def test_resnet101_is_counted_as_published(resnet101):
    network = resnet101
    # torchvision: 44,549,160 parameters with the 1000 classes of ImageNet, 7.80 G multiply-adds.
    assert network.parameters == 44_549_160 - 2049 * (1000 - 200)
    assert network.forward_flops / 2 == pytest.approx(7.80e9, rel=0.005)
    # A convolution at the start, 33 blocks of three, 4 shortcuts; a BatchNorm for each; and the head.
    assert (network.norm_layers, network.layers) == (1 + 33 * 3 + 4, 105)
    # By stage: two convolutions of the block's width and one, with the shortcut, of four times it; the first block of
    # stages 2 to 4 has its first convolution at the size of the stage before.
    stages = [(56, 64, 3), (28, 128, 4), (14, 256, 23), (7, 512, 3)]
    outputs = 112 * 112 * 64 + sum(
        side * side * width * (6 * blocks + 4) + (3 * side * side * width if side < 56 else 0)
        for side, width, blocks in stages
    )
    assert network.outputs == outputs
    # After the last tap there is the head alone, once for each of its 2,048 filters: little beside the other taps.
    assert network.ablation_flops > 2048 * 2 * 2048 * 200
    assert network.ablation_flops < 3840 * network.forward_flops


def test_a_step_is_the_sum_of_its_parts():
    # 8 images a chip: 4 passes of 1 GFLOP each at 0.4 * 197 TFLOP/s; 10 passes of 2 MB at 0.4 * 819 GB/s.
    time = scaling.step_time(SMALL, V5E, batch=128, chips=16)
    assert time.arithmetic == pytest.approx(8 * 4e9 / 78.8e12)
    assert time.memory == pytest.approx(8 * 10 * 2e6 / 327.6e9)
    assert time.operations == pytest.approx(20 * 10 * 2e-6)
    # 4 x 4 chips, no rings: 3 + 3 hops there and back; two links of 50 GB/s at a corner.
    small = 2 * (6e-6 + 800 * 15 / 16 / 100e9)
    assert time.statistics == pytest.approx(2 * 10 * small)
    assert time.gradients == pytest.approx(2 * (6e-6 + 2e6 * 15 / 16 / 100e9))
    parts = (time.arithmetic, time.memory, time.operations, time.statistics, time.gradients)
    assert time.total == pytest.approx(sum(parts))
    l2 = scaling.step_time(SMALL, V5E, batch=128, chips=16, source=False, batch_statistics=False)
    assert (l2.arithmetic / time.arithmetic, l2.memory / time.memory) == pytest.approx((3 / 4, 8 / 10))
    assert l2.statistics == 0


def test_an_all_reduce_on_a_torus_and_on_nodes():
    # 16 x 16: two rings, 8 hops each; four links.
    assert V5E.links.all_reduce(1e9, 256) == pytest.approx(2 * (16e-6 + 1e9 * 255 / 256 / 200e9))
    assert V5E.links.all_reduce(1e9, 2) == pytest.approx(2 * (1e-6 + 1e9 / 2 / 50e9))
    # 4 machines of 8: NCCL's formula for a tree, and an eighth of the sum through every port.
    latency = 4.4e-6 + 2 * (7 * 1.8 * 0.52e-6 + 2 * 5e-6)
    assert H100.links.all_reduce(0, 32) == pytest.approx(latency)
    assert H100.links.all_reduce(1e9, 32) == pytest.approx(latency + 2e9 * 7 / 8 / 450e9 + 2e9 / 8 * 3 / 4 / 50e9)
    assert H100.links.all_reduce(1e9, 1) == V5E.links.all_reduce(1e9, 1) == 0
    with pytest.raises(ValueError, match="a power of 2, at most 256"):
        V5E.links.all_reduce(1, 12)


def test_what_cannot_be_split_or_does_not_fit():
    with pytest.raises(ValueError, match="32 images cannot be split over 64 chips"):
        scaling.step_time(SMALL, H100, batch=32, chips=64)
    # 16 MB for four copies of the parameters, 5 MB an image of 16 GB.
    assert scaling.fits(SMALL, V5E, batch=3196, chips=1)
    assert not scaling.fits(SMALL, V5E, batch=3197, chips=1)


def test_the_attention_is_shared_by_images():
    assert scaling.attention_seconds(SMALL, H100, images=3000, chips=256) == pytest.approx(12 * 1e12 / (0.4 * 67e12))


def test_the_assumption_gives_the_published_speed_of_an_a100(monkeypatch):
    none = lambda *arguments: dict.fromkeys(arguments[-1], 0)  # noqa: E731
    monkeypatch.setattr(scaling.attention_images, "operations_behind", none)  # of the attention, no part of a step
    network = scaling.of_network("resnet50", size=224, num_classes=1000)
    # 312 TFLOP/s and 2,039 GB/s (data sheet); 2,470 images/s in mixed precision, batch 256 (DeepLearningExamples).
    a100 = scaling.Chip("A100", 312e12, 19.5e12, 80e9, 2.039e12, H100.links)
    time = scaling.step_time(network, a100, batch=256, chips=1, source=False)
    assert 256 / time.total == pytest.approx(2470, rel=0.05)


def test_the_documents_hold_the_tables(script, tables):
    for document in script.DOCUMENTS:
        text = document.read_text()
        assert "<!-- " in text
        assert script.put(text, tables) == text, "run python benchmarks/scale.py --write"
    marks = set(re.findall(r"<!-- (\w+) -->", "".join(document.read_text() for document in script.DOCUMENTS)))
    assert marks == set(tables)


def test_epochs_by_hand(tables):
    # 9,000 * 64 / 3,000 = 192 epochs; 9,000 * 8,192 / 3,000 = 24,576; 576,000 / 8,192 = 70 steps, 3,000 / 8,192 = 0.37.
    assert "| 64 | 46.9 | 192 | 9,000 |" in tables["epochs"]
    assert "| 8,192 | 0.37 | 24,576 | 70 |" in tables["epochs"]


def test_a_compiled_step_stands_beside_the_arithmetic(script, resnet101):
    step = {"bytes_accessed": 64e9, "temporary": 3.2e9, "program_memory": 4e9, "seconds": 0.05, "cycles": 75e6}
    step |= {"collectives": {"all-reduce": {"count": 200, "bytes": 86e6}}, "memory": 5e9}
    chip, config = (
        {"name": "TPU v5e", "memory": 16e9},
        {"batch_size": 64, "compute_dtype": "bfloat16", "method": "delta"},
    )
    plan = {"programs": {"step": step}, "chip": chip, "config": config, "devices": 2, "topology": "v5e:2x1"}
    paper = scaling.step_time(resnet101, V5E, batch=32, chips=1)
    # 64 GB of 32 images: 2,000 MB each; 3.2 GB temporary: 100 MB. On paper ten passes of 16.2 M numbers of two bytes.
    row = script.beside(resnet101, {"two": plan}).splitlines()[-1]
    assert row.startswith("| two | 325 | 2,000 | ")
    assert " | 100 | " in row
    assert row.endswith(f" | 4.0 | {1e3 * paper.total:,.1f} | 50.0 |")
    assert "| two | all-reduce | 200 | 86.0 |" in script.sent(resnet101, {"two": plan})
