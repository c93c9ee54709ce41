"""A plan for people and for scripts."""

from collections.abc import Iterator
from typing import Any

from delta_jax.chips import Chip
from delta_jax.planning import works
from delta_jax.planning.costs import Cost
from delta_jax.planning.fitting import Change
from delta_jax.planning.plan import Part, Plan
from delta_jax.workdir import logs

_CONFIG = (
    *("arch", "weights", "method", "batch_size", "accumulate", "remat", "compute_dtype", "matmul_precision"),
    *("batch_norm", "freeze_until", "steps", "eval_batch_size", "eval_crops"),
    *("attention_estimator", "attention_batch", "attention_chunk"),
)


def as_json(plan: Plan) -> dict[str, Any]:
    """For scripts; docs/plan.md says what the keys mean."""
    chip, config = plan.topology.chip, plan.programs.config
    total = _total(plan)
    best = plan.largest
    return {
        "topology": plan.topology.name,
        "devices": len(plan.topology.devices),
        "chip": {"name": chip.name, "memory": chip.memory, "clock": chip.clock, "devices": chip.devices_per_chip},
        "config": {name: config[name] for name in _CONFIG},
        "images": {
            **{name: getattr(plan.amounts, name) for name in ("classes", "train", "validation", "test")},
            "size": config.data.crop,
            "origin": plan.amounts.origin,
        },
        "programs": {part.work.name: _part(part) for part in plan.parts},
        "run": [
            {"phase": phase, "program": name, "calls": calls, "seconds": seconds, "share": _share(seconds, total)}
            for phase, name, calls, seconds in plan.phases()
        ],
        "largest_batch": best
        and {
            "batch_size": best.batch_size,
            "refused": best.next_size,
            "ended_by": best.why,
            **(_cost(best.cost) if best.cost else {}),
        },
        "changes": [{"config": change.fields, "fits": change.fits, **_cost(change.cost)} for change in plan.changes],
        "remarks": list(remarks(plan)),
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "images": part.work.images,
        "calls": sum(part.work.calls.values()),
        "fits": part.fits,
        "memory": part.memory,
        "beside": part.work.beside,
        **_cost(part.cost),
        "seconds": part.seconds,
        "least_seconds": part.least_seconds,
    }


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "program_memory": cost.memory,
        "held": cost.held,
        "temporary": cost.temporary,
        "refused": cost.needed is not None,
        "cycles": cost.cycles,
        "bytes_accessed": cost.bytes_accessed,
        "flops": cost.flops,
        "bounded_loops": cost.bounded_loops,
        "unknown_loops": cost.unknown_loops,
        "collectives": {kind: dict(of_kind) for kind, of_kind in cost.collectives.items()},
    }


def remarks(plan: Plan) -> Iterator[str]:
    """What is to be known of the numbers, a line each."""
    yield str(plan.amounts)
    chip, parts = plan.topology.chip, plan.parts
    if chip.clock is None and chip.flops < float("inf"):
        yield f"{chip.name}: no time is known; `at least` is arithmetic, products or memory at their published peaks"
    elif chip.clock is not None:
        yield "times: the compiler's cycles at the chip's clock; they know nothing of waiting, for chips or for images"
    if bounded := [part.work.name for part in parts if part.cost.bounded_loops]:
        yield f"{', '.join(bounded)}: loops that the data may end earlier count as often as they run at most"
    if unknown := [part.work.name for part in parts if part.cost.unknown_loops and part.cost.cycles]:
        yield f"{', '.join(unknown)}: loops of a length that the program does not say count once"
    beside = parts[0].work.beside if parts else 0
    if beside:
        yield f"{_gb(beside)} GB of each device's memory are the decoded images (--config.data.on_device)"
    if plan.programs.config.data.aspect == "keep":
        yield "images that keep their aspect: counted as if the longest were twice as long as wide"
    yield "not counted: the head's fit, on the host's CPU; reading and decoding images; what is called a few times"


