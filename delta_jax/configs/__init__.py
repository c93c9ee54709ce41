"""In a checkout: the folder configs/ at its top, under the name that it has in an installed delta_jax."""

from pathlib import Path

# A wheel has the files of that folder here, in place of this one: package-dir in pyproject.toml.
__path__ = [str(Path(__file__).parents[2] / "configs")]
