"""Claims in, judgements out: each claim is put to the labeler as a yes/no question about the image.

The labeler does not see the response (RLAIF-V, section 3.2), so identical questions about an image are asked once.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlaifv.engines.protocol import Advance, Labeler, ignore_progress
from rlaifv.records import Claim, Judgement, Prompt, Verdict
from rlaifv.stages.stage import Made, Stage, Task

NEGLIGIBLE = 1e-4


@dataclass(frozen=True, slots=True)
class Wording:
    """How claims become questions to a labeler.

    Attributes:
        suffix: appended to every question, so that the answer's first token is a yes or a no.
        other_forms: further wordings, each with "{question}" in it. Every question is asked in all wordings, and the
            probabilities are averaged, which cancels a preference for the word that is named first, or for a phrase.
    """

    suffix: str = " Please answer yes or no."
    other_forms: tuple[str, ...] = ()

    def forms(self, question: str) -> list[str]:
        """Return all wordings of a question."""
        return [form.replace("{question}", question) for form in ("{question}" + self.suffix, *self.other_forms)]


WORDING = Wording()


class ClaimLabeler(Protocol):
    """Judges claims; `rlaifv.engines.labeler.LabelerModule` is one."""

    engine: Labeler
    wording: Wording

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
    """Return accepted if p_yes > p_no, else rejected; unknown if both are negligible or not finite.

    >>> verdict_of(0.6, 0.4), verdict_of(0.5, 0.5), verdict_of(1e-6, 1e-7), verdict_of(float("nan"), 0.3)
    ('accepted', 'rejected', 'unknown', 'unknown')
    """
    if not math.isfinite(p_yes + p_no) or p_yes + p_no < NEGLIGIBLE:
        return "unknown"
    return "accepted" if p_yes > p_no else "rejected"


def distinct_questions(claims: Sequence[Claim]) -> dict[str, list[str]]:
    """Return the distinct questions about each prompt's images, in order of first appearance."""
    questions: dict[str, dict[str, None]] = {}
    for claim in claims:
        questions.setdefault(claim.prompt_id, {})[claim.question] = None
    return {prompt_id: list(asked) for prompt_id, asked in questions.items()}


def ask(
    labeler: Labeler,
    asked: Sequence[tuple[Prompt, Sequence[str]]],
    wording: Wording = WORDING,
    advance: Advance = ignore_progress,
) -> list[list[tuple[float, float]]]:
    """Return (p_yes, p_no) of every question about each prompt's images; `advance` counts prompts."""
    num_forms = 1 + len(wording.other_forms)
    worded = [(prompt, [form for question in some for form in wording.forms(question)]) for prompt, some in asked]
    return [
        [_average(answered[k : k + num_forms]) for k in range(0, len(answered), num_forms)]
        for answered in labeler.answer_probabilities(worded, advance)
    ]


def score(
    prompts: Sequence[Prompt],
    claims: Sequence[Claim],
    labeler: Labeler,
    wording: Wording = WORDING,
    advance: Advance = ignore_progress,
) -> list[Judgement]:
    """Judge every claim about the prompts' images, in the order of the claims; `advance` counts prompts."""
    by_prompt = distinct_questions(claims)
    asked = [prompt for prompt in prompts if prompt.id in by_prompt]
    advance(len(prompts) - len(asked))
    answers = ask(labeler, [(prompt, by_prompt[prompt.id]) for prompt in asked], wording, advance)
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


def verdict_statistics(num_responses: int, judgements: Sequence[Judgement]) -> dict[str, float]:
    """Return the counts of answers and claims, and the rates of their verdicts; a rate of nothing is 0."""
    verdicts, num_claims = Counter(judgement.verdict for judgement in judgements), len(judgements)
    return {
        "responses": float(num_responses),
        "claims": float(num_claims),
        "claims_per_response": num_claims / max(num_responses, 1),
        "rejection_rate": verdicts["rejected"] / max(num_claims, 1),
        "unknown_rate": verdicts["unknown"] / max(num_claims, 1),
    }


def _average(probabilities: Sequence[tuple[float, float]]) -> tuple[float, float]:
    p_yes, p_no = (sum(values) / len(probabilities) for values in zip(*probabilities, strict=True))
    return p_yes, p_no
