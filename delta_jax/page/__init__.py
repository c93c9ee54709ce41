"""One self-contained HTML page of a sweep, a run, or several runs: it opens without a network, on any device."""

from delta_jax.page.reading import PageError
from delta_jax.page.rendering import PAGE, write

__all__ = ["PAGE", "PageError", "write"]
