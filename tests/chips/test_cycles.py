"""Cycles of programs' texts, written by hand in the TPU compiler's format; expected sums are by hand beside them."""

from types import SimpleNamespace

import pytest

from delta_jax.chips import programs


def cycles_of(text):
    """(cycles, loops of unknown length)."""
    found = programs.cycles_of(text)
    return found[0], found[-1]


def operation(name, cycles):
    config = f', backend_config={{"window_config":{{"estimated_cycles":"{cycles}"}}}}'
    return f"  %{name} = f32[8]{{0}} fusion(%p), kind=kLoop, calls=%fused{config}"


def computation(name, *lines, entry=False):
    return "\n".join([f"{'ENTRY ' if entry else ''}%{name} (p: f32[8]) -> f32[8] {{", *lines, "}", ""])


def condition(name, bound, *, direction="LT", index=0):
    return computation(
        name,
        f"  %{name}.bound = s32[]{{:T(128)}} constant({bound})",
        f"  %{name}.count = s32[]{{:T(128)}} get-tuple-element(%t), index={index}",
        f"  ROOT %{name}.less = pred[]{{:T(512)}} compare(%{name}.count, %{name}.bound), direction={direction}",
    )


def loop(name, body, condition, start="start"):
    return [
        f"  %{start} = s32[]{{:T(128)}} constant(0)",
        f"  %carried.{name} = (s32[]{{:T(128)}}, f32[8]{{0}}) tuple(%{start}, %p)",
        f"  %{name} = (s32[], f32[8]{{0}}) while(%carried.{name}), condition=%{condition}, body=%{body}",
    ]


def program(*computations):
    return "HloModule jit_f, is_scheduled=true\n\n" + "\n".join(computations)


def test_the_operations_of_the_entry_are_added_up():
    # What is inside a fusion has its cycles in the fusion's own line.
    text = program(
        computation("fused", operation("inner", 1000)),
        computation("main", operation("one", 7), "  %two = f32[8]{0} copy(%one)", operation("three", 5), entry=True),
    )
    assert cycles_of(text) == (12, 0)


def test_a_loop_counts_as_often_as_it_runs_and_one_in_it_again():
    text = program(
        computation("inner_body", operation("a", 10)),
        condition("inner_condition", 3),
        computation("outer_body", operation("b", 100), *loop("inner", "inner_body", "inner_condition", "zero")),
        condition("outer_condition", 4),
        computation("main", operation("c", 1), *loop("outer", "outer_body", "outer_condition"), entry=True),
    )
    assert cycles_of(text) == (1 + 4 * (100 + 3 * 10), 0)


def test_a_loop_may_start_elsewhere_than_at_zero_and_find_its_bound_among_what_it_carries():
    bound = "  %bound = s32[]{:T(128)} get-tuple-element(%t), index=1"
    count = "  %count = s32[]{:T(128)} get-tuple-element(%t), index=0"
    less = "  ROOT %less = pred[]{:T(512)} compare(%count, %bound), direction=LT"
    text = program(
        computation("body", operation("a", 10)),
        computation("condition", count, bound, less),
        computation(
            "main",
            "  %two = s32[]{:T(128)} constant(2)",
            "  %copied = s32[]{:T(128)} copy(%two)",
            "  %seven = s32[]{:T(128)} constant(7)",
            "  %carried = (s32[]{:T(128)}, s32[]{:T(128)}) tuple(%copied, %seven)",
            "  %run = (s32[], s32[]) while(%carried), condition=%condition, body=%body",
            entry=True,
        ),
    )
    assert cycles_of(text) == (50, 0)  # 2, 3, 4, 5, 6


@pytest.mark.parametrize("direction", ["NE", "GT"])
def test_a_loop_of_unknown_length_counts_once_and_is_told(direction):
    text = program(
        computation("body", operation("a", 10)),
        condition("condition", 3, direction=direction),
        computation("main", operation("b", 1), *loop("run", "body", "condition"), entry=True),
    )
    assert cycles_of(text) == (11, 1)


def test_a_start_that_is_computed_is_unknown():
    lines = loop("run", "body", "condition")
    text = program(
        computation("body", operation("a", 10)),
        condition("condition", 3),
        computation("main", *(line.replace("constant(0)", "fusion(%p)") for line in lines), entry=True),
    )
    assert cycles_of(text) == (10, 1)


def test_a_loop_of_unknown_length_in_a_loop_is_told_once():
    text = program(
        computation("inner_body", operation("a", 10)),
        condition("inner_condition", 3, direction="NE"),
        computation("outer_body", *loop("inner", "inner_body", "inner_condition", "zero")),
        condition("outer_condition", 5),
        computation("main", *loop("outer", "outer_body", "outer_condition"), entry=True),
    )
    assert cycles_of(text) == (5 * 10, 1)


def test_a_loop_that_never_runs_costs_nothing():
    text = program(
        computation("body", operation("a", 10)),
        condition("condition", 0),
        computation("main", operation("b", 1), *loop("run", "body", "condition"), entry=True),
    )
    assert cycles_of(text) == (1, 0)


@pytest.mark.parametrize(
    "branches",
    ["branch_computations={%cheap, %dear}", "true_computation=%cheap, false_computation=%dear"],
)
def test_of_branches_the_longest_counts(branches):
    text = program(
        computation("cheap", operation("a", 10)),
        computation("dear", operation("b", 300)),
        computation(
            "main", operation("c", 1), f"  %choice = f32[8]{{0}} conditional(%index, %p, %p), {branches}", entry=True
        ),
    )
    assert cycles_of(text) == (301, 0)


def test_a_call_counts_every_time():
    text = program(
        computation("called", operation("a", 10)),
        computation(
            "main",
            "  %first = f32[8]{0} call(%p), to_apply=%called",
            "  %second = f32[8]{0} call(%first), to_apply=%called",
            entry=True,
        ),
    )
    assert cycles_of(text) == (20, 0)


def test_a_program_without_estimates_has_no_cycles():
    text = program(computation("main", "  ROOT %sum = f32[8]{0} add(%p, %p)", entry=True))
    assert cycles_of(text) == (0, 0)


def test_what_a_program_holds_and_needs():
    sizes = {"argument": 100, "output": 70, "alias": 60, "temp": 5}
    memory = SimpleNamespace(**{f"{name}_size_in_bytes": size for name, size in sizes.items()})
    text = program(computation("main", operation("a", 7), entry=True))
    compiled = SimpleNamespace(
        memory_analysis=lambda: memory, cost_analysis=lambda: [{"flops": 2.0}], as_text=lambda: text
    )
    found = programs.read(compiled)
    assert (found.held, found.memory) == (110, 115)  # 100 + 70 - 60, and 5
    assert (found.flops, found.bytes_accessed, found.cycles, found.collectives) == (2.0, None, 7, ())


def test_a_compiler_that_estimates_nothing_leaves_none():
    memory = SimpleNamespace(
        argument_size_in_bytes=1, output_size_in_bytes=1, alias_size_in_bytes=0, temp_size_in_bytes=0
    )
    text = program(computation("main", "  ROOT %sum = f32[8]{0} add(%p, %p)", entry=True))
    found = programs.read(
        SimpleNamespace(memory_analysis=lambda: memory, cost_analysis=lambda: None, as_text=lambda: text)
    )
    assert (found.flops, found.bytes_accessed, found.cycles, found.unknown_loops) == (None, None, None, 0)
