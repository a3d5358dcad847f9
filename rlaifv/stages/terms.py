"""Terms of a reward: `reward = sum of weight * term`, each of which is stored and reported alone.

A term gives an answer one value, which lands on its last token, or one for each segment, which lands on the token that ends it
(FGAIF).
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from rlaifv.records import AnswerScore, Prompt, Response
from rlaifv.stages.scalarise import Normalisation, Scalariser, normalise, scalarise

# (place of a token, reward) of one answer.
Placed = list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What terms see of an answer.

    Attributes:
        prompt: that it answers.
        response: itself.
        verdicts: number of its distinct claims by verdict; empty if no term needs claims.
        scores: of each reward model, by its name; empty if no term needs them.
    """

    prompt: Prompt
    response: Response
    verdicts: Counter[str]
    scores: Mapping[str, AnswerScore]

    @property
    def last(self) -> int:
        """Place of its last token."""
        return len(self.response.token_ids) - 1

    def score(self, name: str) -> float:
        """Return a score of the whole answer, named model/head.

        Raises:
            ValueError: there is no such score, or it is of segments.
        """
        model, _, head = name.partition("/")
        found = self.scores.get(model)
        if found is None or head not in found.names:
            known = [f"{one}/{head}" for one, some in self.scores.items() for head in some.names]
            raise ValueError(f"There is no score {name!r}; the reward models give {', '.join(known) or 'none'}.")
        if len(found.values) != len(found.names):
            raise ValueError(f"The reward model {model!r} scores segments: use the term Segments for it.")
        return found.values[found.names.index(head)]


def by_response(scores: Sequence[AnswerScore]) -> dict[str, dict[str, AnswerScore]]:
    """Return the scores of each response by the name of the reward model."""
    found: dict[str, dict[str, AnswerScore]] = {}
    for score in scores:
        found.setdefault(score.response_id, {})[score.model] = score
    return found


@dataclass(frozen=True, kw_only=True)
class Term(ABC):
    """A part of the reward.

    Attributes:
        weight: factor of its values.
        needs_claims: whether answers have to be divided and judged.
        needs_scores: whether reward models have to score them.
    """

    weight: float = 1.0
    needs_claims: ClassVar[bool] = False
    needs_scores: ClassVar[bool] = False

    @abstractmethod
    def values(self, answers: Sequence[Answer]) -> list[Placed]:
        """Return the values of all answers of an iteration, before the weight."""

    def __call__(self, answers: Sequence[Answer]) -> list[Placed]:
        """Return the weighted values."""
        return [[(place, self.weight * value) for place, value in some] for some in self.values(answers)]


