import math

import pytest

from rlaifv.report.glossary import ENTRIES, MISSING, Unit, entry, show
from rlaifv.stages.pair import PAIR_REASONS, RESPONSE_REASONS


def test_every_reason_of_pairing_is_defined() -> None:
    for reason in (*RESPONSE_REASONS, *PAIR_REASONS):
        assert not entry(f"dropped/{reason}").definition.startswith("What was dropped")


def test_every_definition_is_a_sentence() -> None:
    for name, word in ENTRIES.items():
        assert word.definition.endswith("."), name
        assert word.label[0].isupper(), name


def test_names_that_are_not_listed_still_have_an_entry() -> None:
    assert entry("dropped/too_weird").label == "Too weird"
    assert entry("seconds/generate").unit == "seconds"
    assert entry("something/else") == entry("something/else")
    assert entry("something/else").label == "something/else"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.5, "share", "50.0%"),
        (12345.0, "count", "12,345"),
        (34.12, "mean", "34.1"),
        (-0.4231, "mean", "-0.42"),
        (5.06, "seconds", "5.1 s"),
        (3723.0, "seconds", "3,723 s"),
        (math.nan, "share", MISSING),
        (None, "count", MISSING),
    ],
)
def test_numbers_are_shown_in_their_unit(value: float | None, unit: Unit, text: str) -> None:
    assert show(value, unit) == text