def show(plan: Plan) -> None:
    """Tables, the first of them per device and call."""
    chip, total = plan.topology.chip, _total(plan)
    timed = any(part.seconds is not None for part in plan.parts)
    head = ["program", "images", "held", "temporary", "in all", f"of {_gb(chip.memory)} GB", "GB moved"]
    head += ["M cycles", "ms"] if timed else ["at least, ms"]
    rows = []
    for part in plan.parts:
        cost = part.cost
        memory = ["refused", ""] if cost.needed is not None else [_gb(cost.held), _gb(cost.temporary)]
        fits = f"{part.memory / chip.memory:.0%}" if part.fits else f"{part.memory / chip.memory:.0%}: too much"
        moved = "-" if cost.bytes_accessed is None else _gb(cost.bytes_accessed)
        row = [part.work.name, part.work.images, *memory, _gb(part.memory), fits, moved]
        rows.append([*row, *_times(part, chip, timed)])
    device = "device" if chip.devices_per_chip > 1 else "chip"
    title = (
        f"{plan.programs.config.arch}, {plan.programs.config.method}: a call on each {device} of {plan.topology.name}"
    )
    logs.table(f"{title}, GB", head, rows)
    rows = [
        [part.work.name, kind, f"{of_kind['count']:,}", f"{of_kind['bytes'] / 1e6:,.3f}"]
        for part in plan.parts
        for kind, of_kind in part.cost.collectives.items()
    ]
    if rows:
        logs.table("\nsent between devices in a call", ["program", "kind", "number", "MB"], rows)
    rows = [
        [phase, name, f"{calls:,}", "-" if seconds is None else _duration(seconds), _percent(_share(seconds, total))]
        for phase, name, calls, seconds in plan.phases()
    ]
    logs.table("\nthe run", ["phase", "program", "calls", "time", "share"], rows)
    _show_batches(plan)
    for line in remarks(plan):
        logs.say(f"note: {line}")


def _show_batches(plan: Plan) -> None:
    memory, best, devices = plan.topology.chip.memory, plan.largest, len(plan.topology.devices)
    step = next((part for part in plan.parts if part.work.name == works.STEP), None)
    if step and plan.changes:
        rows = [_change(change, step.work.beside, memory) for change in plan.changes]
        rows.append(["a smaller batch_size", "see below", "", ""])
        logs.table("\nthe step does not fit; with", ["--config.", "in all, GB", "fits", "M cycles"], rows)
    if best is None:
        return
    if best.cost is None:
        logs.say("\nlargest batch that fits: none that was tried")
        return
    each = f"{best.batch_size // devices} on each of {devices} devices" if devices > 1 else "on one device"
    ended = f"; {best.next_size:,} do not" if best.next_size else f"; ended by: {best.why}" if best.why else ""
    room = _gb(best.cost.memory + (step.work.beside if step else 0))
    logs.say(f"\nlargest batch that fits: {best.batch_size:,} images, {each}, {room} of {_gb(memory)} GB{ended}")


def _change(change: Change, beside: int, memory: float) -> list[str]:
    fields = " ".join(f"{name}={value}" for name, value in change.fields.items())
    cycles = "-" if change.cost.cycles is None else f"{change.cost.cycles / 1e6:,.1f}"
    return [fields, _gb(change.cost.memory + beside), "yes" if change.fits else "no", cycles]


def _times(part: Part, chip: Chip, timed: bool) -> list[str]:
    if not timed:
        return [f"{1e3 * part.least_seconds:,.2f}" if part.least_seconds else "-"]
    if part.seconds is None or part.cost.cycles is None:
        return ["-", "-"]
    return [f"{part.cost.cycles / 1e6:,.2f}", f"{1e3 * part.seconds:,.2f}"]


def _total(plan: Plan) -> float | None:
    seconds = [found for *_, found in plan.phases()]
    known = [found for found in seconds if found is not None]
    return sum(known) if len(known) == len(seconds) and sum(known) > 0 else None


def _share(seconds: float | None, total: float | None) -> float | None:
    return None if seconds is None or total is None else seconds / total


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _gb(size: float) -> str:
    return f"{size / 1e9:,.3g}" if size < 1e11 else f"{size / 1e9:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{seconds / 60:.3g} min"
