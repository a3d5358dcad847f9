"""The content of a statement: its content words, its numbers, and whether it is negated."""

import re


def _table(words: str) -> tuple[str, ...]:
    return tuple(words.split())


_EMPTY = _table("""a an the this that these those there here it its he his him she her they their them i we you one s
    of and or is are was were be been being am has have had having do does did can could will would must may might image
    picture photo photograph shown visible seen see""")
_NEGATIONS = _table("no not none nobody nothing never neither nor without cannot hardly")
_DIGITS = _table("zero one two three four five six seven eight nine ten eleven twelve")


def content_words(text: str) -> frozenset[str]:
    """Return a statement's content words as stems, numbers as digits; no articles, auxiliaries or pronouns.

    Prepositions are kept, since "on the table" and "under the table" differ only in them.
    """
    words = re.findall(r"\d+(?:[.:,]\d+)*|\w+", _spelled_out(text))
    said = [word for word in words if word not in _EMPTY + _NEGATIONS]
    return frozenset(str(_DIGITS.index(word)) if word in _DIGITS else _stem(word) for word in said)


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending)
            break
    if len(word) > 3 and word[-1] == "e":
        word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return f"{word[:-1]}i" if word.endswith("y") else word


def numbers(words: frozenset[str]) -> set[str]:
    """Return the numbers among content words, as digits."""
    return {word for word in words if word[0].isdigit()}


def is_negated(text: str) -> bool:
    """Return whether a statement or a question is negated."""
    return any(word in _NEGATIONS for word in re.findall(r"\w+", _spelled_out(text)))


def _spelled_out(text: str) -> str:
    return text.lower().replace("’", "'").replace("n't", " not")
