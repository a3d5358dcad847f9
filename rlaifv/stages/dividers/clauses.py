"""Splitting of sentences into parts that each still follow from the whole.

Every decision looks at a bounded number of words on either side of a cut, so the time is linear in the number of words.
"""

import re
from collections.abc import Iterator, Sequence

from rlaifv.stages.dividers.english import (
    BE,
    CONJUNCTIONS,
    PLURAL_VERBS,
    PREPOSITIONS,
    PRONOUNS,
    QUANTIFIERS,
    QUOTES,
    RELATIVES,
    SUBJECTS,
    bare_words,
    definite,
    finite,
    head,
    is_many,
    is_participle,
    is_simple,
    num_relatives,
    opens_plural_predicate,
    opens_predicate,
)

_WINDOW = 32  # words considered on either side of a cut
_DRESS = ("wearing", "holding", "carrying", "dressed")
# Words after which a clause makes its own statement, unlike after "if"; the second group requires a comma.
_OPENERS = CONJUNCTIONS | {"although", "though", "because"}
_BE_OR_HAVE = BE | {"has", "have"}
_OPENERS_AFTER_COMMA = {"so", "since"}
_ACCOMPANIMENT = re.compile(r", (?:along with|accompanied by|as well as|together with|with) ")
_SHARE = re.compile(r"(.+,) (\w+ of) (?:which|whom) (.+)")
_OPENED = re.compile(r"(?i)((?:in|on|at|to|behind|under|above|below|next|beside)\b[^,]{1,60}?) (there (?:is|are) .+)")

_OTHER_PLACE = re.compile(r"(?:,|\band) (?:in|on|at|to|near|next|behind)\b(?! [^,]{1,60}? there (?:is|are)\b)")


def split_front(text: str) -> tuple[str, str]:
    """Detach a leading place, to be appended to the sentence later: (" in the corner" or "", the rest)."""
    place, _, rest = text.partition(", ")
    opened = _OPENED.match(text)
    if opened and opened[1].count(" ") < 8 and is_simple(opened[1].split()):  # "On the table there are": no comma
        place, rest = opened.groups()
    words, first = place.split(), bare_words(rest.split()[:1])
    is_place = is_simple(words) and len(words) <= 8 and not finite(words)
    # "On the left, a man, and on the right, a dog": it is unclear here what the second place belongs to.
    is_place = is_place and not re.search(
        r"(?:,|\band) (?:in|on|at|to|near|next|behind)\b(?! [^,]{1,60}? there (?:is|are)\b)", rest
    )
    if is_place and not PREPOSITIONS.isdisjoint(bare_words(words[:1])) and not (SUBJECTS | PRONOUNS).isdisjoint(first):
        return f" {place[0].lower()}{place[1:]}", rest
    return "", text


def split_clauses(words: Sequence[str]) -> Iterator[list[str]]:
    """Split a sentence where a new clause begins, repeating a shared subject or auxiliary in both parts."""
    current: list[str] = []
    in_quotes = False
    for k, word in enumerate(words):
        after_comma = k > 0 and words[k - 1].endswith(",")
        joined = word.lower() in _OPENERS or (after_comma and word.lower() in _OPENERS_AFTER_COMMA)
        shared = None
        if current and not in_quotes and (joined or after_comma):
            shared = _shared(current[:_WINDOW], words[k + joined : k + joined + _WINDOW], joined)
            if shared and word.lower() not in CONJUNCTIONS and joined:
                shared = None  # a clause after "because" has its own subject
        if shared is None:
            current.append(word)
        else:
            yield current
            current = shared if joined else [*shared, word]
        in_quotes ^= sum(map(word.count, QUOTES)) % 2 == 1
    yield current


def _shared(left: Sequence[str], right: Sequence[str], joined: bool) -> list[str] | None:
    """Return the opening words of `left` that `right` omits, or None if the two are not separate clauses."""
    before, after, verbs = bare_words(left), bare_words(right), finite(left)
    if not after or len(verbs) <= num_relatives(left) or before[0] in PREPOSITIONS | RELATIVES:
        return None
    if joined and _OPENED.match(" ".join(right)):
        return []
    if joined and after[0] in PRONOUNS and before[0] == after[0] and _is_clause(right):
        return []
    is_noun = joined and after[0] not in PREPOSITIONS | PRONOUNS and not _BE_OR_HAVE.isdisjoint(after[1:2])
    if after[0] in SUBJECTS or is_noun:
        return [] if _is_clause(right) else None
    subject = list(left[: verbs[0]])
    if before[0] == "there" or not is_simple(subject):
        return None
    if joined and opens_predicate(after[:2]):
        return subject
    if joined and before[verbs[0]] in PLURAL_VERBS and opens_plural_predicate(after):
        return subject
    continues = any(map(is_participle, before[verbs[0] + 1 : verbs[0] + 2]))
    if before[verbs[0]] in BE and is_participle(after[0]) and (continues or not joined):
        return [*subject, left[verbs[0]]]
    return None


def _is_clause(words: Sequence[str]) -> bool:
    """Return whether the words begin with a subject that agrees with its verb."""
    bare, verbs = bare_words(words), finite(words)
    subject = bare[: verbs[0]] if verbs else []
    if not subject or not is_simple(words[: len(subject)]) or "them" in subject:
        return False
    if len(subject) == 1 or subject[0] == "there":
        return len(subject) == 1 and subject[0] not in QUANTIFIERS
    is_plural = bare[verbs[0]] in PLURAL_VERBS
    if not CONJUNCTIONS.isdisjoint(subject):
        return is_plural
    return not (is_plural and subject[0] in ("a", "an", "one") and "of" not in subject)


