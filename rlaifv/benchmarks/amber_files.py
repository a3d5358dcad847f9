"""Read AMBER's files: annotations, word lists, and stand-ins for its tagger and word vectors."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rlaifv.benchmarks.files import digest, field_of, match_ids, read_json, read_lists, read_rows, read_text
from rlaifv.metrics.amber_discriminative import Kind
from rlaifv.metrics.amber_generative import Lexicon

# The annotations' types of questions. Two of them are relations: one where all truths are yes, one where all are no.
TYPES: dict[str, Kind] = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
OFFICIAL_COUNTS = (1004, 14216)


@dataclass(frozen=True, slots=True)
class Described:
    """The annotation of a description: what its image shows, and what people would wrongly think of."""

    truth: tuple[str, ...]
    hallu: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """The annotation of a question. `truth` is "yes" or "no"."""

    kind: Kind
    truth: str


@dataclass(frozen=True, slots=True)
class Annotations:
    """All annotations by id, in the order of the file."""

    described: dict[str, Described]
    asked: dict[str, Asked]
    lexicon: Lexicon

    @property
    def counts(self) -> tuple[int, int]:
        """Numbers of descriptions and questions."""
        return len(self.described), len(self.asked)


def read_annotations(folder: Path) -> Annotations:
    """Read annotations.json, relation.json and safe_words.txt.

    Raises:
        ValueError: one is missing or not of its form; the message names file and row.
    """
    for name in ("annotations.json", "relation.json", "safe_words.txt"):
        if not (folder / name).is_file():
            raise ValueError(
                f"annotations={folder} has to be AMBER's data directory, with annotations.json, relation.json and "
                f"safe_words.txt, but it has no {name}."
            )
    relations = read_lists(folder / "relation.json", "words", "word")
    lexicon = Lexicon(relations, _read_safe_words(folder / "safe_words.txt"))
    path = folder / "annotations.json"
    described: dict[str, Described] = {}
    asked: dict[str, Asked] = {}
    for number, row in enumerate(read_rows(path), start=1):
        one = str(field_of(row, "id", (int, str), number, path))
        kind = field_of(row, "type", str, number, path)
        if one in described or one in asked:
            raise ValueError(f"Row {number} of {path} has the id {one}, as a row before it.")
        if kind == "generative":
            truth, hallu = (_words(row, name, number, path, lexicon) for name in ("truth", "hallu"))
            described[one] = Described(truth, hallu)
        elif kind in TYPES:
            truth = field_of(row, "truth", str, number, path)
            if truth not in ("yes", "no"):
                raise ValueError(
                    f"Field 'truth' in row {number} of {path} has to be 'yes' or 'no', but it is {truth!r}."
                )
            asked[one] = Asked(TYPES[kind], truth)
        else:
            raise ValueError(f"Row {number} of {path} has the type {kind!r}; AMBER has generative, {', '.join(TYPES)}.")
    return Annotations(described, asked, lexicon)


def read_nouns(path: Path, described: Collection[str], answered: Collection[str]) -> dict[str, list[str]]:
    """Return the nouns of every answered description, by id, from {id: [noun, …]}.

    Raises:
        ValueError: the file is not of its form, has an id that is no description's, or lacks an answered one.
    """
    found = read_lists(path, "nouns", "id")
    match_ids(described, list(found), path, allow_incomplete=True, what="entry")
    # Half of the descriptions read by a tagger and half without would be no protocol at all: there is no leave to go on.
    if missing := [one for one in answered if one not in found]:
        raise ValueError(f"{path} has no nouns for {len(missing)} of the answers, the first of which is {missing[0]}.")
    return found


class SimilarityTable:
    """Similarities of words from {"a|b": value}: symmetric, 1 for the same word, 0 for what is not listed."""

    def __init__(self, path: Path) -> None:
        """Read the table.

        Raises:
            ValueError: the file is not of its form; the message names the pair.
        """
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError(
                f'{path} has to be a JSON object of numbers by pairs of words, as in {{"boat|ship": 0.81}}.'
            )
        self.values: dict[tuple[str, str], float] = {}
        for pair, value in found.items():
            one, bar, other = pair.partition("|")
            if not one or not bar or not other or "|" in other:
                raise ValueError(f"The key {pair!r} of {path} has to be two words with a | in between.")
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not -1.001 <= value <= 1.001:
                raise ValueError(f"The similarity of {pair!r} in {path} has to be in [-1, 1], but it is {value!r}.")
            if self.values.get((one, other), value) != value:
                raise ValueError(
                    f"{path} has two similarities of {one!r} and {other!r}: {self.values[one, other]} and {value}."
                )
            self.values[one, other] = self.values[other, one] = value
        self.sha256 = digest(path)

    def __call__(self, one: str, other: str) -> float:
        """Return the similarity of two words."""
        return 1.0 if one == other else self.values.get((one, other), 0.0)


def _read_safe_words(path: Path) -> frozenset[str]:
    lines = read_text(path).split("\n")
    return frozenset(word for line in lines if (word := line.rstrip("\r")))


def _words(row: dict[str, object], name: str, number: int, path: Path, lexicon: Lexicon) -> tuple[str, ...]:
    words = field_of(row, name, list, number, path)
    for word in words:
        if not isinstance(word, str) or word not in lexicon.relations:
            raise ValueError(
                f"Field {name!r} in row {number} of {path} has {word!r}, which is no key of relation.json."
            )
    return tuple(words)
