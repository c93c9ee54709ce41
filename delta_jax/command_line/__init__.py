"""The command line of all commands: what stands on it, checked; each mistake ends in one line."""

from delta_jax.command_line.parsing import given, parse

__all__ = ["given", "parse"]
