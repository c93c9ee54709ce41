"""The one exception that users of a data set see."""


class DataError(ValueError):
    """A data set cannot be used as it is; the message says what was found, what was expected and a way out."""
