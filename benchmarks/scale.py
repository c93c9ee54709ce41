"""The tables of docs/scale.md: a training step on many chips, on paper (delta_jax/analysis/scaling.py).

    python benchmarks/scale.py                          # prints them
    python benchmarks/scale.py --write=docs/scale.md    # puts them between the marks <!-- NAME --> and <!-- /NAME -->

Nothing is run: the networks are counted from their shapes.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from delta_jax.analysis import scaling
from delta_jax.analysis.scaling import H100, V5E, Chip, Network

BATCHES, CHIPS = (64, 256, 1024, 8192), (1, 8, 64, 256)
IMAGES, STEPS, BATCH = 3000, 9000, 64  # a data set as the paper has them, and its protocol


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def counted(network: Network) -> str:
    rows = [
        ["parameters, head included", f"{network.parameters / 1e6:.1f} M"],
        ["convolutions and linear layers", f"{network.layers}"],
        ["BatchNorm layers, their channels", f"{network.norm_layers}, {network.norm_channels:,}"],
        [
            "a forward pass of an image",
            f"{network.forward_flops / 1e9:.1f} GFLOP ({network.forward_flops / 2e9:.2f} G multiply-adds)",
        ],
        ["a training step of an image, l2", f"{3 * network.forward_flops / 1e9:.1f} GFLOP"],
        ["a training step of an image, delta", f"{4 * network.forward_flops / 1e9:.1f} GFLOP"],
        ["outputs of its convolutions for an image", f"{network.outputs / 1e6:.1f} M numbers"],
        [
            "what passes through memory beside the convolutions, an image, delta",
            f"{(scaling.PASSES + scaling.SOURCE_PASSES) * 2 * network.outputs / 1e6:.0f} MB",
        ],
        ["gradients to sum in a step", f"{scaling.gradient_bytes(network) / 1e6:.1f} MB"],
        ["sums for BatchNorm in a step, one after the other", f"{scaling.statistics_all_reduces(network)}"],
        ["the attention of an image, the plain way", f"{network.ablation_flops / 1e12:.1f} TFLOP"],
    ]
    return table(["of ResNet-101 at 224 px, 200 classes", ""], rows)


def steps_on(network: Network, chip: Chip) -> str:
    rows = []
    for batch in BATCHES:
        for chips in CHIPS:
            if batch < chips or not scaling.fits(network, chip, batch=batch, chips=chips):
                continue
            time = scaling.step_time(network, chip, batch=batch, chips=chips)
            frozen = scaling.step_time(network, chip, batch=batch, chips=chips, batch_statistics=False)
            alone = scaling.step_time(network, chip, batch=batch, chips=1).total
            parts = [time.arithmetic + time.memory, time.operations, time.statistics, time.gradients, time.total]
            rows.append(
                [f"{batch:,}", f"{chips}"]
                + [f"{1e3 * part:.1f}" for part in parts]
                + [
                    f"{batch / time.total:,.0f}",
                    f"{alone / chips / time.total:.0%}",
                    f"{alone / chips / frozen.total:.0%}",
                ]
            )
    head = ["batch", "chips", "work", "small operations", "BatchNorm", "gradients", "step, ms"]
    return table([*head, "images/s", "of linear", "without batch statistics"], rows)


def statistics(network: Network) -> str:
    count = scaling.statistics_all_reduces(network)
    vectors = 8 * network.norm_channels / network.norm_layers
    rows = []
    for chip in (V5E, H100):
        each = [chip.links.all_reduce(vectors, chips) for chips in CHIPS[1:]]
        rows.append([chip.name, *(f"{1e6 * one:.0f} µs, {1e3 * count * one:.1f} ms a step" for one in each)])
    return table(["", *(f"{chips} chips" for chips in CHIPS[1:])], rows)


def epochs() -> str:
    seen = STEPS * BATCH
    rows = [
        [
            f"{batch:,}",
            f"{IMAGES / batch:.1f}" if batch < IMAGES else f"{IMAGES / batch:.2f}",
            f"{STEPS * batch / IMAGES:,.0f}",
            f"{seen // batch:,}",
        ]
        for batch in (64, 256, 1024, 8192)
    ]
    return table(["batch", "steps per epoch", f"epochs in {STEPS:,} steps", f"steps for {seen // IMAGES} epochs"], rows)


def attention(network: Network) -> str:
    rows = [
        [chip.name, *(f"{scaling.attention_seconds(network, chip, images=IMAGES, chips=n):,.0f}" for n in CHIPS)]
        for chip in (V5E, H100)
    ]
    return table(["seconds on", *(f"{n} chip{'s' if n > 1 else ''}" for n in CHIPS)], rows)


def tables(network: Network) -> dict[str, str]:
    """{mark in the document: table}; of ResNet-101 at 224 px with 200 classes."""
    return {
        "counted": counted(network),
        "tpu-v5e": steps_on(network, V5E),
        "h100": steps_on(network, H100),
        "statistics": statistics(network),
        "epochs": epochs(),
        "attention": attention(network),
    }


def put(text: str, found: dict[str, str]) -> str:
    """The document with each table between its marks; SystemExit where a mark is missing."""
    for name, content in found.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marks.search(text):
            raise SystemExit(f"error: the document has no marks <!-- {name} --> and <!-- /{name} -->")
        text = marks.sub(lambda match, content=content: f"{match[1]}\n{content}\n\n{match[2]}", text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", help="document to put the tables into")
    args = parser.parse_args()
    found = tables(scaling.of_network("resnet101", size=224, num_classes=200))
    if args.write:
        path = Path(args.write)
        path.write_text(put(path.read_text(), found))
        return
    for name, content in found.items():
        print(f"{name}\n\n{content}\n")


if __name__ == "__main__":
    main()
