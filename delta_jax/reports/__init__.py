"""What stands above a run: its pictures and its page, made of what `training` returned and left."""

from delta_jax.reports.run_report import show

__all__ = ["show"]
