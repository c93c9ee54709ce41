"""Chips that need not be here: their published figures, their compilers, and what a program compiled for them costs."""

from delta_jax.chips.figures import Chip
from delta_jax.chips.programs import Program, read
from delta_jax.chips.target import Target
from delta_jax.chips.topologies import Topology, TopologyError, find

__all__ = ["Chip", "Program", "Target", "Topology", "TopologyError", "find", "read"]
