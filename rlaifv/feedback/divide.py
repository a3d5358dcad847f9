"""From an answer to atomic claims in yes/no form, by rules of English.

Takes the place of the two tuned language models of RLAIF-V (arXiv 2405.17220, section 3.2) where none is at hand. The
score of a response is minus the number of rejected claims, so a wrong cut costs more than a missing one: every rule
applies only where the result still follows from the answer, and what fits no rule is asked about as it stands. Opinions
and guesses are left out, as in the paper.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from typing import Protocol

from rlaifv.records import Claim, Prompt, Response


def _table(words: str) -> frozenset[str]:
    return frozenset(words.split())


_BE = _table("is are was were")
_MODALS = _table("can will would must should")
_PLURAL_VERBS = _table("are were have")
# Only forms that are rarely plural nouns: "faces" or "displays" would be read as verbs wherever they are things.
_VERBS = _table("""has have had appears chases climbs consists contains depicts eats enjoys features feels follows gazes
    grazes hangs holds includes jumps lies looks overlooks plays portrays reads rides runs says seems shows sits sleeps
    smiles stands stares surrounds swims throws walks wears writes""")
_QUANTIFIERS = _table("a an one two three four five six seven eight nine ten several many multiple numerous")
_PRONOUNS = _table("it he she they you")
_SUBJECTS = _QUANTIFIERS | _table("the its his her their this these those there some various no people")
_PREPOSITIONS = _table("""about above across after against along among around as at atop before behind below beneath
    beside besides between by during for from in inside into like including near next of on onto opposite outside over
    such through throughout to toward towards under with within without""")
_RELATIVES = _table("""although because how if since that though until what when where whether which while who whom
    whose why""")
_CONJUNCTIONS = _table("and but while whereas yet")
_NEGATIONS = _table("not no never none nothing nobody neither nor without cannot hardly")
_BINDING = _table("of between without one")
_NOUNS_IN_ING = _table("""building ceiling clothing evening king morning painting railing ring string thing wedding wing
    spring swing nothing something everything anything awning lighting""")
_PARTICIPLES = _table("covered decorated dressed filled located made parked placed seated surrounded topped")
_UNCHECKABLE = _table("""i i'm i’m we maybe may might could perhaps possibly probably likely presumably seemingly
    apparently potentially suggest suggests suggesting indicate indicates indicating imply implies implying unclear
    atmosphere ambiance ambience mood vibe feel feeling impression charm tranquility aesthetic sense""")
_OPINIONS = _table("""amazing appealing attractive awesome beautiful breathtaking calm calming captivating charming
    cheerful cozy cute delicious delightful elegant enjoyable fascinating fun gorgeous harmonious impressive interesting
    inviting lively lovely nice peaceful picturesque pleasant pleasing quaint relaxing serene striking stunning
    tranquil unique vibrant welcoming wonderful""")

_WINDOW = 32  # words on either side that decide on a cut; keeps the time linear in the length of a sentence
_EDGE = " .,;:!…。！-–—"
_QUOTES = '"“”„«»'
_PICTURE = "(?:the|this) (?:image|picture|photo|photograph|scene|painting|drawing)"
_MARKUP = re.compile(r"(?i)^\s*(?:(?:[-*•–—·+>]|\(?\d{1,2}[.)]|\(?[a-z]\))\s+|#+)|[*`]+|_{2,}")
_BREAK = re.compile(
    r"(?:(?<=[.!?;…])|(?<=[.!?][\"'”’)]))(?<!\b(?:Mr|Ms|Dr|St|vs)\.)(?<!\b(?:Mrs|e\.g|i\.e)\.)(?<!\b[A-Z]\.)"
    r"(?:(?<!\b(?:etc|a\.m|p\.m)\.)(?<!\.\.\.)(?<!…)|(?=\s+[A-Z]))\s+|(?<=[。！？])"
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
    rf"|notably|in addition|in total|at first glance|of course|first|second|lastly|(?:in|within) {_PICTURE})"
    r"(?:, *| (?=there\b|(?:we|you) can\b)))+"
    r"|, (?:possibly|perhaps|maybe|probably|likely|presumably|as if|as though)\b[^,]*"
    r"|, (?:which |further |thus )?(?:add|creat|mak|giv|contribut|enhanc|evok|convey|showcas|emphasi[sz]|highlight"
    r"|suggest|indicat|complement|provid)(?:ing|e?s)\b.*?(?=, (?:and|while) (?:an?|the|there)\b|$)"
)
_SHOWS = re.compile(
    rf"(?i)^(?:{_PICTURE}(?: also)? (?:shows|features|depicts|contains|displays|includes|captures|portrays|showcases"
    r"|presents)|(?:i|we|you|one)(?: can)? (?:see|observe|notice)) "
)
_THERE = re.compile(r"(?i)there (is|are|was|were) (.+)")


class Divider(Protocol):
    """What turns one response into its claims: in order, with unique ids, none for an answer that asserts nothing."""

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]: ...


class RulesDivider:
    """Divides plain English answers by `to_claims` and `to_question`; the prompt is not looked at.

    `max_claims` (at least 1, else ValueError) bounds the claims of one response; a claim said twice stays in twice.
    """

    def __init__(self, *, max_claims: int = 50) -> None:
        if max_claims < 1:
            raise ValueError(f"max_claims must be at least 1, but it is {max_claims}.")
        self.max_claims = max_claims

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]:
        """Return the claims of `response`, the k-th of them with the id "<response id>/<k>"."""
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
        front, body = _split_front(sentence)
        for k, clause in enumerate(_clauses(body.split())):
            # A place that the sentence opens with is only certain to belong to its first clause.
            atoms = [atom if k else atom + front for atom in _atoms(" ".join(clause).strip(_EDGE))]
            claims += [f"{atom[0].upper()}{atom[1:]}." for atom in atoms]
    return claims


def to_question(claim_text: str) -> str:
    """Word a statement as a question that "yes" affirms; without the request to answer yes or no.

    A negated statement, and one whose grammar is not clear, is quoted instead of inverted: what "no" would mean in
    reply to "Is there no dog?" is anybody's guess.

    >>> to_question("There is a red circle at the top left.")
    'Is there a red circle at the top left?'
    """
    statement = " ".join(claim_text.split())
    inverted = _invert(statement.rstrip(_EDGE + "?").split())
    if inverted:
        return " ".join(inverted) + "?"
    return f'''Does the statement "{re.sub(f"[{_QUOTES}]", "'", statement)}" describe the image correctly?'''


def _invert(words: Sequence[str]) -> list[str]:
    bare, verbs = _bare(words), _finite(words)
    if not verbs or bare[0] in _PREPOSITIONS | _RELATIVES | {"here"} or _is_participle(bare[0]):
        return []
    subject, verb, rest = list(words[: verbs[0]]), bare[verbs[0]], list(words[verbs[0] + 1 :])
    negated = not _NEGATIONS.isdisjoint(bare) or any(word.endswith(("n't", "n’t")) for word in bare)
    if negated or not _is_simple(subject) or len(verbs) > 1 + _num_relatives(words):
        return []
    # "A man in a suit and tie is" has one subject; "The dog barks at a man and the cat is" has two.
    before, is_plural = bare[: verbs[0]], verb in _PLURAL_VERBS
    is_list = any(
        word == "and" and (_PREPOSITIONS.isdisjoint(before[:k]) or not before[k + 1 :] or before[k + 1] in _SUBJECTS)
        for k, word in enumerate(before)
    )
    if is_list and not is_plural and verb not in _MODALS:
        return []
    if subject[0].istitle() and (bare[0] in _SUBJECTS | _PRONOUNS or (is_plural and not is_list)):
        subject[0] = subject[0].lower()
    is_perfect = verb in ("has", "have", "had") and not (_PARTICIPLES | {"been"}).isdisjoint(rest[:1])
    if verb in _BE | _MODALS or is_perfect:
        return [verb.capitalize(), *subject, *rest]
    base = "have" if verb in ("has", "have", "had") else verb.removesuffix("s")
    return [{"had": "Did", "have": "Do"}.get(verb, "Does"), *subject, base, *rest]


def _sentences(text: str) -> Iterator[str]:
    """Yield what the sentences state, without list markers, headings, questions, and connecting words."""
    for raw in re.sub(r"(?<=[a-z,])\n(?=[a-z])", " ", text).splitlines():
        line = " ".join(_MARKUP.sub("", raw).split())
        label, _, rest = line.partition(": ")
        line = rest if len(label.split()) <= 3 and _finite(rest.split()) else line
        for sentence in [] if line.endswith(":") else _BREAK.split(line):
            if not _EMPTY.match(sentence) and not sentence.rstrip(_EDGE + _QUOTES + "')").endswith(("?", "？")):
                sentence = _FILLER.sub("", sentence.strip(_EDGE))
                sentence = re.sub(r"(?i)\b(there|it|he|she)['’]s\b(?! been)", r"\1 is", sentence)
                yield re.sub(r"(?i)\b(?:appear|seem)(s?) to be\b", lambda m: "is" if m[1] else "are", sentence)


def _split_front(text: str) -> tuple[str, str]:
    """Take a place that a sentence opens with off it, to be said at its end: (" in the corner" or "", the rest)."""
    head, _, rest = text.partition(", ")
    words, first = head.split(), _bare(rest.split()[:1])
    is_place = _is_simple(words) and len(words) <= 8 and not _finite(words)
    # "On the left, a man, and on the right, a dog": what the second place belongs to cannot be told from here.
    is_place = is_place and not re.search(r"(?:,|\band) (?:in|on|at|to|near|next|behind)\b", rest)
    if is_place and not _PREPOSITIONS.isdisjoint(_bare(words[:1])) and not (_SUBJECTS | _PRONOUNS).isdisjoint(first):
        return f" {head[0].lower()}{head[1:]}", rest
    return "", text


def _clauses(words: Sequence[str]) -> Iterator[list[str]]:
    """Cut a sentence where a new clause begins; a subject or auxiliary that both sides share is given to both."""
    current: list[str] = []
    in_quotes = False
    for k, word in enumerate(words):
        joined, shared = word.lower() in _CONJUNCTIONS, None
        if current and not in_quotes and (joined or words[k - 1].endswith(",")):
            shared = _shared(current[:_WINDOW], words[k + joined : k + joined + _WINDOW], joined)
        if shared is None:
            current.append(word)
        else:
            yield current
            current = shared if joined else [*shared, word]
        in_quotes ^= sum(map(word.count, _QUOTES)) % 2 == 1
    yield current


def _shared(left: Sequence[str], right: Sequence[str], joined: bool) -> list[str] | None:
    """The opening words of `left` that `right` goes without, or None where the two are no separate clauses."""
    before, after, verbs = _bare(left), _bare(right), _finite(left)
    if not after or len(verbs) <= _num_relatives(left) or before[0] in _PREPOSITIONS | _RELATIVES:
        return None
    if after[0] in _SUBJECTS or (
        joined and not _BE.isdisjoint(after[1:2]) and after[0] not in _PREPOSITIONS | _PRONOUNS
    ):
        return [] if _is_clause(right) else None
    subject = list(left[: verbs[0]])
    if before[0] == "there" or not _is_simple(subject):
        return None
    if joined and after[0] in _BE | _VERBS:
        return subject
    continues = any(map(_is_participle, before[verbs[0] + 1 : verbs[0] + 2]))
    if before[verbs[0]] in _BE and _is_participle(after[0]) and (continues or not joined):
        return [*subject, left[verbs[0]]]
    return None


def _is_clause(words: Sequence[str]) -> bool:
    """Whether the words open with a subject of their own that agrees with its verb."""
    bare, verbs = _bare(words), _finite(words)
    subject = bare[: verbs[0]] if verbs else []
    if not subject or not _is_simple(words[: len(subject)]) or "them" in subject:
        return False
    if len(subject) == 1 or subject[0] == "there":
        return len(subject) == 1 and subject[0] not in _QUANTIFIERS
    is_plural = bare[verbs[0]] in _PLURAL_VERBS
    if not _CONJUNCTIONS.isdisjoint(subject):
        return is_plural
    return not (is_plural and subject[0] in ("a", "an", "one") and "of" not in subject)


def _atoms(clause: str) -> list[str]:
    """Leave out opinions, and take lists of what there is apart; a mere noun phrase says that there is such a thing."""
    shown = _SHOWS.sub("", clause)
    bare, there = _bare(shown.split()), _THERE.fullmatch(clause)
    if not any(map(str.isalnum, shown)) or not _UNCHECKABLE.isdisjoint(bare) or _OPINION.search(clause):
        return []
    if there:
        return _existentials(there[2], there[1].lower())
    if bare[0] in _QUANTIFIERS and (shown != clause or (not _finite(bare) and _is_noun_phrase(bare))):
        return _existentials(shown[0].lower() + shown[1:], "are" if _is_many(bare) else "is")
    return [clause]


def _existentials(phrase: str, verb: str) -> list[str]:
    """Say "there is" of each item of a list where every item stands alone, else of the whole with its own verb."""
    items = re.split(r",? and |, ", phrase)
    bares = [_bare(item.split()) for item in items]
    # "a man with a hat and a cane" and "a ball between a cat and a dog" are one thing each.
    has_place = [any(word in _PREPOSITIONS or _is_participle(word) for word in bare) for bare in bares]
    is_list = all(len(bare) > 1 and bare[0] in _QUANTIFIERS and _BINDING.isdisjoint(bare) for bare in bares)
    if not is_list or any(here and not after for here, after in pairwise(has_place)) or _finite(phrase.split()):
        return [f"there {verb} {phrase}"]
    many, single = ("were", "was") if verb in ("was", "were") else ("are", "is")
    return [f"there {many if _is_many(bare) else single} {item}" for bare, item in zip(bares, items, strict=True)]


def _is_noun_phrase(bare: Sequence[str]) -> bool:
    """Whether a quantified phrase hides no verb that is not in `_VERBS`, as "a man paints" and "two men paint" do."""
    head = list(
        takewhile(lambda word: word not in _PREPOSITIONS | _CONJUNCTIONS and not _is_participle(word), bare[1:])
    )
    if _is_many(bare):
        return bool(head) and [_is_plural(word) for word in head] == [False] * (len(head) - 1) + [True]
    return bool(head) and not any(_is_plural(word) or (word.endswith("ed") and len(word) > 4) for word in head[1:])


def _bare(words: Sequence[str]) -> list[str]:
    return [word.strip(_EDGE + _QUOTES + "()[]'").lower() for word in words]


def _finite(words: Sequence[str]) -> list[int]:
    """Where the verbs are that a clause can be built on; never at the first word, which has no subject before it."""
    bare = _bare(words)
    return [
        k
        for k in range(1, len(bare))
        if bare[k - 1] not in ("a", "an", "the", "to")
        and (bare[k] in _BE | _VERBS or (bare[k] in _MODALS and bare[k + 1 : k + 2] in (["be"], ["have"])))
        and not (bare[k] == "have" and bare[k - 1] in _MODALS)
    ]


def _num_relatives(words: Sequence[str]) -> int:
    return sum(word in _RELATIVES for word in _bare(words)[1:])


def _is_simple(words: Sequence[str]) -> bool:
    return not _num_relatives(words) and not any(word.endswith((",", ")")) for word in words)


def _is_participle(word: str) -> bool:
    return word in _PARTICIPLES or (
        word.endswith("ing") and len(word) > 4 and word not in _NOUNS_IN_ING | _PREPOSITIONS
    )


def _is_plural(word: str) -> bool:
    return word in ("people", "men", "women", "children") or (
        word.endswith("s") and not word.endswith(("ss", "us", "is"))
    )


def _is_many(bare: Sequence[str]) -> bool:
    return bare[0] not in ("a", "an", "one") or bare[1:2] in (["few"], ["couple"], ["lot"], ["number"], ["variety"])
