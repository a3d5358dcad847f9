"""Words of the form key=value, and what is said of others."""

from dataclasses import dataclass

import pytest
from omegaconf import MISSING

from tools.options import parse_options


@dataclass
class Some:
    path: str = MISSING
    n: int = 3
    name: str | None = None


def test_given_and_defaults() -> None:
    assert parse_options(Some, "", ["path=a=b", "n=7"]) == Some("a=b", 7, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "path=… must be given"),
        (["path=x", "m=1"], "Key 'm' not in 'Some'"),
        (["path=x", "n=many"], "Value 'many' of type 'str' could not be converted to Integer"),
        (["--n", "3"], "'--n' is not of the form key=value"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(Some, "", words)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {said}; --help shows the keys.\n"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_options(Some, "\nHow to use it.\n", ["--help", "nonsense"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "How to use it.\n"
