"""Responses from elsewhere are divided and judged as the loop's own."""

from collections.abc import Sequence

from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.records import Claim, Prompt, Response
from rlaifv.stages.answered import Answered, label_answered
from rlaifv.stages.dividers.protocol import NotDivided
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.stages.score import Wording

PROMPTS = [Prompt("a", "What is it?", ()), Prompt("b", "What else?", ())]


class NoDogs:
    """Says yes unless asked about a dog; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        self.asked += [(prompt.id, tuple(questions)) for prompt, questions in asked]
        return [[(0.1, 0.8) if "dog" in question else (0.9, 0.05) for question in some] for _, some in asked]


def test_a_score_is_minus_the_rejected_claims() -> None:
    labeler = NoDogs()
    rows = [
        Answered(PROMPTS[0], ("There is a cat. There is a dog.", "There is a cat.")),
        Answered(PROMPTS[1], ("What a day!",)),
    ]
    (first, second), (nothing,) = label_answered(rows, RulesDivider(), labeler, Wording(" Yes or no?"))
    assert (first["score"], second["score"], nothing["score"]) == (-1.0, 0.0, None)
    assert first["claims"] == [
        {"text": "There is a cat.", "question": "Is there a cat?", "p_yes": 0.9, "p_no": 0.05, "verdict": "accepted"},
        {"text": "There is a dog.", "question": "Is there a dog?", "p_yes": 0.1, "p_no": 0.8, "verdict": "rejected"},
    ]
    assert (second["response"], nothing["claims"]) == ("There is a cat.", [])
    # Both answers' question about the cat is one.
    assert labeler.asked == [("a", ("Is there a cat? Yes or no?", "Is there a dog? Yes or no?"))]


class FailsAtCats:
    """Divides a shard at a time, and fails at answers about cats."""

    def divide_all(self, pairs: Sequence[tuple[Prompt, Response]]) -> list[list[Claim] | NotDivided]:
        rules = RulesDivider()
        return [
            NotDivided("no JSON") if "cat" in response.text else rules.divide(prompt, response)
            for prompt, response in pairs
        ]


def test_a_divider_that_fails_leaves_no_score() -> None:
    rows = [Answered(PROMPTS[0], ("There is a cat.", "There is a dog."))]
    ((failed, divided),) = label_answered(rows, FailsAtCats(), NoDogs())
    assert failed == {"response": "There is a cat.", "score": None, "claims": [], "not_divided": "no JSON"}
    assert divided["score"] == -1.0
    assert "not_divided" not in divided


def test_nothing_to_label() -> None:
    assert label_answered([], RulesDivider(), NoDogs()) == []
