"""The tables of docs/scale.md and launch/README.md: what the chips' compilers say of a run, beside the arithmetic.

    python benchmarks/scale.py --compile              # what docs/scale.json has not; hours on two cores, for once
    python benchmarks/scale.py --compile --case=H100  # only cases whose name begins so; --again: though it has them
    python benchmarks/scale.py --write                # the tables into both, between the marks <!-- NAME -->

Compiling needs the extra `aot`; nothing is run. Each case is a plan (delta_jax/plan.py), and in docs/scale.json when
it is done. The arithmetic is delta_jax/analysis/scaling.py.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any

import _plans

from delta_jax.analysis import scaling
from delta_jax.analysis.scaling import H100, V5E, Network

DOCUMENTS = (_plans.ROOT / "docs" / "scale.md", _plans.ROOT / "launch" / "README.md")

CHIPS = (1, 8, 64, 256)
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
        ["gradients to sum in a step, bfloat16", f"{scaling.gradient_bytes(network) / 1e6:.1f} MB"],
        ["sums for BatchNorm in a step, one after the other", f"{scaling.statistics_all_reduces(network)}"],
        ["the attention of an image, the plain way", f"{network.ablation_flops / 1e12:.1f} TFLOP"],
    ]
    return table(["of ResNet-101 at 224 px, 200 classes", ""], rows)


def beside(network: Network, plans: Mapping[str, Any]) -> str:
    """Arithmetic and compiler of a training step on one chip."""
    rows = []
    for name, plan in plans.items():
        if "step" not in plan["programs"] or plan["config"]["compute_dtype"] != "bfloat16":
            continue
        step, images = plan["programs"]["step"], plan["config"]["batch_size"] // plan["devices"]
        chip = {"TPU v5e": V5E, "H100": H100}.get(plan["chip"]["name"])
        if chip is None or plan["devices"] > 4:
            continue
        source = plan["config"]["method"] != "l2"
        paper = scaling.step_time(network, chip, batch=images, chips=1, source=source)
        fixed = 4 * 4 * network.parameters
        rows.append(
            [
                name,
                f"{scaling.step_bytes(network, source=source) / 1e6:,.0f}",
                _or(step["bytes_accessed"], lambda moved, n=images: f"{moved / n / 1e6:,.0f}"),
                f"{network.kept_bytes / 2e6:,.0f}",
                f"{step['temporary'] / images / 1e6:,.0f}",
                f"{(fixed + images * network.kept_bytes / 2) / 1e9:,.1f}",
                f"{step['program_memory'] / 1e9:,.1f}",
                f"{1e3 * paper.total:,.1f}",
                _or(step["seconds"], lambda seconds: f"{1e3 * seconds:,.1f}"),
            ]
        )
    head = ["a chip's part", "MB moved an image: on paper", "compiled", "MB kept an image: on paper", "compiled"]
    return table([*head, "GB in all: on paper", "compiled", "ms: on paper", "by cycles"], rows)


def sent(network: Network, plans: Mapping[str, Any]) -> str:
    """What a step sends between chips."""
    rows = []
    for name, plan in plans.items():
        step = plan["programs"].get("step")
        if step is None or plan["devices"] == 1:
            continue
        rows += [
            [name, kind, f"{of_kind['count']:,}", f"{of_kind['bytes'] / 1e6:,.1f}"]
            for kind, of_kind in step["collectives"].items()
        ]
    on_paper = scaling.statistics_all_reduces(network)
    rows.append(["on paper", "all-reduce", f"{on_paper} for BatchNorm", f"{scaling.gradient_bytes(network) / 1e6:.1f}"])
    return table(["ResNet-101", "kind", "number", "MB"], rows)


def phases(plans: Mapping[str, Any]) -> str:
    """A whole run on one chip, where all its programs were compiled."""
    rows = []
    for name, plan in plans.items():
        if len(plan["programs"]) < 4:
            continue
        for phase in plan["run"]:
            program = plan["programs"][phase["program"]]
            least = f"at least {1e3 * program['least_seconds']:,.2f}"
            one = _or(program["seconds"], lambda seconds: f"{1e3 * seconds:,.2f}", least)
            whole = _or(phase["seconds"], lambda seconds: f"{seconds / 60:,.1f}")
            share = _or(phase["share"], lambda part: f"{part:.0%}")
            memory = f"{program['memory'] / 1e9:,.1f}"
            rows.append(
                [name, phase["phase"], f"{phase['calls']:,}", f"{program['images']}", memory, one, whole, share]
            )
    head = ["ResNet-101", "phase", "calls", "images a call", "GB in all", "ms a call", "minutes", "share"]
    return table(head, rows)


def kinds(plans: Mapping[str, Any]) -> str:
    """Per kind of chip: batch and what to expect."""
    rows = []
    for name, plan in plans.items():
        if "step" not in plan["programs"]:
            continue
        best = plan["largest_batch"]
        step, config, chip = plan["programs"]["step"], plan["config"], plan["chip"]
        images = config["batch_size"] // plan["devices"]
        rows.append(
            [
                name,
                f"{chip['memory'] / 1e9:,.1f}",
                f"{step['memory'] / 1e9:,.1f}",
                _or(best, lambda best, n=plan["devices"]: f"{best['batch_size'] // n:,}", "not looked for"),
                _or(step["seconds"], lambda seconds: f"{1e3 * seconds:,.1f}"),
                _or(step["seconds"], lambda seconds, n=images: f"{n / seconds:,.0f}"),
                _or(step["seconds"], lambda seconds: f"{seconds * STEPS / 60:,.0f}"),
            ]
        )
    head = ["a chip", "GB a program can have", "GB of the step", "largest batch a chip", "ms a step"]
    return table([*head, "images/s", f"minutes for {STEPS:,} steps"], rows)


def dtypes(plans: Mapping[str, Any]) -> str:
    """bfloat16 beside float32."""
    rows = []
    for name, plan in plans.items():
        other = plans.get(name.removesuffix(", float32")) if name.endswith(", float32") else None
        if other is None:
            continue
        narrow, wide = (one["programs"]["step"] for one in (other, plan))
        ratio = _or(narrow["cycles"] and wide["cycles"] / narrow["cycles"], lambda found: f"{found:.2f}")
        moved = _or(
            narrow["bytes_accessed"] and wide["bytes_accessed"] / narrow["bytes_accessed"], lambda found: f"{found:.2f}"
        )
        rows.append([name.replace(", float32", ""), ratio, moved, f"{wide['temporary'] / narrow['temporary']:.2f}"])
    return table(["float32 over bfloat16", "cycles", "bytes moved", "temporary memory"], rows)


def statistics(network: Network) -> str:
    count = scaling.statistics_all_reduces(network)
    vectors = 8 * network.norm_channels / network.norm_layers
    rows = []
    for chip in (V5E, H100):
        each = [chip.links.all_reduce(vectors, chips) for chips in CHIPS[1:]]
        rows.append([chip.name, *(f"{1e6 * one:.0f} µs, {1e3 * count * one:.1f} ms a step" for one in each)])
    return table(["", *(f"{chips} chips" for chips in CHIPS[1:])], rows)


def scaled(network: Network, plans: Mapping[str, Any]) -> str:
    """The cycles of a chip's share of the batch, and the waiting by arithmetic."""
    rows = []
    for plan in plans.values():
        step = plan["programs"].get("step")
        bfloat16 = plan["config"]["compute_dtype"] == "bfloat16" and plan["config"]["method"] == "delta"
        if step is None or plan["chip"]["name"] != "TPU v5e" or not bfloat16 or step["seconds"] is None:
            continue
        images = plan["config"]["batch_size"] // plan["devices"]
        for chips in CHIPS[1:]:
            paper = scaling.step_time(network, V5E, batch=chips * images, chips=chips)
            waiting = paper.statistics + paper.gradients
            total = step["seconds"] + waiting
            rows.append(
                [
                    f"{images}, {plan['topology']}",
                    f"{chips}",
                    f"{1e3 * step['seconds']:.1f}",
                    f"{1e3 * paper.statistics:.1f}",
                    f"{1e3 * paper.gradients:.1f}",
                    f"{chips * images / total:,.0f}",
                    f"{step['seconds'] / total:.0%}",
                    f"{step['seconds'] / (step['seconds'] + paper.gradients):.0%}",
                ]
            )
    head = ["images a chip, compiled for", "chips", "ms by cycles", "BatchNorm's sums", "gradients", "images/s"]
    return table([*head, "of linear", "without batch statistics"], rows)


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


