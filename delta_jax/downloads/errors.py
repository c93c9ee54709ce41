"""The one error of this package."""


class DownloadError(ValueError):
    """A file cannot be had; the message says why and how to get it by hand."""
