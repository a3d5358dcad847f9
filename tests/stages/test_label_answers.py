"""From verdicts to labelled answers: labels, drops, weights, mismatched answers, and what is refused."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from rlaifv.records import Claim, Judgement, LabelledAnswer, Response
from rlaifv.stages.label_answers import LabelAnswers, balanced, labelled_statistics, with_mismatched
from rlaifv.stages.stage import Made, Task

Answer = tuple[str, str, bool]
NAMES = {"a": "accepted", "r": "rejected", "u": "unknown"}


def made(*answers: Answer) -> tuple[list[Response], list[Judgement], list[Claim]]:
    """Per answer its id, verdicts (a: accepted, r: rejected, u: unknown), and whether it ended.

    Upper case repeats the question before it. An answer without verdicts has no claims; one named … is empty.
    """
    responses, judgements, claims = [], [], []
    for k, (name, verdicts, finished) in enumerate(answers):
        prompt_id = name.partition("/")[0]
        text = "" if name.endswith("…") else "It is."
        responses.append(Response(name, prompt_id, text, (k, 6), finished, k))
        for j, letter in enumerate(verdicts):
            claims.append(Claim(f"{name}/{j}", name, prompt_id, "It is.", f"Is it {j - letter.isupper()}?"))
            verdict: Any = NAMES[letter.lower()]
            judgements.append(Judgement(f"{name}/{j}", name, prompt_id, 0.5, 0.5, verdict))
    return responses, judgements, claims


def labelled(*answers: Answer, task: Task | None = None, **settings: Any) -> Made:
    return LabelAnswers(**settings)(task or Task(), *made(*answers))


def test_answers_are_labelled_by_their_claims() -> None:
    found = labelled(("p/0", "aa", True), ("p/1", "ar", True), ("q/0", "a", True), ("q/1", "rrR", True))
    answers = found.records
    assert [(one.id, one.is_desirable, one.num_accepted, one.num_rejected) for one in answers] == [
        ("p/0", True, 2, 0),
        ("p/1", False, 1, 1),
        ("q/0", True, 1, 0),
        ("q/1", False, 0, 2),  # one claim is repeated
    ]
    assert not found.drops


def test_what_cannot_be_labelled_is_dropped_and_counted() -> None:
    answers = (
        ("p/…", "", True),
        ("p/1", "a", False),
        ("p/2", "", True),
        ("p/3", "au", True),
        ("p/4", "ar", True),
        ("p/5", "rr", True),
        ("p/6", "a", True),
    )
    found = labelled(*answers, min_rejected=2)
    assert [one.id for one in found.records] == ["p/5", "p/6"]
    assert found.drops == {"empty_response": 1, "truncated": 1, "no_claims": 1, "unknown": 1, "few_rejected": 1}
    not_divided = labelled(*answers, min_rejected=2, task=Task(drops={"not_divided": 1}))
    assert "no_claims" not in not_divided.drops


def test_the_mismatched_answer_is_the_first_of_the_next_prompt() -> None:
    answers = labelled(
        ("p/0", "a", True), ("q/0", "u", True), ("q/1", "r", True), ("o/0", "a", True), ("p/1", "a", True)
    )
    assert [(one.id, one.mismatched_token_ids) for one in answers.records] == [
        ("p/0", (2, 6)),
        ("p/1", (2, 6)),
        ("q/1", (3, 6)),
        ("o/0", (0, 6)),
    ]


def test_an_iteration_of_one_prompt_has_no_mismatched_answer() -> None:
    answers = labelled(("p/0", "a", True), ("p/1", "r", True)).records
    assert [one.mismatched_token_ids for one in answers] == [(), ()]
    assert with_mismatched([]) == []


def test_weights_are_raised_where_they_are_balanced() -> None:
    some = (("p/0", "a", True), ("p/1", "r", True), ("q/0", "r", True), ("q/1", "r", True))
    plain = labelled(*some, desirable_weight=1.5)
    assert [one.weight for one in plain.records] == [1.5, 1.0, 1.0, 1.0]
    even = labelled(*some, is_balanced=True)
    assert [one.weight for one in even.records] == [3.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("num", "others"), [(1, 9), (9, 1), (5, 4), (4, 3), (100, 99)])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 1.0), (1.0, 3.0)])
def test_balanced_weights_are_in_the_papers_range_and_never_smaller(
    num: int, others: int, weights: tuple[float, float]
) -> None:
    found = balanced(*weights, num, others)
    ratio = num * found[0] / (others * found[1])
    assert 1 - 1e-9 <= ratio <= 4 / 3 + 1e-9
    assert all(after >= before for before, after in zip(weights, found, strict=True))
    assert found[0] == weights[0] or found[1] == weights[1]


@pytest.mark.parametrize(("verdict", "kind"), [("a", "desirable"), ("r", "undesirable")])
def test_one_kind_alone_ends_in_one_sentence(verdict: str, kind: str) -> None:
    message = (
        rf"^All 2 labelled answers of iteration 3 are {kind}, so there is nothing to tell apart: take more prompts"
    )
    with pytest.raises(ValueError, match=message):
        labelled(("p/0", verdict, True), ("q/0", verdict, True), task=Task(iteration=3))


def test_no_answers_are_left_to_the_count_of_the_loop() -> None:
    found = labelled(("p/0", "a", False))
    assert (found.records, found.drops) == ([], Counter(truncated=1))


def test_statistics_count_both_kinds() -> None:
    tables = made(("p/0", "aar", True), ("p/1", "a", True), ("q/0", "r", True), ("q/1", "a", False))
    found = LabelAnswers(is_balanced=True)(Task(), *tables)
    figures = labelled_statistics(tables[0], tables[1], found.records, found.drops)
    names = ("responses", "answers_kept", "answers/desirable", "answers/undesirable", "dropped/truncated")
    assert [figures[name] for name in names] == [4, 3, 1, 2, 1]
    assert (figures["answers/desirable_weight"], figures["answers/undesirable_weight"]) == (2.0, 1.0)
    assert figures["length/answer_tokens"] == 2.0


def test_settings_are_part_of_the_producer() -> None:
    known = {LabelAnswers(**some).producer()["labelled"] for some in ({}, {"min_rejected": 2}, {"is_balanced": True})}
    assert len(known) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_rejected": 0}, "min_rejected must be at least 1, but it is 0"),
        ({"desirable_weight": 0.0}, "must be above 0, but they are 0.0 and 1.0"),
        ({"undesirable_weight": -1.0}, "must be above 0, but they are 1.0 and -1.0"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelAnswers(**wrong)


def test_an_answer_counts_its_own_tokens_only() -> None:
    """The mismatched answer is counted with the prompt, which a tree holds once."""
    answer = LabelledAnswer("p/0", "p", (1, 2, 3), True, 1.0, 1, 0, mismatched_token_ids=(4, 5))
    assert replace(answer, prompt_tokens=9).answer_tokens == 3
