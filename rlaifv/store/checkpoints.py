"""Checkpoints that are verified against a recorded SHA-256 before they are used.

    checkpoints/step=000012.ckpt         the state after 12 optimizer steps
                step=000012.ckpt.json    its SHA-256, published before it

The digest is published first, so that no checkpoint file lacks one; a process killed in between leaves a digest without
a checkpoint, which is ignored. Sharded strategies write directories, whose digest is computed last; a directory without
a digest is unfinished.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from rlaifv.store.atomic import publish, remove_leftovers, write_json

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20


def checkpoint_path(directory: Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` optimizer steps, whether or not it exists."""
    return directory / f"step={step:06d}.ckpt"


def write_checkpoint(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Publish the bytes that `write` puts into a file, after their digest.

    The digest is computed from the bytes as they are written, not by reading the file back.

    Raises:
        OSError: the file cannot be written; any earlier file is unchanged.
    """
    remove_leftovers(path.parent, "*.ckpt*")
    with publish(path) as temporary:
        with temporary.open("wb") as file, ThreadPoolExecutor(1) as hasher:
            hashing = _HashingFile(file, hasher)
            write(hashing)  # type: ignore[arg-type]
        _write_digest(path, hashing.digest.hexdigest())


def seal_directory(path: Path) -> None:
    """Record the digest of a checkpoint directory, which marks it as complete."""
    _write_digest(path, _digest(path))


def verify_checkpoint(path: Path) -> None:
    """Check a checkpoint against its digest. Raises ValueError if it is missing, damaged, or has none."""
    try:
        recorded = json.loads(digest_path(path).read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError as error:
        raise ValueError(f"{path} has no digest beside it ({digest_path(path).name}).") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{digest_path(path)} is damaged, or not a file of this kind: {error!r}.") from error
    try:
        found = _digest(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing.") from error
    if found != recorded:
        raise ValueError(f"{path} is damaged: its SHA-256 is {found}, but {recorded} was recorded.")


def newest_checkpoint(directory: Path) -> Path | None:
    """Return the valid checkpoint with the most steps, or None if none was ever written.

    Invalid checkpoints are skipped with a warning.

    Raises:
        ValueError: there are checkpoints, but none is valid.
    """
    found = list_checkpoints(directory)
    for path in found:
        try:
            verify_checkpoint(path)
        except ValueError as error:
            logger.warning("%s It is left out; an earlier checkpoint is looked for.", error)
        else:
            return path
    if found:
        raise ValueError(
            f"None of the {len(found)} checkpoints in {directory} is what was written, the newest of them {found[0].name}; "
            f"restore one, or delete {directory} and iterations/ beside it to train anew from the first iteration."
        )
    return None


def list_checkpoints(directory: Path) -> list[Path]:
    """Return checkpoints, most steps first, skipping unfinished directories, which have no digest."""
    found = [path for path in directory.glob("*.ckpt") if path.is_file() or digest_path(path).exists()]
    return sorted(found, key=lambda path: (_step(path), path.name), reverse=True)


def keep_newest(directory: Path, newest: Path, num_kept: int) -> None:
    """Keep only the last `num_kept` checkpoints up to `newest`; later ones are of an abandoned continuation."""
    known = [path for path in list_checkpoints(directory) if _step(path) >= 0]
    earlier = [path for path in known if _step(path) <= _step(newest)]
    for path in {*known} - {*earlier[:num_kept]}:
        if path.is_dir():  # digest first: a half-deleted directory is unfinished
            digest_path(path).unlink()
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        digest_path(path).unlink(missing_ok=True)


def digest_path(path: Path) -> Path:
    """Return the path of a checkpoint's digest file."""
    return path.with_name(f"{path.name}.json")


class _HashingFile:
    """A writable file that computes the SHA-256 of its content, hashing large chunks while they are written."""

    def __init__(self, file: IO[bytes], hasher: ThreadPoolExecutor) -> None:
        self.file = file
        self.hasher = hasher
        self.digest = hashlib.sha256()

    def write(self, content: bytes) -> int:
        if len(content) < BLOCK_BYTES:
            self.digest.update(content)
            return self.file.write(content)
        hashed = self.hasher.submit(self.digest.update, content)
        num_written = self.file.write(content)
        hashed.result()  # the caller may reuse the buffer once this returns
        return num_written

    def flush(self) -> None:
        self.file.flush()


def _write_digest(path: Path, sha256: str) -> None:
    write_json(digest_path(path), {"sha256": sha256})


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(f"{file.relative_to(path)}\0".encode())
        if not file.is_dir():
            with file.open("rb") as content:
                while block := content.read(BLOCK_BYTES):
                    digest.update(block)
    return digest.hexdigest()


def _step(path: Path) -> int:
    """Return the step in a checkpoint's name, or -1 if the name is not ours."""
    found = re.fullmatch(r"step=(\d+)\.ckpt", path.name)
    return int(found[1]) if found else -1
