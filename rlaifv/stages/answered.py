"""Label existing responses of any model: claims, judgements, and a score each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlaifv.engines.protocol import Labeler
from rlaifv.records import Prompt, Response
from rlaifv.stages.answer_scores import score_responses
from rlaifv.stages.dividers.protocol import AnyDivider, NotDivided, divide_all
from rlaifv.stages.score import WORDING, Wording, score


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt with its answers."""

    prompt: Prompt
    texts: tuple[str, ...]


def label_answered(
    rows: Sequence[Answered],
    divider: AnyDivider,
    labeler: Labeler,
    wording: Wording = WORDING,
) -> list[list[dict[str, Any]]]:
    """Divide and judge answers.

    Returns:
        For each row and text, ready for JSON: "response", "score" (minus the number of rejected claims; None where there are
        no claims) and "claims", each with text, question, p_yes, p_no and verdict; "not_divided" says why a divider failed.
    """
    made = [
        [Response(f"{row.prompt.id}/{k}", row.prompt.id, text, (), True, 0) for k, text in enumerate(row.texts)]
        for row in rows
    ]
    responses = [response for some in made for response in some]
    prompts = {row.prompt.id: row.prompt for row in rows}
    divided = divide_all(divider, [(prompts[response.prompt_id], response) for response in responses])
    failed = {one.id: some.reason for one, some in zip(responses, divided, strict=True) if isinstance(some, NotDivided)}
    claims = [claim for some in divided if not isinstance(some, NotDivided) for claim in some]
    judgements = score(list(prompts.values()), claims, labeler, wording)
    scores = score_responses(responses, judgements)
    found: dict[str, list[dict[str, Any]]] = {response.id: [] for response in responses}
    for claim, judged in zip(claims, judgements, strict=True):
        shown: dict[str, Any] = {"text": claim.text, "question": claim.question}
        shown |= {"p_yes": judged.p_yes, "p_no": judged.p_no, "verdict": judged.verdict}
        found[claim.response_id].append(shown)
    return [
        [
            {"response": one.text, "score": scores.get(one.id), "claims": found[one.id]}
            | ({"not_divided": failed[one.id]} if one.id in failed else {})
            for one in some
        ]
        for some in made
    ]
