"""An evaluation of three made-up answers, every number of which is derived by hand.

    prompt  answer                        image holds                   the labeler accepts
    a       Red cat. Blue dog.            Red cat, Green cow            both
    b       Green cow. Green cow.         Green cow                     neither
    c       (nothing)                     Red cat, Blue dog, Green cow

Four claims, of which "Blue dog" about a is false; the labeler rejects the two of b, which are true.
"""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.metrics.truth import Truth
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.observers.held_out import Evaluation, Evaluator, agreement, labeler_accuracy
from rlaifv.records import Claim, Judgement, Prompt, Response
from rlaifv.stages.dividers.protocol import NotDivided
from rlaifv.stages.score import Wording

ANSWERS = {"a": "Red cat. Blue dog.", "b": "Green cow. Green cow.", "c": ""}
FACTS = {"a": ["Red cat.", "Green cow."], "b": ["Green cow."], "c": ["Red cat.", "Blue dog.", "Green cow."]}
EXAMS = {
    "a": [("Red cat?", True), ("Blue dog?", False)],
    "b": [("Green cow?", True), ("Red cat?", False)],
    "c": [("Unicorn?", False)],
}
SAID = {"Red cat?": (0.9, 0.1), "Blue dog?": (0.6, 0.3), "Green cow?": (0.2, 0.7), "Unicorn?": (0.2, 0.2)}
PROMPTS = [
    Prompt("a", "What is it?", ("/a.png", "/a2.png")),
    Prompt("b", "And this?", ("/b.png",)),
    Prompt("c", "Hm?", ()),
]


class FakePolicy:
    def __init__(self) -> None:
        self.decodings: list[Decoding] = []

    def sample(self, prompts: Any, seeds: Any, decoding: Decoding, advance: Advance = ignore_progress) -> Any:
        assert [len(some) for some in seeds] == [1] * len(prompts)
        self.decodings.append(decoding)
        advance(len(prompts))
        return [[Sampled(tuple(map(ord, ANSWERS[prompt.id])), True)] for prompt in prompts]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(map(chr, token_ids))


class FakeLabeler:
    def __init__(self) -> None:
        self.asked: list[tuple[Prompt, str]] = []

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        self.asked += [(prompt, question) for prompt, questions in asked for question in questions]
        return [[SAID[question.removesuffix(" Yes or no.")] for question in questions] for _, questions in asked]


class SentenceDivider:
    def divide(self, prompt: Prompt, response: Response) -> list[Claim]:
        texts = [f"{sentence.strip()}." for sentence in response.text.split(".") if sentence.strip()]
        return [
            Claim(f"{response.id}/{k}", response.id, prompt.id, text, text.replace(".", "?"))
            for k, text in enumerate(texts)
        ]


class FailingDivider(SentenceDivider):
    """Makes nothing of the answers to some prompts."""

    producer = "fails"

    def __init__(self, *failing: str) -> None:
        self.failing = failing

    def divide_all(self, pairs: Sequence[tuple[Prompt, Response]]) -> list[list[Claim] | NotDivided]:
        return [NotDivided("?") if prompt.id in self.failing else self.divide(prompt, some) for prompt, some in pairs]


class FakeTruth:
    def facts(self, prompt_id: str) -> list[str]:
        return FACTS[prompt_id]

    def holds(self, prompt_id: str, claim: str) -> bool:
        return claim in FACTS[prompt_id]

    def covered(self, prompt_id: str, claims: Sequence[str]) -> int:
        return len({*claims} & {*FACTS[prompt_id]})

    def exam(self, prompt_id: str) -> list[tuple[str, bool]]:
        return EXAMS[prompt_id]


def run(truth: Truth | None = None, **options: Any) -> tuple[Evaluation, FakePolicy, FakeLabeler]:
    policy, labeler = FakePolicy(), FakeLabeler()
    advance = options.pop("advance", ignore_progress)
    evaluator = Evaluator(policy, SentenceDivider(), 12, truth, wording=Wording(" Yes or no."), **options)  # type: ignore[arg-type]
    result = evaluator(PROMPTS, labeler, advance)
    return result, policy, labeler


def test_metrics_with_truth_by_hand() -> None:
    """One of three responses and one of four claims is false; of 2 + 1 + 3 objects, 1 + 1 + 0 are named.

    By the labeler, one of three responses has a rejected claim, and two of four claims are rejected. Of the five exam
    questions it gets right the first (yes to "Red cat?" about a) and the last (no larger p_yes for "Unicorn?").
    """
    result, _, _ = run(FakeTruth())
    assert result.metrics == pytest.approx(
        {
            "rejected/response": 1 / 3,
            "rejected/mention": 2 / 4,
            "hallucination/response": 1 / 3,
            "hallucination/mention": 1 / 4,
            "coverage": 2 / 6,
            "claims_per_response": 4 / 3,
            "length/words": (4 + 4 + 0) / 3,
            "labeler/accuracy": 2 / 5,
        }
    )


def test_without_truth_only_the_labeler_speaks() -> None:
    result, _, labeler = run()
    assert result.metrics == pytest.approx(
        {
            "rejected/response": 1 / 3,
            "rejected/mention": 2 / 4,
            "claims_per_response": 4 / 3,
            "length/words": 8 / 3,
        }
    )
    assert [question for _, question in labeler.asked] == [
        f"{name}? Yes or no." for name in ("Red cat", "Blue dog", "Green cow")
    ]
    assert all(example["truth"] is None for example in result.examples)
    assert all(claim["truth"] is None for example in result.examples for claim in example["claims"])


