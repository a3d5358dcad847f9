"""Images that a list names have to lie in one directory, so that a list from elsewhere opens no other files."""

import os
from pathlib import Path


def path_inside(root: Path, name: str) -> Path | None:
    """Return the real path of `name` in `root`, links followed before anything is opened; None where it leads out."""
    try:
        found = Path(os.path.realpath(root / name))
    except ValueError:  # a NUL in it, so that no file has that name
        return root / name
    return found if found.is_relative_to(os.path.realpath(root)) else None
