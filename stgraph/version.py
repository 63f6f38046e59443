"""The version, readable without importing anything else, and the versions that a number depends on."""

from __future__ import annotations

import platform

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of what a number depends on, by package."""
    from importlib import metadata

    found = {"python": platform.python_version(), "stgraph": __version__}
    for package in ("torch", "torch-geometric", "lightning", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
