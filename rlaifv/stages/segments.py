"""Segments of answers: where they end, what each claims by kind, and which class that gives (FGAIF, arXiv 2404.05046).

A segment is a sentence, or a part of one that ends in a comma or semicolon and is long enough (the sub-sentences of FGAIF).
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rlaifv.engines.local import LocalEngine
from rlaifv.models.reward_head import NUM_CLASSES, RewardSpec
from rlaifv.records import Claim, Judgement, LabelledSegments, Prompt, Response
from rlaifv.stages.comparisons import is_held_out
from rlaifv.stages.dividers.kinds import FactFinder
from rlaifv.stages.stage import Made, Stage, Task

NOTHING, SUPPORTED, HALLUCINATED = range(NUM_CLASSES)
MIN_WORDS = 5
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|\n+|$")
_PART_END = re.compile(r"[,;:](?=\s)")


def segment_spans(text: str, parts: bool = True) -> list[tuple[int, int]]:
    """Return (start, end) of the segments of an answer, in characters; white space between them belongs to none.

    With `parts`, sentences are cut after a comma, semicolon or colon where at least `MIN_WORDS` words are before and after it.

    >>> text = "A man is holding a cup, which is full of hot tea. He smiles."
    >>> [text[start:end] for start, end in segment_spans(text)]
    ['A man is holding a cup,', 'which is full of hot tea.', 'He smiles.']
    """
    spans = []
    at = 0
    for match in _SENTENCE_END.finditer(text):
        stop = match.end()
        if text[at:stop].strip():
            start = at
            for part in _PART_END.finditer(text, at, stop) if parts else ():
                enough = [len(text[a:b].split()) >= MIN_WORDS for a, b in ((start, part.end()), (part.end(), stop))]
                if all(enough):
                    spans.append((start, part.end()))
                    start = part.end()
            spans.append((start, stop))
        at = stop
    return [(a + len(text[a:b]) - len(text[a:b].lstrip()), a + len(text[a:b].rstrip())) for a, b in spans]


def segments_of(
    token_ids: Sequence[int], decode: Callable[[Sequence[int]], str], parts: bool = True
) -> list[tuple[str, int]]:
    """Return the segments of a sampled answer, and the place of the last token of each.

    Places come from decoding the sampled ids themselves, never from encoding the text again. A segment whose last token also
    holds the end of the next one is joined with it.

    Args:
        token_ids: of the answer.
        decode: gives their text.
        parts: whether long sentences are cut, see `segment_spans`.
    """
    text = decode(token_ids)
    lengths: list[int] = []  # characters of the text of the first k + 1 tokens

    def length(k: int) -> int:
        while len(lengths) <= k:
            lengths.append(len(decode(token_ids[: len(lengths) + 1]).rstrip("\ufffd")))
        return lengths[k]

    segments: list[tuple[str, int]] = []
    at = start = 0
    for first, end in segment_spans(text, parts):
        while at + 1 < len(token_ids) and length(at) < end:
            at += 1
        if segments and segments[-1][1] == at:
            segments[-1] = (text[start:end], at)
        else:
            start = first
            segments.append((text[first:end], at))
    return segments


class DivideSegments(Stage):
    """Find the facts that every segment of an answer claims, as questions for the labeler."""

    name = "divide"
    reads = ("responses",)
    writes = "claims"
    unit = "prompts"

    def __init__(self, policy: LocalEngine, facts: FactFinder) -> None:
        self.policy, self.facts = policy, facts

    def producer(self) -> dict[str, str]:
        return {"divider": f"segments {self.facts.producer}"}

    def __call__(self, task: Task, responses: Sequence[Response]) -> Made:
        claims = []
        for response in responses:
            found = [
                (fact, question, end)
                for text, end in segments_of(response.token_ids, self.policy.decode)
                for fact in self.facts(text)
                for question in fact.questions
            ]
            claims += [
                Claim(
                    f"{response.id}/{k}",
                    response.id,
                    response.prompt_id,
                    fact.text,
                    question,
                    fact.kind,
                    f"{fact.kind} {end} {fact.text}",
                    end,
                )
                for k, (fact, question, end) in enumerate(found)
            ]
        task.advance(len({response.prompt_id for response in responses}))
        return Made(claims)


class LabelSegments(Stage):
    """Give every segment a class for each kind of claim, from the labeler's verdicts.

    A fact holds if any of its questions is accepted. A kind is hallucinated in a segment if any of its facts does not hold,
    supported if there are some and all hold.

    Dropped and counted: answers that are empty, without segments that claim anything (`no_claims`), or with a fact that has
    only unknown verdicts (`unknown`).

    Args:
        policy: encodes prompts, and decodes answers.
        spec: of the reward model; its heads are the kinds.
        held_out: share of prompts whose answers measure the reward model.

    Raises:
        ValueError: the reward model scores whole answers.
    """

    name = "label segments"
    reads = ("prompts", "responses", "claims", "judgements")
    writes = "segments"

    def __init__(self, policy: LocalEngine, spec: RewardSpec, held_out: float = 0.1) -> None:
        if spec.num_classes != NUM_CLASSES:
            raise ValueError(f"Segments have {NUM_CLASSES} classes, but the reward model has {spec.num_classes}.")
        self.policy, self.spec, self.held_out = policy, spec, held_out

    def producer(self) -> dict[str, str]:
        return {"segments": f"{self.spec!r} {self.held_out}"}

    def __call__(
        self,
        task: Task,
        prompts: Sequence[Prompt],
        responses: Sequence[Response],
        claims: Sequence[Claim],
        judgements: Sequence[Judgement],
    ) -> Made:
        verdicts = {one.claim_id: one.verdict for one in judgements}
        by_response: dict[str, list[Claim]] = {}
        for claim in claims:
            by_response.setdefault(claim.response_id, []).append(claim)
        num_tokens = {prompt.id: self.policy.num_tokens(self.spec.asked(prompt)) for prompt in prompts}
        drops: Counter[str] = Counter()
        labelled = []
        for response in responses:
            found = segment_classes(by_response.get(response.id, []), verdicts, self.spec.heads)
            if not response.text.strip():
                drops["empty_response"] += 1
            elif found is None:
                drops["unknown"] += 1
            elif not any(any(classes) for classes in found.values()):
                drops["no_claims"] += 1
            else:
                ends = [end for _, end in segments_of(response.token_ids, self.policy.decode)]
                none = (NOTHING,) * len(self.spec.heads)
                labels = tuple(label for end in ends for label in found.get(end, none))
                held_out = is_held_out(response.prompt_id, self.held_out)
                of_prompt = num_tokens[response.prompt_id]
                ids = (response.id, response.prompt_id, response.token_ids)
                labelled.append(LabelledSegments(*ids, tuple(ends), labels, held_out, of_prompt))
        task.advance(len(prompts))
        return Made(labelled, drops)


def segment_classes(
    claims: Sequence[Claim], verdicts: Mapping[str, str], kinds: Sequence[str]
) -> dict[int, tuple[int, ...]] | None:
    """Return the class of each kind, by the segment's end; None if a fact has only unknown verdicts.

    Raises:
        ValueError: a claim of another kind.
    """
    facts: dict[tuple[int, str, str], list[str]] = {}
    for claim in claims:
        if claim.kind not in kinds:
            raise ValueError(
                f"Claim {claim.id!r} is of kind {claim.kind!r}, but the reward model knows {', '.join(kinds)}."
            )
        facts.setdefault((claim.end, claim.kind, claim.fact), []).append(verdicts[claim.id])
    found: dict[int, dict[str, int]] = {}
    for (end, kind, _), of_fact in facts.items():
        if "accepted" not in of_fact and "rejected" not in of_fact:
            return None
        holds = "accepted" in of_fact
        classes = found.setdefault(end, {})
        classes[kind] = max(classes.get(kind, NOTHING), SUPPORTED if holds else HALLUCINATED)
    return {end: tuple(classes.get(kind, NOTHING) for kind in kinds) for end, classes in found.items()}
