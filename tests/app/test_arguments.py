"""Arguments of the tools, in the form of train.py's."""

import re
from dataclasses import dataclass

import pytest
from omegaconf import MISSING

from rlaifv.app.arguments import parse_options, refuse


@dataclass
class Some:
    path: str = MISSING
    show: int = 5
    name: str | None = None
    streaming: bool = False


def test_defaults_are_filled_in_and_values_may_hold_equals_signs() -> None:
    assert parse_options(Some, "", ["path=a=b"]) == Some("a=b")
    assert parse_options(Some, "", ["path=", "show=7", "name=1", "streaming=true"]) == Some("", 7, "1", True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path", "a"], "--path is not one of path=…, show=…, name=…, streaming=…."),
        (["pith=a"], "pith=a is not one of path=…, show=…, name=…, streaming=…."),
        (["path=a", "path=a"], "path is given twice."),
        (["show=1"], "path must be given, as in path=…."),
        (["path=a", "show=many"], "show=many: Value 'many' of type 'str' could not be converted to Integer."),
    ],
)
def test_what_is_no_argument_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        parse_options(Some, "", arguments)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(Some, "\nHow to [use] it.\n", ["--help", "nonsense"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "How to [use] it.\n"


def test_errors_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse(ValueError("No [bold] file.")) == 2
    assert capsys.readouterr().out == "error: No [bold] file.\n"
