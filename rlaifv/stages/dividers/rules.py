"""Rule-based division of English answers into atomic claims with yes/no questions.

Replaces the two tuned language models of RLAIF-V (arXiv 2405.17220, section 3.2) if none is available. The score of a
response is minus the number of rejected claims, so a wrong split costs more than a missing one: every rule applies only
where the result still follows from the answer, and text that matches no rule is asked about unchanged. Opinions and
guesses are left out, as in the paper.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from rlaifv.records import Claim, Prompt, Response
from rlaifv.stages.dividers.clauses import split_asides, split_clauses, split_front
from rlaifv.stages.dividers.english import (
    BE,
    EDGE,
    MODALS,
    NEGATIONS,
    PARTICIPLES,
    PLURAL_VERBS,
    PREPOSITIONS,
    PRONOUNS,
    QUANTIFIERS,
    QUOTES,
    RELATIVES,
    SUBJECTS,
    bare_words,
    base_form,
    finite,
    head,
    is_many,
    is_participle,
    is_plural,
    is_simple,
    num_relatives,
    table,
)

_UNCHECKABLE = table("""i i'm i’m we maybe may might could perhaps possibly probably likely presumably seemingly
    apparently potentially suggest suggests suggesting indicate indicates indicating imply implies implying unclear
    atmosphere ambiance ambience mood vibe feel feeling impression charm tranquility aesthetic sense intensity essence adds
    evokes conveys typical""")
_OPINIONS = table("""amazing appealing attractive awesome beautiful breathtaking calm calming captivating charming
    cheerful comfortable cosy cozy cute delicious delightful elegant enjoyable fascinating fun gorgeous harmonious
    impressive interesting inviting juicy lively lovely nice peaceful picturesque pleasant pleasing quaint relaxing
    serene striking stunning tasty tranquil unique vibrant welcoming wonderful""")

_PICTURE = "(?:the|this) (?:image|picture|photo|photograph|scene|painting|drawing)"
_MARKUP = re.compile(r"(?i)^\s*(?:(?:[-*•–—·+>]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+|#+)|[*`]+|_{2,}|</?[a-z]\w*>")
_BREAK = re.compile(
    r"(?:(?<=[.!?;…])|(?<=[.!?][\"'”’)]))(?<!\b(?:Mr|Ms|Dr|St|vs)\.)(?<!\b(?:Mrs|e\.g|i\.e)\.)(?<!\b[A-Z]\.)"
    r"(?:(?<!\b(?:etc|a\.m|p\.m)\.)(?<!\.\.\.)(?<!…)|(?=\s+[A-Z]))\s+|(?<=[。！？])"
    r"|(?<=[a-z][.!?])(?=[A-Z][a-z ])|(?<=:)\s+(?=there (?:is|are)\b)"
)
_EMPTY = re.compile(
    r"(?i)\W*$|(?:overall|in (?:summary|conclusion|general|essence)|all in all|what an?)\b|(?:yes|no|sure)\W*$"
)
_OPINION = re.compile(
    r"(?i)\b(?:is|are|was|were|looks?|feels?|seems?|appears?|remains)(?: very| quite| so| both| \w+ly)?"
    rf" (?:{'|'.join(sorted(_OPINIONS))})\b"
)
_FILLER = re.compile(
    r"(?i)^(?:(?:additionally|also|furthermore|moreover|besides|however|meanwhile|finally|yes|no|sure|interestingly"
    rf"|notably|in addition|in total|at first glance|of course|first|second|lastly|(?:in|within) {_PICTURE}"
    r"|(?:according to|based on|judging (?:by|from)) [^,]+)"
    r"(?:, *| (?=there\b|(?:we|you) can\b)))+"
    r"|, (?:possibly|perhaps|maybe|probably|likely|presumably|as if|as though)\b[^,]*"
    r"|, (?:which |further |thus )?(?:add|creat|mak|giv|contribut|enhanc|evok|convey|showcas|emphasi[sz]|highlight|cast"
    r"|suggest|indicat|complement|provid)(?:ing|e?s)\b.*?(?=, (?:and|while) (?:an?|the|there)\b|$)"
)
_SHOWS = re.compile(
    rf"(?i)^(?:{_PICTURE}(?: also)? (?:shows|features|depicts|contains|displays|includes|captures|portrays|showcases"
    r"|presents)|(?:i|we|you|one)(?: can)? (?:see|observe|notice)) "
)
_THERE = re.compile(r"(?i)there (is|are|was|were) (.+)")
_SEEN = re.compile(r"(.+?) (?:can be seen|(is|are) (?:visible|present))( .+)?")
_HAVING = re.compile(
    r"(.+? (?:ha(?:s|ve)|holds?|contains?|includes?|wears?|displays?|features?|(?:is|are) (?:wearing|holding|carrying))) (.+)"
)
_BINDING = table("between without one upstairs downstairs each more")
_FUNCTION_WORDS = SUBJECTS | PRONOUNS | PREPOSITIONS | RELATIVES | table("him them me us nothing everything")
_UNFINISHED = table("a an the and or but of is are its their")  # words that cannot end a sentence

logger = logging.getLogger(__name__)


class RulesDivider:
    """Divides plain English answers by `to_claims` and `to_question`; the prompt is ignored.

    `max_claims` (at least 1, else ValueError) limits the claims per response; repeated claims are kept.
    """

    def __init__(self, *, max_claims: int = 50) -> None:
        if max_claims < 1:
            raise ValueError(f"max_claims must be at least 1, but it is {max_claims}.")
        self.max_claims = max_claims

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]:
        """Return the claims of `response`; the k-th has the id "<response id>/<k>"."""
        texts = to_claims(response.text)[: self.max_claims]
        ids = (response.id, response.prompt_id)
        return [Claim(f"{response.id}/{k}", *ids, text, to_question(text)) for k, text in enumerate(texts)]


def to_claims(text: str) -> list[str]:
    """Split an answer into atomic statements, each one line that ends with a full stop.

    >>> to_claims("In the corner, there is a tree. It looks beautiful. A man is sitting and a dog is running.")
    ['There is a tree in the corner.', 'A man is sitting.', 'A dog is running.']
    """
    claims = []
    for sentence in _sentences(text):
        front, body = split_front(sentence)
        for k, clause in enumerate(split_clauses(body.split())):
            # A leading place certainly belongs only to the first clause of its sentence.
            place, body = split_front(" ".join(clause).strip(EDGE)) if k else (front, " ".join(clause).strip(EDGE))
            statement, asides = split_asides(_as_there_is(body))
            atoms = [atom + place for atom in _atoms(statement.strip(EDGE))]
            atoms += [atom for aside in asides for atom in _atoms(aside.strip(EDGE))]
            claims += [f"{atom[0].upper()}{atom[1:]}." for atom in atoms]
    return claims


def to_question(claim_text: str) -> str:
    """Turn a statement into a question that "yes" affirms, without the instruction to answer yes or no.

    A statement that is negated or whose grammar is unclear is quoted instead of inverted: the meaning of "no" in reply
    to "Is there no dog?" is ambiguous.

    >>> to_question("There is a red circle at the top left.")
    'Is there a red circle at the top left?'
    """
    statement = " ".join(claim_text.split())
    inverted = _invert(statement.rstrip(EDGE + "?").split())
    if inverted:
        return " ".join(inverted) + "?"
    return quoted(statement)


def quoted(statement: str) -> str:
    return f'''Does the statement "{re.sub(f"[{QUOTES}]", "'", statement)}" describe the image correctly?'''


def _invert(words: Sequence[str]) -> list[str]:
    found, verbs = bare_words(words), finite(words)
    if not verbs or found[0] in PREPOSITIONS | RELATIVES | {"here"} or is_participle(found[0]):
        return []
    subject, verb, rest = list(words[: verbs[0]]), found[verbs[0]], list(words[verbs[0] + 1 :])
    negated = not NEGATIONS.isdisjoint(found) or any(word.endswith(("n't", "n’t")) for word in found)
    if negated or not is_simple(subject) or len(verbs) > 1 + num_relatives(words):
        return []
    # "A man in a suit and tie is" has one subject; "The dog barks at a man and the cat is" has two.
    before, is_plural_verb = found[: verbs[0]], verb in PLURAL_VERBS
    is_list = any(
        word == "and" and (PREPOSITIONS.isdisjoint(before[:k]) or not before[k + 1 :] or before[k + 1] in SUBJECTS)
        for k, word in enumerate(before)
    )
    if is_list and not is_plural_verb and verb not in MODALS:
        return []
    if subject[0].istitle() and (
        found[0] in SUBJECTS | PRONOUNS | {"both", "each", "most"} or (is_plural_verb and not is_list)
    ):
        subject[0] = subject[0].lower()
    is_perfect = verb in ("has", "have", "had") and not (PARTICIPLES | {"been"}).isdisjoint(rest[:1])
    if verb in BE | MODALS or is_perfect:
        return [verb.capitalize(), *subject, *rest]
    does = "Did" if verb == "had" else "Do" if is_plural_verb else "Does"
    return [does, *subject, base_form(verb), *rest]


def _sentences(text: str) -> Iterator[str]:
    """Yield the statements of the sentences, without list markers, headings, questions, and connecting words."""
    for raw in re.sub(r"(?<=[a-z,])\n(?=[a-z](?!\)))", " ", text).splitlines():
        line = " ".join(_MARKUP.sub("", raw).split())
        label, _, rest = line.partition(": ")
        line = rest if len(label.split()) <= 3 and finite(rest.split()) else line
        is_heading = line.endswith(":") or (raw.lstrip().startswith("#") and not finite(line.split()))
        for sentence in [] if is_heading else _BREAK.split(line):
            if not _EMPTY.match(sentence) and not sentence.rstrip(EDGE + QUOTES + "')").endswith(("?", "？")):
                sentence = _finished(_FILLER.sub("", sentence.strip(EDGE)))
                sentence = re.sub(r"(?i)\b(there|it|he|she)['’]s\b(?! been)", r"\1 is", sentence)
                sentence = re.sub(
                    r"(?<=\w) also(?= \w)|(?<=\b(?:is|of)) (?:is|of)\b|(?<=\bthe) the\b| (?=[,;])", "", sentence
                )
                yield re.sub(r"(?i)\b(?:appear|seem)(s?) to be\b", lambda m: "is" if m[1] else "are", sentence)


def _finished(sentence: str) -> str:
    """Trim a truncated sentence: "The horse is brown and" loses its last word, "In the" all of them."""
    words = sentence.split()
    if not words or bare_words(words[-1:])[0] not in _UNFINISHED:
        return sentence
    while words and bare_words(words[-1:])[0] in _UNFINISHED | PREPOSITIONS:
        words.pop()
    is_place = bool(words) and bare_words(words[:1])[0] in PREPOSITIONS and not finite(words)
    return "" if is_place else " ".join(words)


def _atoms(clause: str) -> list[str]:
    """Split lists into atomic statements, and drop opinions."""
    words, there = bare_words(clause.split()), _THERE.fullmatch(clause)
    if not any(map(str.isalnum, clause)) or not _UNCHECKABLE.isdisjoint(words) or _OPINION.search(clause):
        return []
    return _existentials(there[2], there[1].lower()) if there else _objects(clause)


def _as_there_is(clause: str) -> str:
    """Rewrite a clause as "there is" if it says that a thing is shown or can be seen, or only names it.

    >>> _as_there_is("The image shows a cup"), _as_there_is("several birds can be seen flying"), _as_there_is("A cup")
    ('there is a cup', 'there are several birds flying', 'there is a cup')
    """
    shown, seen = _SHOWS.sub("", clause), _SEEN.fullmatch(clause)
    if (
        seen
        and not finite(seen[1].split())
        and is_simple(seen[1].split())
        and seen[1].split()[0].lower() in QUANTIFIERS
    ):
        verb = "are" if is_many(bare_words(seen[1].split())) or seen[2] == "are" else "is"
        return f"there {verb} {seen[1][0].lower()}{seen[1][1:]}{seen[3] or ''}"
    words = bare_words(shown.split())
    if words and words[0] in QUANTIFIERS and (shown != clause or (not finite(words) and _is_noun_phrase(words))):
        return f"there {'are' if is_many(words) else 'is'} {shown[0].lower()}{shown[1:]}"
    if not words or words[0] in _FUNCTION_WORDS or finite(words) or is_participle(words[0]):
        return clause
    if shown != clause:
        return f"there {'are' if is_plural(head(words)[-1]) or 'and' in words else 'is'} {shown}"
    is_placed = len(head(words)) in (2, 3) and len(words) > len(head(words)) and words[len(head(words))] in PREPOSITIONS
    return f"there are {clause[0].lower()}{clause[1:]}" if is_placed and _is_plain_plural(head(words)) else clause


def _existentials(phrase: str, verb: str) -> list[str]:
    """Build one "there is" statement per item if every item can stand alone, else one for the whole phrase."""
    items = _items(phrase)
    if len(items) == 1:
        return [f"there {verb} {phrase}"]
    many, single = ("were", "was") if verb in ("was", "were") else ("are", "is")
    return [f"there {many if is_many(bare_words(item.split())) else single} {item}" for item in items]


def _objects(clause: str) -> list[str]:
    """Split a list of objects of "has", "holds" or "wears" into one statement per item."""
    having = _HAVING.fullmatch(clause)
    if not having or not is_simple(having[1].split()) or len(finite(clause.split())) != 1:
        return [clause]
    return [f"{having[1]} {item}" for item in _items(having[2])]


def _items(phrase: str) -> list[str]:
    """Return the items of a list if each can stand alone, else the whole phrase."""
    items = [item for item in re.split(r",? (?:and|but) |, ", phrase) if item]
    found = [bare_words(item.split()) for item in items]
    # "a man with a hat and a cane" and "a ball between a cat and a dog" are one item each.
    has_place = [
        any(word in PREPOSITIONS - {"of"} or is_participle(word) for word in words)
        for words in found
        if words[0] != "no"
    ]
    if any(here and not after for here, after in pairwise(has_place)) or finite(phrase.split()):
        return [phrase]
    counted = [words[0] in QUANTIFIERS | {"no", "half"} for words in found]
    plain = [
        not given and len(words) <= 3 and _is_plain_plural(words) for given, words in zip(counted, found, strict=True)
    ]
    last_plain = max((k for k, given in enumerate(counted) if not given), default=-1)
    for k, words in enumerate(found):
        # "a bowl of apples and pears" is one bowl, "a mix of a cat and a dog" one thing.
        shares = "of" in words and (last_plain > k or not QUANTIFIERS.isdisjoint(words[words.index("of") :]))
        stands_alone = plain[k] or (counted[k] and len(words) > 1)
        if not stands_alone or shares or not _BINDING.isdisjoint(words):
            return [phrase]
    return items


def _is_plain_plural(words: Sequence[str]) -> bool:
    """Return whether the words are a plural noun preceded only by adjectives."""
    return is_plural(words[-1]) and _FUNCTION_WORDS.isdisjoint(words) and not any(map(is_plural, words[:-1]))


def _is_noun_phrase(words: Sequence[str]) -> bool:
    """Return whether a quantified phrase hides no unknown verb, as "a man paints" and "two men paint" do."""
    nouns = head(words)[1:]
    if is_many(words):
        return bool(nouns) and [is_plural(word) for word in nouns] == [False] * (len(nouns) - 1) + [True]
    return bool(nouns) and not any(is_plural(word) or (word.endswith("ed") and len(word) > 4) for word in nouns[1:])
