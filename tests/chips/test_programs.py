"""The TPU compiler's cycles, read from texts written by hand in its format."""

from delta_jax.chips import programs
from delta_jax.chips.programs import Cycles

# An operation of 7 cycles; a loop of 3 trips; within each a loop over live chunks, at most 5 of 100 cycles, that the
# data may end earlier, and a loop whose bound is read from memory, of 1,000.
TEXT = """
HloModule jit_f, is_scheduled=true

%chunk (t: (s32[], s32[])) -> (s32[], s32[]) {
  %fusion.1 = f32[8]{0:T(128)} fusion(%x), kind=kLoop, calls=%c, backend_config={"estimated_cycles":"100"}
}

%more (t: (s32[], s32[])) -> pred[] {
  %one = s32[]{:T(128)} get-tuple-element(%t), index=0
  %two = s32[]{:T(128)} get-tuple-element(%t), index=1
  ROOT %lt.1 = pred[]{:T(512)} compare(%one, %two), direction=LT
}

%untold (t: (s32[], s32[])) -> (s32[], s32[]) {
  %fusion.2 = f32[8]{0:T(128)} fusion(%x), kind=kLoop, calls=%c, backend_config={"estimated_cycles":"1000"}
}

%image (u: (s32[], s32[], s32[])) -> (s32[], s32[], s32[]) {
  %zero.sunk = s32[]{:T(128)} constant(0)
  %five.sunk = s32[]{:T(128)} constant(5)
  %copy.1 = s32[]{:T(128)} copy(%zero.sunk)
  %live.1 = s32[]{:T(128)S(6)} fusion(%u), kind=kLoop, calls=%d, backend_config={"estimated_cycles":"20"}
  %min.1 = s32[]{:T(128)} minimum(%live.1, %five.sunk)
  %tuple.1 = (s32[]{:T(128)}, s32[]{:T(128)}) tuple(%copy.1, %min.1)
  %while.1 = (s32[]{:T(128)}, s32[]{:T(128)}) while(%tuple.1), condition=%more, body=%chunk
  %tuple.2 = (s32[]{:T(128)}, s32[]{:T(128)}) tuple(%copy.1, %live.1)
  %while.2 = (s32[]{:T(128)}, s32[]{:T(128)}) while(%tuple.2), condition=%more, body=%untold
}

%images (u: (s32[], s32[], s32[])) -> pred[] {
  %three = s32[]{:T(128)} constant(3)
  %i = s32[]{:T(128)} get-tuple-element(%u), index=0
  ROOT %lt.2 = pred[]{:T(512)} compare(%i, %three), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %zero = s32[]{:T(128)} constant(0)
  %fusion.3 = f32[8]{0:T(128)} fusion(%a), kind=kLoop, calls=%c, backend_config={"estimated_cycles":"7"}
  %tuple.3 = (s32[]{:T(128)}, s32[]{:T(128)}, s32[]{:T(128)}) tuple(%zero, %zero, %zero)
  ROOT %while.3 = (s32[]{:T(128)}, s32[]{:T(128)}, s32[]{:T(128)}) while(%tuple.3), condition=%images, body=%image
}
"""


def test_a_loops_body_counts_as_often_as_it_runs_at_most():
    assert programs.cycles_of(TEXT) == Cycles(7 + 3 * (20 + 5 * 100 + 1000), bounded=1, unknown=1)


def test_a_loop_that_starts_at_what_may_be_less_is_of_unknown_length():
    text = TEXT.replace("tuple(%copy.1, %min.1)", "tuple(%min.1, %five.sunk)")
    assert programs.cycles_of(text) == Cycles(7 + 3 * (20 + 100 + 1000), bounded=0, unknown=2)


def test_a_program_without_estimates_has_no_cycles():
    text = TEXT.replace("estimated_cycles", "other")
    assert programs.cycles_of(text).total == 0