def _at_end(answers: Sequence[Answer], values: Sequence[float]) -> list[Placed]:
    return [[(answer.last, value)] for answer, value in zip(answers, values, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Claims(Term):
    """Number of distinct claims with a verdict: accepted, which pays for coverage, or rejected, with a weight below 0."""

    verdict: str
    needs_claims: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.verdict not in ("accepted", "rejected"):
            raise ValueError(f"A claim's verdict is accepted or rejected, but the term counts {self.verdict!r}.")

    def values(self, answers: Sequence[Answer]) -> list[Placed]:
        return _at_end(answers, [float(answer.verdicts[self.verdict]) for answer in answers])


@dataclass(frozen=True, kw_only=True)
class Supported(Term):
    """Accepted claims as a share of the distinct claims with a verdict (FLAME's reward of facts); 0 without any."""

    needs_claims: ClassVar[bool] = True

    def values(self, answers: Sequence[Answer]) -> list[Placed]:
        counts = [(one.verdicts["accepted"], one.verdicts["accepted"] + one.verdicts["rejected"]) for one in answers]
        return _at_end(answers, [accepted / max(known, 1) for accepted, known in counts])


@dataclass(frozen=True, kw_only=True)
class NoEnd(Term):
    """1 for an answer that was cut before it ended (Fact-RLHF takes 8 off)."""

    def values(self, answers: Sequence[Answer]) -> list[Placed]:
        return _at_end(answers, [float(not answer.response.finished) for answer in answers])


@dataclass(frozen=True, kw_only=True)
class Length(Term):
    """Tokens of the answer, as a share of the longest that it may be (Fact-RLHF: weight -10)."""

    longest: int

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ValueError(f"The longest answer has at least one token, but longest is {self.longest}.")

    def values(self, answers: Sequence[Answer]) -> list[Placed]:
        return _at_end(answers, [len(answer.response.token_ids) / self.longest for answer in answers])


@dataclass(frozen=True, kw_only=True)
class RightAnswer(Term):
    """Whether the answer is the prompt's right one, as Fact-RLHF has it; 0 for prompts without a right answer.

    A letter counts 1 if the answer starts with it. Of yes and no, only a right "no" counts: 0.5 for an answer that starts with
    no, -0.5 for one that starts with yes, and 0 where yes is right, so that saying yes is never rewarded.
    """

    def values(self, answers: Sequence[Answer]) -> list[Placed]:
        return _at_end(answers, [_correctness(one.response.text, one.prompt.answer) for one in answers])


def _correctness(text: str, right: str) -> float:
    """Return the value of an answer.

    >>> _correctness("B. A dog.", "B"), _correctness("Both.", "B"), _correctness("Yes.", "no"), _correctness("Yes.", "yes")
    (1.0, 0.0, -0.5, 0.0)
    """
    found = re.match(r"\W*(\w+)", text)
    first, wanted = found[1].lower() if found else "", right.strip().strip("().[]").lower()
    if not wanted or wanted == "yes":
        return 0.0
    if wanted == "no":
        return {"no": 0.5, "yes": -0.5}.get(first, 0.0)
    return float(first == wanted or text.strip().rstrip(".").lower() == wanted)


@dataclass(frozen=True, kw_only=True)
class Format(Term):
    """1 for an answer that a regular expression matches as a whole."""

    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"The pattern {self.pattern!r} of the term Format is no regular expression: {error}."
            ) from error

    def values(self, answers: Sequence[Answer]) -> list[Placed]:
        pattern = re.compile(self.pattern, re.DOTALL)
        return _at_end(
            answers, [float(pattern.fullmatch(answer.response.text.strip()) is not None) for answer in answers]
        )


@dataclass(frozen=True, kw_only=True)
class Score(Term):
    """A reward model's score of the whole answer.

    Attributes:
        name: model/head.
        clip: most that a score may be from 0, after normalisation; 0 clips nothing.
        normalise: none, standard or sigmoid, over the answers of the iteration.
    """

    name: str
    clip: float = 0.0
    normalise: Normalisation = "none"
    needs_scores: ClassVar[bool] = True

    def values(self, answers: Sequence[Answer]) -> list[Placed]:
        found = torch.tensor([[answer.score(self.name)] for answer in answers], dtype=torch.float64)
        scores = normalise(found, self.normalise)[:, 0]
        return _at_end(answers, (scores.clamp(-self.clip, self.clip) if self.clip else scores).tolist())


@dataclass(frozen=True, kw_only=True)
class Scalarised(Term):
    """Several scores of the whole answer as one (MORLAIF), see `rlaifv.stages.scalarise`.

    Attributes:
        weights: of each score, by model and head.
        how: the scalariser.
        normalise: none, standard or sigmoid, over the answers of the iteration.
        temperature: of soft_max_min.
        penalty: of uncertainty_weighted.
        share: of lower_quantile.
    """

    weights: Mapping[str, Mapping[str, float]]
    how: Scalariser = "linear"
    normalise: Normalisation = "standard"
    temperature: float = 1.0
    penalty: float = 0.5
    share: float = 1 / 3
    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self._by_name:
            raise ValueError("A scalariser needs weights of one score or more.")
        self._reduce(torch.ones(1, len(self._by_name), dtype=torch.float64))

    @property
    def _by_name(self) -> dict[str, float]:
        return {f"{model}/{head}": weight for model, some in self.weights.items() for head, weight in some.items()}

    def _reduce(self, scores: torch.Tensor) -> torch.Tensor:
        weights = torch.tensor(list(self._by_name.values()), dtype=torch.float64)
        return scalarise(scores, weights, self.how, self.temperature, self.penalty, self.share)

    def values(self, answers: Sequence[Answer]) -> list[Placed]:
        names = self._by_name
        scores = torch.tensor([[answer.score(name) for name in names] for answer in answers], dtype=torch.float64)
        return _at_end(answers, self._reduce(normalise(scores, self.normalise)).tolist())


@dataclass(frozen=True, kw_only=True)
class Segments(Term):
    """A reward model's classes of segments: nothing is claimed (0), supported or hallucinated.

    Attributes:
        model: name of the reward model.
        supported: reward where a kind is supported.
        hallucinated: reward where it is hallucinated.
        kinds: weight of each kind; kinds that are left out weigh 1.
        dense: whether a segment's value lands on its last token; if not, their sum lands on the answer's last token.
    """

    model: str
    supported: float = 1.0
    hallucinated: float = -1.0
    kinds: Mapping[str, float] = field(default_factory=dict)
    dense: bool = True
    needs_scores: ClassVar[bool] = True

    def values(self, answers: Sequence[Answer]) -> list[Placed]:
        return [self._of(answer) for answer in answers]

    def _of(self, answer: Answer) -> Placed:
        found = answer.scores.get(self.model)
        if found is None:
            raise ValueError(
                f"There is no reward model {self.model!r}; there are {', '.join(answer.scores) or 'none'}."
            )
        if unknown := sorted({*self.kinds} - {*found.names}):
            raise ValueError(f"The reward model {self.model!r} knows {', '.join(found.names)}, but not {unknown[0]!r}.")
        weights = [self.kinds.get(name, 1.0) for name in found.names]
        size = len(weights)
        rewards = [self.supported * v if v > 0 else -self.hallucinated * v for v in found.values]
        placed = [
            (end, sum(w * r for w, r in zip(weights, rewards[k * size : (k + 1) * size], strict=True)))
            for k, end in enumerate(found.ends)
        ]
        return placed if self.dense else [(answer.last, sum(value for _, value in placed))]
