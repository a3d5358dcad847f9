"""Sentences of sampled answers, with their tokens and the verdicts on what they claim."""

from abc import abstractmethod
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from rlaifv.engines.local import LocalEngine
from rlaifv.records import Claim, Judgement, Pair, Prompt, Response
from rlaifv.stages.dividers.protocol import AnyDivider, NotDivided, divide_all, producer_of
from rlaifv.stages.pair import cap_pairs, usable_responses
from rlaifv.stages.segments import segments_of
from rlaifv.stages.stage import ITERATION, Made, Stage, Task


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a sampled answer.

    Attributes:
        response_id: of the answer.
        text: of the sentence.
        token_ids: from the end of the sentence before; white space between the two comes first.
        is_first: whether the answer begins with it. Its tokens then lack the space that others begin with.
        accepted: questions of its accepted claims.
        num_rejected: its rejected claims.
    """

    response_id: str
    text: str
    token_ids: tuple[int, ...]
    is_first: bool
    accepted: frozenset[str]
    num_rejected: int

    @property
    def is_supported(self) -> bool:
        """Whether it claims something, and nothing that was rejected."""
        return bool(self.accepted) and not self.num_rejected


@dataclass(frozen=True, slots=True)
class Answer:
    """A sampled answer as its sentences, and the tokens after the last one: its end token."""

    response: Response
    sentences: tuple[Sentence, ...]
    tail: tuple[int, ...]

    @property
    def num_rejected(self) -> int:
        """Rejected claims of all sentences."""
        return sum(sentence.num_rejected for sentence in self.sentences)


class DivideSentences(Stage):
    """Divide answers into claims, sentence by sentence, so that every claim knows where its sentence ends (`Claim.end`).

    A sentence is divided as an answer of its own, so a divider cannot look up in the sentences before what "it" is.
    `not_divided` is as in `rlaifv.stages.divide.Divide`: an answer is left out if the divider fails at any of its sentences.
    """

    name = "divide"
    reads = ("prompts", "responses")
    writes = "claims"

    def __init__(self, policy: LocalEngine, divider: AnyDivider) -> None:
        self.policy, self.divider = policy, divider

    def producer(self) -> dict[str, str]:
        return {"divider": f"sentences {producer_of(self.divider)}"}

    def __call__(self, task: Task, prompts: Sequence[Prompt], responses: Sequence[Response]) -> Made:
        by_id = {prompt.id: prompt for prompt in prompts}
        found = [segments_of(response.token_ids, self.policy.decode, parts=False) for response in responses]
        asked = [
            (by_id[response.prompt_id], replace(response, text=text))
            for response, some in zip(responses, found, strict=True)
            for text, _ in some
        ]
        divided = iter(divide_all(self.divider, asked))
        claims: list[Claim] = []
        num_failed = 0
        for response, some in zip(responses, found, strict=True):
            own: list[Claim] = []
            failed = False
            for _, end in some:
                result = next(divided)
                if isinstance(result, NotDivided):
                    failed = True
                else:
                    own += [replace(claim, end=end) for claim in result]
            if not failed:
                claims += [replace(claim, id=f"{response.id}/{k}") for k, claim in enumerate(own)]
            num_failed += failed and response.finished
        task.advance(len(prompts))
        return Made(claims, {"not_divided": num_failed} if num_failed else {})


class SentencePairing(Stage):
    """What stages share that make pairs of sentences; subclasses define `candidates`.

    Args:
        policy: decodes answers.
        max_pairs_per_prompt: how many pairs of one prompt are kept; more are sampled uniformly.
        chosen_from: another model that gave some answers, which is refused.

    Raises:
        ValueError: a cap below 1, or another model. When called: a claim that does not know its sentence.
    """

    name = "pair"
    reads = ("responses", "judgements", "claims")
    writes = "preferences"
    unit = ITERATION
    is_stored = False

    def __init__(self, policy: LocalEngine, max_pairs_per_prompt: int, chosen_from: object | None) -> None:
        if chosen_from is not None:
            raise ValueError("Sentences come from the policy's own answers: set iteration.chosen_from=null.")
        if max_pairs_per_prompt < 1:
            raise ValueError(f"max_pairs_per_prompt must be at least 1, but it is {max_pairs_per_prompt}.")
        self.policy, self.max_pairs_per_prompt = policy, max_pairs_per_prompt

    @abstractmethod
    def candidates(self, group: Sequence[Answer], drops: Counter[str]) -> list[Pair]:
        """Return all pairs of the answers to a prompt, and count what gives none in `drops`."""

    def __call__(
        self, task: Task, responses: Sequence[Response], judgements: Sequence[Judgement], claims: Sequence[Claim]
    ) -> Made:
        drops: Counter[str] = Counter()
        groups = answers_of(responses, judgements, claims, self.policy.decode, drops)
        pairs: list[Pair] = []
        for prompt_id, group in groups.items():
            pairs += cap_pairs(self.candidates(group, drops), prompt_id, self.max_pairs_per_prompt, task.seed, drops)
        # Responses that were not divided have no claims either, and are counted already.
        drops["no_claims"] -= task.drops.get("not_divided", 0)
        return Made(pairs, +drops)


def answers_of(
    responses: Sequence[Response],
    judgements: Sequence[Judgement],
    claims: Sequence[Claim],
    decode: Callable[[Sequence[int]], str],
    drops: Counter[str],
) -> dict[str, list[Answer]]:
    """Return the answers of each prompt by sentence. Others are counted in `drops`, see `usable_responses`.

    Raises:
        ValueError: a claim that does not know its sentence.
    """
    verdicts = {one.claim_id: one.verdict for one in judgements}
    by_response: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.end < 0:
            raise ValueError(
                f"Claim {claim.id!r} does not say in which sentence it is; set method.stages.divide._target_="
                "rlaifv.stages.sentences.DivideSentences, which divides answers sentence by sentence."
            )
        if claim.id in verdicts:
            by_response.setdefault(claim.response_id, []).append(claim)
    groups = usable_responses(responses, judgements, by_response, drops)
    return {
        prompt_id: [answer_of(response, by_response[response.id], verdicts, decode) for response in group]
        for prompt_id, group in groups.items()
    }


def answer_of(
    response: Response,
    claims: Sequence[Claim],
    verdicts: Mapping[str, str],
    decode: Callable[[Sequence[int]], str],
) -> Answer:
    """Return an answer by sentence. A claim belongs to the sentence that its `end` lies in."""
    found = segments_of(response.token_ids, decode, parts=False)
    ends = [end for _, end in found]
    accepted: list[set[str]] = [set() for _ in ends]
    num_rejected = [0] * len(ends)
    for claim in claims:
        place = bisect_left(ends, claim.end)
        if verdicts[claim.id] == "accepted":
            accepted[place].add(claim.question)
        else:
            num_rejected[place] += verdicts[claim.id] == "rejected"
    starts = [0, *(end + 1 for end in ends)]
    sentences = tuple(
        Sentence(
            response.id,
            text,
            response.token_ids[starts[k] : end + 1],
            k == 0,
            frozenset(accepted[k]),
            num_rejected[k],
        )
        for k, (text, end) in enumerate(found)
    )
    return Answer(response, sentences, response.token_ids[starts[-1] :])


def closest(sentence: Sentence, candidates: Sequence[Sentence]) -> Sentence | None:
    """Return the candidate that has most tokens in common with a sentence, in order; of equal ones the first.

    So a pair differs where the sentence is wrong rather than in what it is about. None if there is no candidate.
    """
    matcher: SequenceMatcher[int] = SequenceMatcher(None, (), sentence.token_ids, autojunk=False)

    def likeness(candidate: Sentence) -> float:
        matcher.set_seq1(candidate.token_ids)
        return matcher.ratio()

    return max(candidates, key=likeness, default=None)


def distinct(sentences: Sequence[Sentence]) -> list[Sentence]:
    """Return the sentences without those that repeat the tokens of an earlier one."""
    return list({sentence.token_ids: sentence for sentence in reversed(sentences)}.values())[::-1]
