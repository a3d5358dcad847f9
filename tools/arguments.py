"""Command lines of the tools: key=value, as train.py has them."""

from collections.abc import Mapping, Sequence

from rlaifv.runtime import console


def key_values(arguments: Sequence[str], known: Mapping[str, str | None], usage: str | None) -> dict[str, str]:
    """Read key=value arguments.

    Args:
        arguments: as typed.
        known: defaults by key; None where a value has to be given.
        usage: what --help prints.

    Raises:
        ValueError: an argument is not of this form, unknown or given twice, or one that is needed is not given.
        SystemExit: help was asked for.
    """
    if {"-h", "--help"} & {*arguments}:
        console.print(usage, markup=False)
        raise SystemExit(0)
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in known:
            raise ValueError(f"{argument} is not one of {', '.join(f'{name}=…' for name in known)}.")
        if key in given:
            raise ValueError(f"{key} is given twice.")
        given[key] = value
    values: dict[str, str] = {}
    for key, default in known.items():
        found = given.get(key, default)
        if found is None:
            raise ValueError(f"{key} must be given, as in {key}=….")
        values[key] = found
    return values


def refuse(error: Exception) -> int:
    """Say what is wrong with a command; its exit status."""
    console.print("[bold red]error:[/]", end=" ")
    console.print(str(error), markup=False, soft_wrap=True)
    return 2