def commands(plans: Mapping[str, Any]) -> str:
    rows = [
        [name, f"jax {plan['jax']}, {plan['compiler']}", f"`{' '.join(plan['flags'])}`"] for name, plan in plans.items()
    ]
    return table(["case", "compiled by", "flags of the plan, beside those that all have"], rows)


def _or(value: Any, shown: Any, otherwise: str = "-") -> str:
    return otherwise if value is None else shown(value)


def tables(network: Network, plans: Mapping[str, Any]) -> dict[str, str]:
    """{mark in a document: table}; of ResNet-101 at 224 px with 200 classes."""
    return {
        "counted": counted(network),
        "beside": beside(network, plans),
        "sent": sent(network, plans),
        "phases": phases(plans),
        "scaled": scaled(network, plans),
        "dtypes": dtypes(plans),
        "statistics": statistics(network),
        "epochs": epochs(),
        "commands": commands(plans),
        "kinds": kinds(plans),
    }


def put(text: str, found: Mapping[str, str]) -> str:
    """The document with each table between its marks; tables that it has no marks for are none of its."""
    for name, content in found.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = marks.sub(lambda match, content=content: f"{match[1]}\n{content}\n\n{match[2]}", text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="plans that docs/scale.json has not")
    parser.add_argument("--case", default="", help="only those whose name begins so")
    parser.add_argument("--again", action="store_true", help="those that it has, too")
    parser.add_argument("--write", action="store_true", help="the tables into the documents")
    args = parser.parse_args()
    if args.compile:
        _plans.compile_missing(args.case, again=args.again)
    network = scaling.of_network("resnet101", size=224, num_classes=200)
    found = tables(network, _plans.read())
    if args.write:
        for document in DOCUMENTS:
            document.write_text(put(document.read_text(), found))
    elif not args.compile:
        for name, content in found.items():
            print(f"{name}\n\n{content}\n")


if __name__ == "__main__":
    main()
