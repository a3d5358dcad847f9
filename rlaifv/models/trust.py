"""Check a model's files before loading: they may hold settings and weights, but must not ask to run code.

A model is a directory or a repository of somebody else's. Its JSON files can name Python files to run (`auto_map`), another
repository to run them from, kernels to fetch (as in CVE-2026-4372), and another model to put its weights upon. All of that is
looked for here, and refused in a sentence.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

INDEX_NAME = "model.safetensors.index.json"
ADAPTER_NAME = "adapter_config.json"
SETTINGS_NAMES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
# Keys with an underscore belong to the loader, not to files; these ones are written by it and mean nothing to it.
HARMLESS_KEYS = ("_attn_implementation_autoset", "_commit_hash", "_from_model_config", "_name_or_path")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BUILT_IN = re.compile(r"[A-Za-z0-9_]*")


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a whole commit, which nobody can move: 40 hexadecimal digits.

    >>> is_commit("main"), is_commit("5d1f3a0"), is_commit("0123456789abcdef0123456789abcdef01234567")
    (False, False, True)
    """
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def check_files(path: str, revision: str | None, runs_code: bool = False, is_offline: bool = False) -> None:
    """Refuse a model whose files ask for more than to be read.

    Args:
        path: a local directory in the hub's layout, or a hub id.
        revision: of a hub id.
        runs_code: whether the user lets the model's own Python files run. Of a hub id they must be pinned by a commit; a
            directory is what its owner made of it.
        is_offline: whether to look at the local cache of the hub only.

    Raises:
        ValueError: a file asks for code that may not run, for a kernel or another model, or is no JSON object.
    """
    is_directory = Path(path).is_dir()
    if runs_code and not is_directory and not is_commit(revision):
        raise ValueError(
            f"code of a hub id runs only from a full commit of 40 hexadecimal digits, but its revision is {revision}."
        )
    if _read(path, ADAPTER_NAME, revision, is_offline) is not None:
        raise ValueError(f"it holds an adapter ({ADAPTER_NAME}) for weights elsewhere; merge it into them first.")
    for name in SETTINGS_NAMES:
        for key, value in _members(_read(path, name, revision, is_offline) or {}):
            if key == "auto_map":
                _check_code(path, name, value, runs_code)
            elif "implementation" in key and key not in HARMLESS_KEYS:
                _check_implementation(name, key, value)
            elif key.startswith("_") and key not in HARMLESS_KEYS:
                raise ValueError(f"its {name} sets {key!r}, which belongs to the loader alone.")
    for _, file in _members((_read(path, INDEX_NAME, revision, is_offline) or {}).get("weight_map")):
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(f"its {INDEX_NAME} names {file!r}, which is no file beside it.")


def _read(path: str, name: str, revision: str | None, is_offline: bool) -> dict[str, Any] | None:
    """Return members of a JSON file of the model, None where there is no such file; the loader tells what it misses."""
    file = cached_file(
        path,
        name,
        revision=revision,
        local_files_only=is_offline,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return None
    try:
        members = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {name} is not JSON in UTF-8: {error}.") from error
    if not isinstance(members, dict):
        raise ValueError(f"its {name} is not a JSON object, but of type {type(members).__name__}.")
    return members


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys of a JSON value with what they hold, however deep."""
    if isinstance(value, dict):
        yield from value.items()
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _members(inner)


def _check_code(path: str, name: str, auto_map: Any, runs_code: bool) -> None:
    """Whether the Python files that a model names may run, and are its own."""
    if not runs_code:
        raise ValueError(
            f"its {name} names Python files to run (auto_map), and these run only with trust_remote_code=true; read them "
            "first, or use a copy of the model without that entry."
        )
    references = [value for _, value in _members({"": auto_map})]
    for reference in (one for item in references for one in (item if isinstance(item, list) else [item])):
        repository = reference.rpartition("--")[0] if isinstance(reference, str) else ""
        if repository not in ("", path):
            raise ValueError(
                f"its {name} names code of a second repository, {repository}, which no revision here pins; put that code "
                "into a copy of the model."
            )


def _check_implementation(name: str, key: str, value: Any) -> None:
    """Implementations may be named if they are built in; a name with a slash is a repository with code."""
    for one in value.values() if isinstance(value, dict) else [value]:
        if key.endswith("_internal") or not (one is None or (isinstance(one, str) and _BUILT_IN.fullmatch(one))):
            raise ValueError(f"its {name} sets {key!r} to {value!r}, which is no implementation that is built in.")
