"""Finds objects of COCO's 80 classes in English text, as CHAIR does (arXiv 1809.02156, section 3.1; its published script)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rlaifv.metrics.coco_synonyms import ROWS
from rlaifv.metrics.plurals import singulars

# Pairs of words that CHAIR reads as one. "home plate" and "train track" are no class: as pairs they name nothing.
_PAIRS = (
    "air plane, baseball bat, baseball glove, bow tie, cell phone, fire hydrant, hair drier, home plate, hot dog, "
    "laptop computer, mobile phone, motor bike, motor cycle, parking meter, potted plant, sports ball, stop light, "
    "stop sign, stove top oven, street light, suit case, teddy bear, tennis racket, traffic light, traffic signal, "
    "train track, wine glass"
)
PAIRS = _PAIRS.split(", ")
ANIMALS = ("animal", "bear", "bird", "cat", "cow", "cub", "dog", "elephant", "giraffe", "horse", "sheep", "zebra")
VEHICLES = ("jet", "train")
_FULL_STOP = re.compile(r"(?<=[^\s.])\.(?=[\])}>\"'»”’]*(?:\s|$))")
_MARK = re.compile(r"\.{2,}|--|[,:](?!\d)|[;@#$%&*?!\"“”‘’«»„`()\[\]{}<>]")
_APOSTROPHE = re.compile(r"'(?!\w)|'(?=(?:s|d|m|ll|re|ve)\b)")


def tokens_of(text: str) -> list[str]:
    """Return words and punctuation marks, cut as the Treebank tokenizer cuts English sentences.

    Words keep hyphens ("hot-dog" is no "hot dog") and slashes; a possessive ending, a mark, and the full stop of each
    sentence are tokens of their own. Sentences end at a stop before white space, abbreviations included.

    >>> tokens_of("A dog's bench. It is a hot-dog, yes.")
    ['A', 'dog', "'s", 'bench', '.', 'It', 'is', 'a', 'hot-dog', ',', 'yes', '.']
    """
    return _APOSTROPHE.sub(" '", _MARK.sub(r" \g<0> ", _FULL_STOP.sub(" .", text))).split()


@dataclass(frozen=True)
class CocoObjects:
    """The words that count as objects.

    Attributes:
        class_of: the class of every word, class names included.
        pairs: what a pair of words is read as.
        singular: from plurals to the words above.
    """

    class_of: Mapping[str, str]
    pairs: Mapping[str, str]
    singular: Mapping[str, str]

    def pair_up(self, words: Sequence[str]) -> tuple[list[str], list[bool]]:
        """Words with known pairs as one, from left to right, and which of them were pairs. A matched pair uses up both."""
        found, paired, at = [], [], 0
        while at < len(words):
            pair = self.pairs.get(" ".join(words[at : at + 2])) if at + 1 < len(words) else None
            found.append(words[at] if pair is None else pair)
            paired.append(pair is not None)
            at += 1 if pair is None else 2
        return found, paired

    def known(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """Return the words that are objects, with their classes; no "seat" beside a "toilet", which it is part of."""
        if "toilet" in words:
            words = [word for word in words if word != "seat"]
        return [(word, self.class_of[word]) for word in words if word in self.class_of]

    def mentions(self, text: str) -> list[tuple[str, str]]:
        """Return every object that a text mentions, with its class, repetitions included, in order.

        >>> coco_objects().mentions("Two dogs and a baby bear near the wine glasses. A dog barks.")
        [('dog', 'dog'), ('bear', 'bear'), ('wine glass', 'wine glass'), ('dog', 'dog')]
        """
        words = [self.singular.get(token, token) for token in tokens_of(text.lower())]
        return self.known(self.pair_up(words)[0])


def read_synonyms(text: str, name: str, strip: bool) -> list[list[str]]:
    """Return the rows of a list of synonyms, class name first, words separated by a comma and a space.

    Args:
        text: the rows.
        name: what to call the text in a message.
        strip: False keeps a second space after a comma as part of the word, which then never matches (CHAIR's script).

    Raises:
        ValueError: a row has a comma without a space after it, or an empty word, or there is no row.
    """
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = line.strip().split(", ")
        if any("," in word.rstrip(",") or not word.strip(" ,") for word in row):
            raise ValueError(
                f"Row {number} of {name} has to be words separated by a comma and a space: {line.strip()!r:.80}."
            )
        rows.append([word.strip() for word in row] if strip else row)
    if not rows:
        raise ValueError(f"{name} has no row of synonyms.")
    return rows


def objects_from(rows: Sequence[Sequence[str]], pairs: Literal["fixed", "listed"]) -> CocoObjects:
    """Return the words of a list of synonyms. Of two rows with the same word the later has it, as in CHAIR's script.

    Args:
        rows: class name first.
        pairs: CHAIR's own pairs, or every word of the list that is two, as Object HalBench has it.
    """
    class_of = {word: row[0] for row in rows for word in row}
    listed = (
        PAIRS
        if pairs == "fixed"
        else [word for word in class_of if len(word.split()) > 1] + ["home plate", "train track"]
    )
    read_as = {pair: pair for pair in listed}
    read_as |= {f"{age} {animal}": animal for animal in ANIMALS for age in ("baby", "adult")}
    read_as |= {f"passenger {vehicle}": vehicle for vehicle in VEHICLES}
    # "glas" is what the script's singular of "glasses" and "glass" is.
    read_as |= {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
    words = [word for entry in (*class_of, *read_as, *read_as.values()) for word in entry.split() if word != "glas"]
    return CocoObjects(class_of, read_as, singulars([*class_of, *words]))


@cache
def coco_objects(pairs: Literal["fixed", "listed"] = "fixed") -> CocoObjects:
    """This project's own words for COCO's classes."""
    return objects_from(read_synonyms(ROWS, "the built-in list", strip=True), pairs)
