"""Arguments of the small tools, in the form of `train.py`'s: key=value."""

import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

OptionsT = TypeVar("OptionsT")


def parse_options(kind: type[OptionsT], usage: str | None, arguments: Sequence[str] | None = None) -> OptionsT:
    """An instance of the dataclass `kind` from words of the form key=value.

    `--help` prints `usage` and ends with status 0. An unknown key, a wrong type, a word of another form or a key without a
    default that is not given prints one sentence and ends with status 2.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & {*words}:
        print((usage or "").strip())
        raise SystemExit(0)
    try:
        if odd := [word for word in words if "=" not in word]:
            raise ValueError(f"{odd[0]!r} is not of the form key=value")
        given = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.from_dotlist(words))
        if missing := sorted(OmegaConf.missing_keys(given)):
            raise ValueError(f"{missing[0]}=… must be given")
        made: Any = OmegaConf.to_object(given)
    except (OmegaConfBaseException, ValueError) as error:
        print(f"error: {str(error).splitlines()[0].rstrip('.')}; --help shows the keys.", file=sys.stderr)
        raise SystemExit(2) from error
    return made
