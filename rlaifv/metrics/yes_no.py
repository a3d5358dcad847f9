"""Parsers of yes/no answers, as benchmark scripts have them. Their differences change scores by whole points.

A reader returns "yes", "no", or "" for what it cannot read.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from rlaifv.metrics.by_row import RowMetric

Reader = Callable[[str], str]
# What VLMEvalKit takes for punctuation: an asterisk or a colon stays in its word.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def reader(readers: Mapping[str, Reader], parser: str, benchmark: str) -> Reader:
    """Return the reader of a name.

    Raises:
        ValueError: the benchmark has none of it.
    """
    if parser not in readers:
        raise ValueError(f"{benchmark} has the parsers {', '.join(readers)}, but got {parser!r}.")
    return readers[parser]


class YesNoMetric(RowMetric):
    """Base of metrics over yes/no questions, whose answers are read by one of several parsers.

    Class attributes:
        readers: parsers by name.
        benchmark: name for messages.
    """

    readers: ClassVar[Mapping[str, Reader]]
    benchmark: ClassVar[str]

    def __init__(self, num_rows: int, parser: str = "official", **kwargs: Any) -> None:
        """Start without answers.

        Args:
            num_rows: number of questions in all.
            parser: how answers are read, a key of `readers`.
            kwargs: options of `torchmetrics.Metric`.

        Raises:
            ValueError: there is no such parser.
        """
        super().__init__(num_rows, **kwargs)
        self.read = reader(self.readers, parser, self.benchmark)
        self.parser = parser


def whole_word(text: str) -> str:
    """VLMEvalKit's reading: the word yes without the word no, or the reverse, after punctuation is taken away.

    >>> [whole_word(text) for text in ("No!", "Yes, not a problem", "yes or no", "**No**")]
    ['no', 'yes', '', '']
    """
    words = set(_without_punctuation(text.lower()).split())
    if ("yes" in words) == ("no" in words):
        return ""
    return "yes" if "yes" in words else "no"


def exact(text: str) -> str:
    """Read strictly: only yes or no, in any case, with optional surrounding spaces and a final full stop.

    >>> [exact(text) for text in ("Yes.", " NO", "No, it is not")]
    ['yes', 'no', '']
    """
    word = text.strip().lower().removesuffix(".")
    return word if word in ("yes", "no") else ""


def first_found(text: str) -> str:
    """Return yes if "yes" is anywhere in the text, even within a word; else no if "no" is.

    >>> [first_found(text) for text in ("Eyes", "I know", "Maybe")]
    ['yes', 'no', '']
    """
    return next((word for word in ("yes", "no") if word in text.lower()), "")


def _without_punctuation(text: str) -> str:
    """Remove punctuation beside spaces, replace other punctuation by spaces, and remove full stops unless a digit follows."""
    has_number = re.search(r"\d,\d", text) is not None
    cleaned = text
    for sign in PUNCTUATION:
        vanishes = has_number or f"{sign} " in text or f" {sign}" in text
        cleaned = cleaned.replace(sign, "" if vanishes else " ")
    return re.sub(r"\.(?!\d)", "", cleaned)
