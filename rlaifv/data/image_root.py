"""Confinement of listed images to one directory, so that an untrusted list cannot open other files."""

import os
from pathlib import Path


def path_inside(root: Path, name: str) -> Path | None:
    """Return the real path of `name` in `root`, resolving links before any file is opened; None if it leads outside."""
    try:
        found = Path(os.path.realpath(root / name))
    except ValueError:  # the name contains NUL, so no such file exists
        return root / name
    return found if found.is_relative_to(os.path.realpath(root)) else None
