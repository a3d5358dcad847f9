"""A world for every test of the loop, and what an uninterrupted run of it writes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loop.world import World


@pytest.fixture(autouse=True, scope="module")
def _without_syncs() -> Iterator[None]:
    """Nothing here loses its power; `tests/store` does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uninterrupted run writes."""
    world = World(tmp_path_factory.mktemp("whole"))
    world.loop().prepare(0)
    return world.content()
