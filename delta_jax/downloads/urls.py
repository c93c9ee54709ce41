"""Addresses, as they may be shown, and whether the network may be used at all."""

import os
from urllib.parse import urlsplit

OFFLINE = ("DELTA_JAX_OFFLINE", "HF_HUB_OFFLINE")  # environment variables; 1, true, yes or on means offline


def is_url(name: str) -> bool:
    """Whether `name` is an address of HTTP or HTTPS."""
    return name.lower().startswith(("http://", "https://"))


def shown(url: str) -> str:
    """`url` for messages and records: without user, password, query and fragment, for all of them may be secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}{'?...' if parts.query else ''}"


def is_offline() -> bool:
    """Whether the environment forbids connections: DELTA_JAX_OFFLINE=1 or HF_HUB_OFFLINE=1."""
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in OFFLINE)