def split_asides(clause: str) -> tuple[str, list[str]]:
    """Separate a clause from its asides: (the remaining clause, statements with their own subjects).

    >>> split_asides("a kite, which is red, hangs in a tree")
    ('a kite hangs in a tree', ['the kite is red'])
    >>> split_asides("there is a man at a desk, reading a book")
    ('there is a man at a desk', ['the man is reading a book'])
    """
    words, asides = clause.split(), []
    if len(words) > 2 * _WINDOW or any(mark in clause for mark in QUOTES):
        return clause, []
    share = _SHARE.fullmatch(clause)
    owner = _antecedent(share[1].split()) if share else []
    if share and owner:
        clause = share[1].rstrip(",")
        asides = [f"{share[2]} {' '.join(definite(bare_words(owner)))} {share[3]}"]
    words = clause.split()
    for k in reversed(range(1, len(words))):  # a relative clause may be nested in the one before it
        if bare_words(words[k : k + 1])[0] in RELATIVES:
            clause, found = _split_relative(words, k)
            words, asides = clause.split(), [*found, *asides]
    if num_relatives(words):
        return clause, asides
    main, *companions = _ACCOMPANIMENT.split(clause)
    first = bare_words(companions[-1].split()[:1]) if len(companions) == 1 else []
    if first and first[0] in QUANTIFIERS - {"one"} and is_simple(main.split()) and finite(main.split()):
        verb = "are" if is_many(bare_words(companions[0].split())) else "is"
        return main, [f"there {verb} {companions[0]}", *asides]
    clause, found = _split_participle(clause, clause.split())
    return clause, [*found, *asides]


def _split_relative(words: Sequence[str], k: int) -> tuple[str, list[str]]:
    """Split at the relative pronoun `k`; no relative pronoun after it can be split."""
    clause, found, after = " ".join(words), bare_words(words), words[k + 1 :]
    if found[k] == "where" and words[k - 1].endswith(",") and _is_clause(after):
        return " ".join(words[:k]).rstrip(","), [" ".join(after)]
    owner = _antecedent(words[:k])
    inserted = words[k - 1].endswith(",")
    if found[k] not in ("who", "which", "that") or not owner or "and" in found[:k]:
        return clause, []
    # "The car that is parked here is red": without its relative clause it would be any car.
    if len(after) < 2 or not (inserted or bare_words(owner)[0] in QUANTIFIERS):
        return clause, []
    predicate = bare_words(after)
    verbs = [0, *finite(after)]
    is_verb = (
        opens_plural_predicate(predicate) or predicate[0] == "are"
        if is_many(bare_words(owner))
        else (opens_predicate(predicate[:2]) and predicate[0] != "are")
    )
    if not is_verb or len(verbs) > 2:
        return clause, []
    subject = " ".join(
        definite([word.strip(",").lower() if not j else word.strip(",") for j, word in enumerate(owner)])
    )
    left = " ".join(words[:k]).rstrip(",")
    if len(verbs) == 1:
        is_last = not any(word.endswith(",") for word in after[:-1])
        return (left, [f"{subject} {' '.join(after)}"]) if is_last else (clause, [])
    end = verbs[1]  # the verb of the enclosing clause
    closed = after[end - 1].endswith(",") == inserted and predicate[end - 1] not in SUBJECTS | PRONOUNS | CONJUNCTIONS
    if not closed or finite(words[:k]) or len(owner) != k:
        return clause, []
    return f"{left} {' '.join(after[end:])}", [f"{subject} {' '.join(after[:end]).rstrip(',')}"]


def _antecedent(words: Sequence[str]) -> list[str]:
    """Return the noun phrase at the end of the words, from its article on; empty if unclear."""
    found = bare_words(words)
    for k in range(len(words) - 1, max(len(words) - 6, -1), -1):
        if found[k] in QUANTIFIERS | {"the", "his", "her", "its", "their"}:
            return list(words[k:]) if k < len(words) - 1 else []
        if (
            found[k] in PREPOSITIONS | CONJUNCTIONS
            or is_participle(found[k])
            or words[k].endswith(",") != (k == len(words) - 1 and words[-1].endswith(","))
        ):
            return []
    return []


def _split_participle(clause: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """Split a final participle off a "there is" clause, or a "wearing" phrase off a subject."""
    found, verbs = bare_words(words), finite(words)
    if found[:2] in (["there", "is"], ["there", "are"]) and len(words) > 3 and found[2] in QUANTIFIERS:
        rest, comma, last = clause.rpartition(", ")
        does = last.partition(" ")[0]
        if comma and is_participle(does) and does.endswith("ing") and "," not in rest and " and " not in rest:
            return rest, [f"{' '.join(definite(head(found[2:])))} {found[1]} {last}"]
        return clause, []
    for k in range(1, min(len(found), 6)):
        if found[k] in _DRESS and verbs and k < verbs[0] and found[0] in QUANTIFIERS and is_simple(words[: verbs[0]]):
            if not (PREPOSITIONS | CONJUNCTIONS).isdisjoint(found[:k]) or "and" in found[k : verbs[0]]:
                break
            be = "are" if is_many(found[:k]) else "is"
            aside = f"{' '.join(definite(found[:k]))} {be} {' '.join(words[k : verbs[0]])}"
            return " ".join([*words[:k], *words[verbs[0] :]]), [aside]
    return clause, []
