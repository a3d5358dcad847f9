"""Parse command lines of tools: key=value, as for train.py."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlaifv.runtime.console import console

OptionsT = TypeVar("OptionsT")


def parse_options(kind: type[OptionsT], usage: str | None, arguments: Sequence[str]) -> OptionsT:
    """Return an instance of the dataclass `kind` from words of the form key=value.

    Args:
        kind: has a field for every key, with its type and default; MISSING where a value has to be given.
        usage: what --help prints.
        arguments: as typed.

    Raises:
        ValueError: a word is not of this form, its key unknown or given twice, its value of another type, or one that is
            needed is not given.
        SystemExit: help was asked for.
    """
    if {"-h", "--help"} & {*arguments}:
        console.print((usage or "").strip(), markup=False)
        raise SystemExit(0)
    known: Any = OmegaConf.structured(kind)
    described: Any = kind
    names = [field.name for field in fields(described)]  # a key without a value yet is not "in" a configuration
    lists = [field.name for field in fields(described) if field.default_factory is list]  # written as [one,two]
    keys = [word.partition("=")[0] for word in arguments]
    for word, key in zip(arguments, keys, strict=True):
        if "=" not in word or key not in names:
            raise ValueError(f"{word} is not one of {', '.join(f'{name}=…' for name in names)}.")
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise ValueError(f"{twice[0]} is given twice.")
    for word, key in zip(arguments, keys, strict=True):
        try:
            text = word.partition("=")[2]
            known[key] = OmegaConf.create(text) if key in lists else text
        except (OmegaConfBaseException, YAMLError) as error:
            raise ValueError(f"{word}: {str(error).splitlines()[0]}.") from error
    if missing := [key for key in names if OmegaConf.is_missing(known, key)]:
        raise ValueError(f"{missing[0]} must be given, as in {missing[0]}=….")
    made: Any = OmegaConf.to_object(known)
    return made


def refuse(error: Exception) -> int:
    """Print a command's error, and return its exit status."""
    console.print("[bold red]error:[/]", end=" ")
    console.print(str(error), markup=False, soft_wrap=True)
    return 2
