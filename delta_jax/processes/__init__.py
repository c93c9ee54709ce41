"""The processes of a run and the devices they have: how they come together, talk to each other, and stop."""

from delta_jax.processes.cluster import ProcessError
from delta_jax.processes.group import agree, count, from_first, gather, is_first, together
from delta_jax.processes.start import set_up_process

__all__ = ["ProcessError", "agree", "count", "from_first", "gather", "is_first", "set_up_process", "together"]
