"""Arguments of the tools, in the form of train.py's."""

import re

import pytest

from tools.arguments import key_values, refuse

KNOWN = {"path": None, "show": "5"}


def test_defaults_are_filled_in_and_values_may_hold_equals_signs() -> None:
    assert key_values(["path=a=b"], KNOWN, "") == {"path": "a=b", "show": "5"}
    assert key_values(["show=", "path="], KNOWN, "") == {"path": "", "show": ""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--path", "a"], "--path is not one of path=…, show=…."),
        (["pith=a"], "pith=a is not one of path=…, show=…."),
        (["path=a", "path=a"], "path is given twice."),
        (["show=1"], "path must be given, as in path=…."),
    ],
)
def test_what_is_no_argument_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        key_values(arguments, KNOWN, "")


def test_errors_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse(ValueError("No [bold] file.")) == 2
    assert capsys.readouterr().out == "error: No [bold] file.\n"
