"""Parse the key=value command lines of the tools; the syntax is that of train.py."""

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
    """Parse key=value arguments into an instance of the dataclass `kind`.

    Args:
        kind: dataclass with a typed field for every key; the default MISSING marks a required key.
        usage: text printed for --help.
        arguments: the command-line arguments.

    Raises:
        ValueError: an argument is not key=value, its key is unknown or repeated, its value has the wrong type, or a
            required key is missing.
        SystemExit: after printing the help text.
    """
    if {"-h", "--help"} & {*arguments}:
        console.print((usage or "").strip(), markup=False)
        raise SystemExit(0)
    known: Any = OmegaConf.structured(kind)
    described: Any = kind
    names = [field.name for field in fields(described)]  # `in` on the config would skip keys that are MISSING
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
    """Print the error of a command and return its exit status, 2."""
    console.print("[bold red]error:[/]", end=" ")
    console.print(str(error), markup=False, soft_wrap=True)
    return 2
