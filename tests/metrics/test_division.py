import json
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.metrics.division import (
    Division,
    _num_matches,
    compare,
    matches,
    read_divided_answers,
)


@pytest.mark.parametrize(
    ("claim", "other"),
    [
        ("There is a black cat.", "A black cat can be seen."),
        ("The man carries a basket.", "The man is carrying a basket."),
        ("Two dogs are lying on the grass.", "There are 2 dogs lying on the grass."),
        ("The door isn't open.", "The door is not open."),
        ("A boy sits on the wall.", "The boy is sitting on the wall."),
    ],
)
def test_the_same_in_other_words(claim: str, other: str) -> None:
    assert matches(claim, other)
    assert matches(other, claim)


@pytest.mark.parametrize(
    ("claim", "other"),
    [
        ("The door is open.", "The door is not open."),
        ("There are two dogs on the grass in the park.", "There are three dogs on the grass in the park."),
        ("The cat is on the table.", "The cat is under the table."),
        ("The dog barks.", "The dog is white."),
        ("It is.", "There is."),
        ("The cat is black.", "It is black."),  # a claim has to be understood by itself
    ],
)
def test_not_the_same(claim: str, other: str) -> None:
    assert not matches(claim, other)


def test_one_claim_cannot_match_two() -> None:
    assert compare(["The cat is black.", "The cat is black."], ["The cat is black."]).num_matched == 1
    assert compare(["The cat is black."], ["The cat is black.", "The cat is black."]).num_matched == 1


def square_tables() -> st.SearchStrategy[list[list[bool]]]:
    return st.integers(0, 5).flatmap(
        lambda size: st.lists(st.lists(st.booleans(), min_size=size, max_size=size), min_size=size, max_size=size)
    )


@given(square_tables())
def test_matching_is_a_largest_one(table: list[list[bool]]) -> None:
    every = permutations(range(len(table)))
    assert _num_matches(table) == max(sum(table[k][column] for k, column in enumerate(order)) for order in every)


def test_a_claim_of_two_statements_is_not_atomic() -> None:
    true = ["The man is wearing a hat.", "The man is holding a cane.", "There is a man."]
    merged = compare(true, ["The man is wearing a hat and holding a cane."])
    assert (merged.num_found, merged.num_atomic) == (1, 0)
    # That there is a man is part of what he wears, not a second statement.
    apart = compare(true, ["The man is wearing a hat.", "The man is holding a cane."])
    assert (apart.num_found, apart.num_atomic, apart.num_matched) == (2, 2, 2)


def test_rates_are_of_sums() -> None:
    total = compare(["The cat is black.", "A dog runs."], ["The cat is black."]) + compare([], ["A bus."])
    assert total == Division(2, 0, 2, 2, 1, 2)
    assert total.rates() == {"recall": 0.5, "precision": 0.5, "f1": 0.5, "atomicity": 1.0}


def test_a_failure_loses_its_claims_and_is_counted() -> None:
    assert compare(["The cat is black."], None) == Division(num_answers=1, num_failed=1, num_true=1)
    assert compare([], None).rates()["recall"] == 1.0


ROW = {"id": "a", "style": "caption", "question": "What?", "answer": "A cat.", "claims": ["There is a cat."]}


def test_rows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    assert read_divided_answers(path)[0].claims == ("There is a cat.",)


@pytest.mark.parametrize("line", ["{", "[]", "{}", json.dumps(ROW | {"claims": [1]}), json.dumps(ROW | {"id": 3})])
def test_a_bad_row_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"answers\.jsonl, line 2, must be an object with id, style, question"):
        read_divided_answers(path)
