"""Claims in, judgements out: each claim is put to the labeler as a yes/no question about the image alone.

The response is not shown (RLAIF-V, section 3.2), so identical questions of one image have one answer and are asked once.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from rlaifv.engines.protocol import Advance, Labeler, ignore_progress
from rlaifv.records import Claim, Judgement, Prompt, Verdict
from rlaifv.stages.stage import Made, Stage, Task

QUESTION_SUFFIX = " Please answer yes or no."
NEGLIGIBLE = 1e-4


class ClaimLabeler(Protocol):
    """Judges claims; `rlaifv.engines.labeler.LabelerModule` is one."""

    def __call__(self, prompts: Sequence[Prompt], claims: Sequence[Claim], advance: Advance) -> list[Judgement]: ...


class Score(Stage):
    """Put every claim to the labeler as a yes/no question."""

    name = "score"
    reads = ("prompts", "claims")
    writes = "judgements"

    def __init__(self, labeler: ClaimLabeler) -> None:
        self.labeler = labeler

    def __call__(self, task: Task, prompts: Sequence[Prompt], claims: Sequence[Claim]) -> Made:
        return Made(self.labeler(prompts, claims, task.advance))


def verdict_of(p_yes: float, p_no: float) -> Verdict:
    """Accepted iff p_yes > p_no; unknown where the labeler gave neither any weight, or no number at all.

    >>> verdict_of(0.6, 0.4), verdict_of(0.5, 0.5), verdict_of(1e-6, 1e-7), verdict_of(float("nan"), 0.3)
    ('accepted', 'rejected', 'unknown', 'unknown')
    """
    if not math.isfinite(p_yes + p_no) or p_yes + p_no < NEGLIGIBLE:
        return "unknown"
    return "accepted" if p_yes > p_no else "rejected"


def distinct_questions(claims: Sequence[Claim]) -> dict[str, list[str]]:
    """The questions about each prompt's image, each once, in order of first appearance."""
    questions: dict[str, dict[str, None]] = {}
    for claim in claims:
        questions.setdefault(claim.prompt_id, {})[claim.question] = None
    return {prompt_id: list(asked) for prompt_id, asked in questions.items()}


def ask(
    labeler: Labeler,
    asked: Sequence[tuple[Prompt, Sequence[str]]],
    suffix: str = QUESTION_SUFFIX,
    other_forms: Sequence[str] = (),
    advance: Advance = ignore_progress,
) -> list[list[tuple[float, float]]]:
    """(p_yes, p_no) of every question, as this project words questions.

    Args:
        labeler: answers them.
        asked: prompts, about whose images the questions are.
        suffix: appended to every question.
        other_forms: further wordings, which hold "{question}". Each question is asked in all of them, and the probabilities
            are averaged, so that a preference for the word that is named first, or for a phrase, cancels.
        advance: told how many prompts were finished.
    """
    forms = ("{question}" + suffix, *other_forms)
    worded = [
        (prompt, [form.replace("{question}", question) for question in questions for form in forms])
        for prompt, questions in asked
    ]
    return [
        [_average(answered[k : k + len(forms)]) for k in range(0, len(answered), len(forms))]
        for answered in labeler.answer_probabilities(worded, advance)
    ]


def score(
    prompts: Sequence[Prompt],
    claims: Sequence[Claim],
    labeler: Labeler,
    suffix: str = QUESTION_SUFFIX,
    advance: Advance = ignore_progress,
    other_forms: Sequence[str] = (),
) -> list[Judgement]:
    """Judge every claim; the result is in the order of the claims.

    Args:
        prompts: whose images the claims are about.
        claims: of their answers.
        labeler: answers the questions.
        suffix: appended to every question.
        advance: told how many prompts were finished.
        other_forms: further wordings, see `ask`.
    """
    by_prompt = distinct_questions(claims)
    asked = [prompt for prompt in prompts if prompt.id in by_prompt]
    advance(len(prompts) - len(asked))
    answers = ask(labeler, [(prompt, by_prompt[prompt.id]) for prompt in asked], suffix, other_forms, advance)
    found = {
        (prompt.id, question): probabilities
        for prompt, answered in zip(asked, answers, strict=True)
        for question, probabilities in zip(by_prompt[prompt.id], answered, strict=True)
    }
    judgements = []
    for claim in claims:
        p_yes, p_no = found[claim.prompt_id, claim.question]
        verdict = verdict_of(p_yes, p_no)
        if verdict == "unknown":  # stored as zeros, so that a table of judgements holds numbers only
            p_yes, p_no = (p if math.isfinite(p) else 0.0 for p in (p_yes, p_no))
        judgements.append(Judgement(claim.id, claim.response_id, claim.prompt_id, p_yes, p_no, verdict))
    return judgements


def _average(probabilities: Sequence[tuple[float, float]]) -> tuple[float, float]:
    p_yes, p_no = (sum(values) / len(probabilities) for values in zip(*probabilities, strict=True))
    return p_yes, p_no
