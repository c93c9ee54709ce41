"""Files from the network to this machine: resumed, retried, verified; whole under their final name, or not there."""

from delta_jax.downloads.errors import DownloadError
from delta_jax.downloads.fetching import fetch
from delta_jax.downloads.files import cache_folder, locked, replacing
from delta_jax.downloads.hashes import digest
from delta_jax.downloads.parts import Progress
from delta_jax.downloads.urls import is_offline, is_url, shown

__all__ = [
    "DownloadError",
    "Progress",
    "cache_folder",
    "digest",
    "fetch",
    "is_offline",
    "is_url",
    "locked",
    "replacing",
    "shown",
]
