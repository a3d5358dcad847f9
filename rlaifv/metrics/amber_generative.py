"""AMBER, generative: how much of a description is made up, and how much of the image it covers.

AMBER (arXiv 2311.07397) defines means over responses; its script, which everyone reports, sums over responses before it
divides, and so does this module. Nouns and similarities come from outside: the script takes them from a tagger and from word
vectors, `rlaifv.metrics.nouns` finds nouns without.

Shapes: R responses.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from rlaifv.metrics.by_row import RowMetric

THRESHOLD = 0.8  # similar is what lies above it
SMOOTHING = 0.001  # what the script's denominators start from
COUNTS = ("nouns", "hallucinated", "truths", "covered", "hallus", "thought_of")

Similarity = Callable[[str, str], float]


def identity(one: str, other: str) -> float:
    """Return the similarity to use without word vectors: 1 for the same word, 0 for any other."""
    return 1.0 if one == other else 0.0


@dataclass(frozen=True, slots=True)
class Lexicon:
    """AMBER's words.

    Attributes:
        relations: the words that go with a word; every word that annotations name is a key.
        safe_words: nouns that are never right or wrong.
        vocabulary: keys and values of the relations; other nouns do not count.
    """

    relations: Mapping[str, Sequence[str]]
    safe_words: frozenset[str] = frozenset()
    vocabulary: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        words = {*self.relations, *(word for related in self.relations.values() for word in related)}
        object.__setattr__(self, "vocabulary", frozenset(words))


def count_nouns(
    nouns: Sequence[str],
    truth: Sequence[str],
    hallu: Sequence[str],
    lexicon: Lexicon,
    similarity: Similarity = identity,
) -> tuple[int, int, int, int, int, int]:
    """Return what the nouns of one response amount to.

    Args:
        nouns: in order, as often as they occur; those outside of the vocabulary are left out.
        truth: what the image shows.
        hallu: what people would wrongly think of.
        lexicon: relations and safe words.
        similarity: of two words.

    Returns:
        The numbers of `COUNTS`: nouns, hallucinated ones, words of `truth` and how many of them are covered, words of `hallu`
        and how many of them were thought of.

    Raises:
        ValueError: a word of `truth` or `hallu` is no key of the relations.

    >>> count_nouns(["boat", "gull", "gull"], ["boat", "pier"], ["gull"], Lexicon({"boat": (), "pier": (), "gull": ()}))
    (3, 2, 2, 1, 1, 1)
    """
    safe, wrong = _candidates(truth, lexicon), _candidates(hallu, lexicon)
    mentioned = [noun for noun in nouns if noun in lexicon.vocabulary]
    covered: set[int] = set()
    thought_of: set[int | None] = set()
    hallucinated = 0
    for noun in mentioned:
        if noun in lexicon.safe_words:
            continue
        same = _same(noun, safe)
        if same is not None:
            covered.add(same)
            continue
        # The second search also runs where the first one found something, and may find another word (quirk A6).
        thought_of |= {_same(noun, wrong), _similar(noun, wrong, similarity)} - {None}
        similar = _similar(noun, safe, similarity)
        if similar is None:
            hallucinated += 1
        else:
            covered.add(similar)
    return len(mentioned), hallucinated, len(truth), len(covered), len(hallu), len(thought_of)


def generative_scores(counts: Sequence[Sequence[int]], rounded: bool = True) -> dict[str, float]:
    """CHAIR, Cover, Hal and Cog from the counts of R responses, as in `AMBERGenerative`.

    Raises:
        ValueError: there is no response.

    One clean response of one prints 0.1 (quirk A8):

    >>> generative_scores([(2, 0, 2, 2, 1, 0)])
    {'chair': 0.0, 'cover': 100.0, 'hal': 0.1, 'cog': 0.0}
    """
    if not counts:
        raise ValueError("hal is undefined: there is no response.")
    nouns, hallucinated, truths, covered, hallus, thought_of = (sum(column) for column in zip(*counts, strict=True))
    clean = sum(row[1] == 0 for row in counts)
    scores = {
        "chair": hallucinated / (SMOOTHING + nouns) * 100,
        "cover": covered / (SMOOTHING + truths) * 100,
        "hal": 100 - clean / (SMOOTHING + len(counts)) * 100,
        "cog": thought_of / (SMOOTHING + hallus) * 100,
    }
    return {name: round(score, 1) if rounded else score for name, score in scores.items()}


class AMBERGenerative(RowMetric):
    """AMBER's four numbers for descriptions, in percent.

    - `chair`: hallucinated nouns / nouns of the vocabulary; lower is better
    - `cover`: annotated objects that are mentioned / annotated objects; higher is better
    - `hal`: responses with at least one hallucinated noun / responses; lower is better
    - `cog`: objects that people would wrongly think of and that are mentioned / such objects; lower is better

    All are sums over responses, divided once, each denominator 0.001 too large, and rounded to one decimal, as by AMBER's
    script (arXiv 2311.07397). The number of responses is one of those denominators, so that few responses bias `hal`: a single
    clean one gets 0.1. A model that says nothing gets 0 in everything; read `cover` beside the rest.

    The image shows a harbor with a boat; "gull" is what one would expect. Three nouns count, of which one is made up:

    >>> lexicon = Lexicon({"boat": ["ship"], "harbor": ["pier"], "gull": ["bird"]})
    >>> metric = AMBERGenerative(num_rows=1, lexicon=lexicon)
    >>> metric.update([["ship", "pier", "sky", "bird"]], truths=[["harbor", "boat"]], hallus=[["gull"]])
    >>> {name: value.item() for name, value in metric.compute().items()}
    {'chair': 33.3, 'cover': 100.0, 'hal': 100.0, 'cog': 99.9}
    """

    columns = COUNTS
    higher_is_better: ClassVar[dict[str, bool]] = {  # type: ignore[assignment, misc]
        "chair": False,
        "cover": True,
        "hal": False,
        "cog": False,
    }

    def __init__(
        self,
        num_rows: int,
        lexicon: Lexicon,
        similarity: Similarity = identity,
        rounded: bool = True,
        **kwargs: Any,
    ) -> None:
        """Start with no response.

        Args:
            num_rows: how many responses there are to be in all.
            lexicon: relations and safe words.
            similarity: of two words.
            rounded: to one decimal.
            kwargs: options of `torchmetrics.Metric`.
        """
        super().__init__(num_rows, **kwargs)
        self.lexicon = lexicon
        self.similarity = similarity
        self.rounded = rounded

    def update(
        self,
        nouns: Sequence[Sequence[str]],
        truths: Sequence[Sequence[str]],
        hallus: Sequence[Sequence[str]],
        rows: Sequence[int] | None = None,
    ) -> None:
        """Add R responses.

        Args:
            nouns: the nouns of each.
            truths: what each image shows.
            hallus: what people would wrongly think of at each.
            rows: places of the responses among all; in order from the first if not given.

        Raises:
            ValueError: the arguments differ in length, an annotated word has no relations, or a row is unknown or came with
                other counts.
        """
        numbers = self._numbers(rows, nouns=nouns, truths=truths, hallus=hallus)
        parts = zip(nouns, truths, hallus, strict=True)
        self._put(numbers, [count_nouns(*part, self.lexicon, self.similarity) for part in parts])

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the four names above.

        Raises:
            ValueError: there is no response.
        """
        return self._tensors(generative_scores(self._counts(), self.rounded))


def _candidates(words: Sequence[str], lexicon: Lexicon) -> list[tuple[str, int]]:
    """Return what stands for the words of an annotation, with the place of each.

    Related words come before the words themselves (quirk A3).
    """
    if unknown := [word for word in words if word not in lexicon.relations]:
        raise ValueError(f"The annotated word {unknown[0]!r} is no key of the relations.")
    related = [(other, place) for place, word in enumerate(words) for other in lexicon.relations[word]]
    return related + [(word, place) for place, word in enumerate(words)]


def _same(noun: str, candidates: Sequence[tuple[str, int]]) -> int | None:
    return next((place for word, place in candidates if word == noun), None)


def _similar(noun: str, candidates: Sequence[tuple[str, int]], similarity: Similarity) -> int | None:
    return next((place for word, place in candidates if similarity(noun, word) > THRESHOLD), None)
