"""Facts of a segment by kind: whether things exist, what they are like, and how they stand to each other (FGAIF)."""

from typing import NamedTuple, Protocol

from rlaifv.stages.dividers.english import (
    BE,
    EDGE,
    NEGATIONS,
    PREPOSITIONS,
    QUANTIFIERS,
    bare_words,
    finite,
    head,
    is_participle,
)
from rlaifv.stages.dividers.rules import to_claims, to_question

KINDS = ("existence", "attribute", "relation")
# Words that are no part of a thing's name; a claim with one stays whole.
_LOOSE = {"only", "here", "also", "there", "just"}


class Fact(NamedTuple):
    """A fact that a segment claims; it holds if any of its questions is answered with yes.

    kind: one of `KINDS`
    text: the claim
    questions: yes/no questions, one or more
    """

    kind: str
    text: str
    questions: tuple[str, ...]


class FactFinder(Protocol):
    """Finds the facts that a segment of an answer claims, in order. `producer` names what they depend on."""

    producer: str

    def __call__(self, segment: str) -> list[Fact]: ...


class RuleFacts:
    """Facts of plain English, from the claims of the rules divider.

    "There is a brown dog on the sofa." claims that there is a dog (existence), that there is a brown dog (attribute), and all
    of it (relation). Other claims are attributes where a form of be is followed by no place and no activity, else relations.
    """

    producer = "RuleFacts"

    def __call__(self, segment: str) -> list[Fact]:
        """Return the facts of a segment.

        >>> [(fact.kind, fact.text) for fact in RuleFacts()("There is a red cup on it.")]
        [('existence', 'There is a cup.'), ('attribute', 'There is a red cup.'), ('relation', 'There is a red cup on it.')]
        >>> [fact.kind for fact in RuleFacts()("The dog is brown. The man holds a cup.")]
        ['attribute', 'relation']
        """
        return [fact for claim in to_claims(segment) for fact in _facts(claim)]


def _facts(claim: str) -> list[Fact]:
    words = [word.strip(EDGE + ".") for word in claim.split()]
    words = [word for word in words if word]
    opening, phrase = words[:2], words[2:]
    named = phrase[: len(head(bare_words(phrase)))]
    is_there = bare_words(words[:1]) == ["there"] and bool(phrase)
    if is_there and NEGATIONS.isdisjoint(bare_words(words)) and _LOOSE.isdisjoint(bare_words(named)):
        counted = len(named) > 1 and bare_words(named[:1])[0] in QUANTIFIERS | {"some"}
        thing = [_article(named[0], named[-1]), named[-1]] if counted else named[-1:]
        found = [("existence", [*opening, *thing])]
        if len(named) > len(thing):
            found.append(("attribute", [*opening, *named]))
        if len(phrase) > len(named):
            found.append(("relation", words))
    else:
        verbs = finite(words)
        rest = bare_words(words[verbs[0] :]) if verbs and not is_there else []
        is_state = bool(rest) and rest[0] in BE
        is_placed = any(word in PREPOSITIONS or is_participle(word) for word in rest[1:])
        found = [("attribute" if is_state and not is_placed else "relation", words)]
    texts = [(kind, " ".join(some) + ".") for kind, some in found]
    return [Fact(kind, text, (to_question(text),)) for kind, text in texts]


def _article(word: str, noun: str) -> str:
    """Return a or an as the noun wants it; other words as they are."""
    if word.lower() not in ("a", "an"):
        return word
    return "an" if noun[:1].lower() in "aeiou" else "a"
