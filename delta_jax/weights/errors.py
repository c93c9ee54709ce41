"""The one error of this package."""


class WeightsError(ValueError):
    """A weights file or source cannot be used; the message says why and what to do."""
