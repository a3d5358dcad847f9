"""How answers are read, by the tables of what each script makes of the same text."""

import pytest

from rlaifv.metrics import mme, pope
from rlaifv.metrics.yes_no import exact, whole_word

# Text; read by POPE's script, by lmms-eval, by VLMEvalKit.
POPE_TABLE = [
    ("Yes.", "yes", "", "yes"),
    ("Yes", "yes", "yes", "yes"),
    ("NO", "yes", "no", "no"),
    ("No!", "yes", "", "no"),
    ("n", "yes", "", ""),
    ("", "yes", "", ""),
    ("None", "yes", "", ""),
    ("I cannot tell", "yes", "", ""),
    ("It isn't there", "yes", "", ""),
    ("There is not", "no", "", ""),
    ("Yes, not a problem", "no", "", "yes"),
    ("The answer is unclear. No drum is there", "yes", "", "no"),
    ("Answer:\nNo", "yes", "", "no"),
    (".No", "yes", "", "no"),
    ('"No"', "yes", "", "no"),
    ("No, thanks", "no", "", "no"),
    (" no ", "no", "no", "no"),
]


@pytest.mark.parametrize(("text", "official", "lmms_eval", "vlmevalkit"), POPE_TABLE)
def test_pope(text: str, official: str, lmms_eval: str, vlmevalkit: str) -> None:
    assert pope.read_answer(text) == official
    assert pope.read_answer(text, "lmms_eval") == lmms_eval
    assert pope.read_answer(text, "vlmevalkit") == vlmevalkit


# Text; read by MME's script, by lmms-eval, by VLMEvalKit.
MME_TABLE = [
    ("YES", "yes", "yes", "yes"),
    ("not sure", "no", "no", ""),
    ("Nothing", "no", "no", ""),
    ("eyes", "yes", "yes", ""),
    ("  yes", "", "yes", "yes"),
    ("  no", "no", "no", "no"),
    ("y", "", "yes", ""),
    ("N.", "", "no", ""),
    ("x", "", "", ""),
    ("The answer is yes.", "", "", "yes"),
    ("...no", "", "no", "no"),
    ("", "", "", ""),
    ("Yes\n", "yes", "yes", "yes"),
]


@pytest.mark.parametrize(("text", "official", "lmms_eval", "vlmevalkit"), MME_TABLE)
def test_mme(text: str, official: str, lmms_eval: str, vlmevalkit: str) -> None:
    assert mme.read_answer(text) == official
    assert mme.read_answer(text, "lmms_eval") == lmms_eval
    assert mme.read_answer(text, "vlmevalkit") == vlmevalkit


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("no-one", "no"),
        ("yes: it is", ""),
        ("**yes**", ""),
        ("yes. no", ""),
        ("(yes)", "yes"),
        ("1,000,no", ""),  # with a number in it, signs vanish in place of becoming spaces
        ("yes 3.5", "yes"),
    ],
)
def test_whole_words(text: str, word: str) -> None:
    assert whole_word(text) == word


@pytest.mark.parametrize(
    ("text", "word"), [("Yes.", "yes"), (" no\n", "no"), ("yes..", ""), ("No, it is not.", ""), ("y", "")]
)
def test_strict(text: str, word: str) -> None:
    assert exact(text) == pope.read_answer(text, "strict") == mme.read_answer(text, "strict") == word


def test_unknown_parsers_are_refused() -> None:
    with pytest.raises(
        ValueError, match="POPE has the parsers official, lmms_eval, vlmevalkit, strict, but got 'first'"
    ):
        pope.read_answer("", "first")
    with pytest.raises(ValueError, match="MME has the parsers official, lmms_eval, vlmevalkit, strict, but got ''"):
        mme.read_answer("", "")