def test_answers_are_greedy() -> None:
    _, policy, _ = run()
    assert policy.decodings == [Decoding(temperature=0, max_new_tokens=12)]


def test_examples_are_ready_for_json() -> None:
    result, _, _ = run(FakeTruth(), num_examples=2)
    assert json.loads(json.dumps(result.examples, allow_nan=False)) == result.examples
    assert [example["prompt_id"] for example in result.examples] == ["a", "b"]
    assert result.examples[0] == {
        "prompt_id": "a",
        "question": "What is it?",
        "image_path": "/a.png",
        "response": "Red cat. Blue dog.",
        "truth": ["Red cat.", "Green cow."],
        "claims": [
            {
                "text": "Red cat.",
                "question": "Red cat?",
                "p_yes": 0.9,
                "p_no": 0.1,
                "verdict": "accepted",
                "truth": True,
            },
            {
                "text": "Blue dog.",
                "question": "Blue dog?",
                "p_yes": 0.6,
                "p_no": 0.3,
                "verdict": "accepted",
                "truth": False,
            },
        ],
    }
    assert [claim["verdict"] for claim in result.examples[1]["claims"]] == ["rejected", "rejected"]


def test_a_prompt_without_image_or_claims_is_an_example_too() -> None:
    result, _, _ = run(FakeTruth())
    assert len(result.examples) == 3
    assert (result.examples[2]["image_path"], result.examples[2]["claims"]) == (None, [])


def test_the_number_of_examples_does_not_change_the_metrics() -> None:
    result, _, _ = run(FakeTruth(), num_examples=0)
    assert result.examples == []
    assert result.metrics == run(FakeTruth())[0].metrics


def test_the_labeler_is_never_told_the_truth() -> None:
    """With answers and facts turned around, it is asked the very same."""

    class Liar(FakeTruth):
        def facts(self, prompt_id: str) -> list[str]:
            return ["Nothing."]

        def holds(self, prompt_id: str, claim: str) -> bool:
            return not super().holds(prompt_id, claim)

        def covered(self, prompt_id: str, claims: Sequence[str]) -> int:
            return 0

        def exam(self, prompt_id: str) -> list[tuple[str, bool]]:
            return [(question, not answer) for question, answer in EXAMS[prompt_id]]

    honest, _, labeler = run(FakeTruth())
    lied, _, other_labeler = run(Liar())
    assert labeler.asked == other_labeler.asked
    assert lied.metrics["labeler/accuracy"] == pytest.approx(1 - honest.metrics["labeler/accuracy"])
    assert lied.metrics["hallucination/mention"] == pytest.approx(1 - honest.metrics["hallucination/mention"])
    assert lied.metrics["rejected/mention"] == honest.metrics["rejected/mention"]


def test_progress_counts_prompts() -> None:
    finished: list[int] = []
    run(FakeTruth(), advance=finished.append)
    assert sum(finished) == 3


def test_accuracy_of_a_labeler_that_always_says_yes_is_the_share_of_true_exams() -> None:
    class Yes(FakeLabeler):
        def answer_probabilities(
            self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
        ) -> list[list[tuple[float, float]]]:
            return [[(0.9, 0.1)] * len(questions) for _, questions in asked]

    assert labeler_accuracy(PROMPTS, Yes(), FakeTruth()) == pytest.approx(2 / 5)


def test_agreement_leaves_unknown_verdicts_out() -> None:
    """True and accepted, false and rejected, true and rejected, unknown: two of three agree."""
    texts = ["Red cat.", "Blue dog.", "Green cow.", "Red cat."]
    claims = [Claim(f"a/0/{k}", "a/0", "a", text, "?") for k, text in enumerate(texts)]
    verdicts: list[Any] = ["accepted", "rejected", "rejected", "unknown"]
    judgements = [
        Judgement(claim.id, "a/0", "a", 0.5, 0.5, verdict) for claim, verdict in zip(claims, verdicts, strict=True)
    ]
    assert agreement(claims, judgements, FakeTruth()) == pytest.approx(2 / 3)
    assert agreement(claims[3:], judgements[3:], FakeTruth()) == 0.0
    assert agreement([], [], FakeTruth()) == 0.0


def test_the_fake_is_a_truth() -> None:
    assert isinstance(FakeTruth(), Truth)


def test_answers_that_were_not_divided_are_left_out_of_the_rates() -> None:
    """An answer without claims has no hallucination; one that nobody divided may have."""
    ids = [prompt.id for prompt in PROMPTS]

    def measured(prompts: Sequence[Prompt], divider: Any) -> dict[str, float]:
        made = Evaluator(FakePolicy(), divider, 12, FakeTruth(), wording=Wording(" Yes or no."))(prompts, FakeLabeler())
        return made.metrics

    whole, part = (measured(PROMPTS, divider) for divider in (FailingDivider(), FailingDivider(ids[0])))
    alone = measured(PROMPTS[1:], SentenceDivider())
    assert (whole["not_divided"], part["not_divided"]) == (0, pytest.approx(1 / len(ids)))
    same = [name for name in part if name not in ("not_divided", "labeler/accuracy")]
    assert {name: part[name] for name in same} == {name: pytest.approx(alone[name]) for name in same}
    with pytest.raises(ValueError, match="None of 3 held-out answers could be divided"):
        measured(PROMPTS, FailingDivider(*ids))
