"""What stops an export."""


class ExportError(ValueError):
    """A package is missing, or the file that was written does not compute what the network does."""
