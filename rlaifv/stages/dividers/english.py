"""English word classes and grammar, as far as the rules divider needs them.

Words are passed as `bare_words` returns them: lower case, without surrounding punctuation.
"""

from collections.abc import Sequence


def table(words: str) -> frozenset[str]:
    """Return the set of words of a text."""
    return frozenset(words.split())


def _third_person(base: str) -> str:
    if base.endswith("y") and base[-2] not in "aeou":
        return f"{base[:-1]}ies"
    return f"{base}es" if base.endswith(("s", "sh", "ch", "x")) else f"{base}s"


BE = table("is are was were")
MODALS = table("can will would must should")
QUANTIFIERS = table(
    "a an one two three four five six seven eight nine ten eleven twelve several many multiple numerous"
)
PRONOUNS = table("it he she they you")
SUBJECTS = QUANTIFIERS | table("the its his her their this these that those there some various no people")
PREPOSITIONS = table("""about above across after against along among around as at atop before behind below beneath
    beside besides between by during for from in including inside into like near next of on onto opposite outside over
    such through throughout to toward towards under with within without""")
RELATIVES = table("""although because how if since that though until what when where whether which while who whom
    whose why""")
CONJUNCTIONS = table("and but while whereas yet")
NEGATIONS = table("not no never none nothing nobody neither nor without cannot hardly")

# Verbs whose third person is rarely a plural noun, so it counts as a verb in any position.
_PLAIN = table("""accompany adorn advance appear attend bark bask browse carry chase chew cling climb compete consist contain
    crawl crouch deliver depict descend dive drag eat embrace emerge enjoy enter examine extend feature feed feel flank
    follow gather gaze glow graze greet grow hang hold hover hug hurry include inspect join juggle jump kneel laugh lead
    lean leap lie lift listen look make obscure occupy overlook own overtake paddle peek peer perform play portray pour
    prepare produce raise read receive recline reflect remain remove repair resemble reveal ride rise run say seem sell
    separate serve shine show sing sit sleep slip smile sniff soar span spray spread stand stare stay steer stretch stroll
    support surround swim take teach throw trim trot try type wait walk wander wear write""")
# Verbs only if followed by an object or a place with an article; otherwise "faces" and "watches" are nouns.
_DOUBTFUL = table("""approach block blow brush catch climb cook cost cover cross cut display drink drop face fill fly form
    frame grill guard kick lick line mark open pack pass paint pick place point print pull push reach rest roll rub slice slide
    stack sweep swing tie talk touch turn use wash watch wave wipe""")
_BASES = {_third_person(base): base for base in _PLAIN} | {"has": "have", "had": "have"}
_DOUBTFUL_BASES = {_third_person(base): base for base in _DOUBTFUL}
_PLURAL_BASES = _PLAIN | _DOUBTFUL
_OBJECTS = SUBJECTS | table("them him each both up at toward towards through past")
_AFTER_PLURAL = _OBJECTS | PREPOSITIONS | table("on off out away back still white black red blue green hard")
PLURAL_VERBS = table("are were have") | _PLURAL_BASES

_NOUNS_IN_ING = table("""building ceiling clothing evening king morning painting railing ring string thing wedding wing
    spring swing nothing something everything anything awning lighting""")
PARTICIPLES = table("covered decorated dressed filled located made parked placed seated surrounded topped")

EDGE = " .,;:!…。！-–—"
QUOTES = '"“”„«»'


def bare_words(words: Sequence[str]) -> list[str]:
    """Return words in lower case, without surrounding punctuation and quotation marks."""
    return [word.strip(EDGE + QUOTES + "()[]'").lower() for word in words]


def base_form(verb: str) -> str:
    """Return the base form of a third person verb, "carry" for "carries"; other words are returned unchanged.

    >>> base_form("carries"), base_form("watches"), base_form("has"), base_form("stand")
    ('carry', 'watch', 'have', 'stand')
    """
    return _BASES.get(verb) or _DOUBTFUL_BASES.get(verb, verb)


def finite(words: Sequence[str]) -> list[int]:
    """Return the positions of finite verbs; never the first word, which has no subject before it."""
    found = bare_words(words)
    return [k for k in range(1, len(found)) if _is_finite(found, k)]


def _is_finite(words: Sequence[str], k: int) -> bool:
    word, before, after = words[k], words[k - 1], words[k + 1 : k + 2]
    if before in ("a", "an", "the", "to") or (word == "have" and before in MODALS):
        return False
    if word in MODALS:
        return after in (["be"], ["have"])
    if word in _PLURAL_BASES:  # "boys stand on", but not "a sports watch"
        is_many = before == "they" or (is_plural(before) and words[max(k - 2, 0)] not in ("a", "an"))
        return is_many and (after[0] in _AFTER_PLURAL if after else word in _PLAIN)
    return word in BE or word == "have" or opens_predicate(words[k : k + 2])


def opens_predicate(words: Sequence[str]) -> bool:
    """Return whether the first word is a verb for any subject: a form of be, or a third person."""
    word, after = words[0], words[1:2]
    return word in BE or word in _BASES or (word in _DOUBTFUL_BASES and not _OBJECTS.isdisjoint(after))


def opens_plural_predicate(words: Sequence[str]) -> bool:
    """Return whether the first word can be a verb after "and" if a plural subject has another verb before it."""
    return words[0] == "have" or (words[0] in _PLURAL_BASES and not _OBJECTS.isdisjoint(words[1:2]))


def num_relatives(words: Sequence[str]) -> int:
    """Count the words that open a subordinate clause, ignoring the first word."""
    return sum(word in RELATIVES for word in bare_words(words)[1:])


def is_simple(words: Sequence[str]) -> bool:
    """Return whether the words contain neither a clause nor an insertion."""
    return not num_relatives(words) and not any(word.endswith((",", ")")) for word in words)


def is_participle(word: str) -> bool:
    """Return whether a word can follow a form of be or a noun as a participle."""
    return word in PARTICIPLES or (word.endswith("ing") and len(word) > 4 and word not in _NOUNS_IN_ING | PREPOSITIONS)


def is_plural(word: str) -> bool:
    """Return whether a noun is plural."""
    return word in ("people", "men", "women", "children", "sheep", "deer", "cattle") or (
        word.endswith("s") and not word.endswith(("ss", "us", "is")) and word != "its"
    )


def is_many(words: Sequence[str]) -> bool:
    """Return whether a noun phrase takes "are"."""
    if words[0] in ("no", "the", "its", "his", "her", "their"):
        return is_plural(head(words)[-1])
    return words[0] not in ("a", "an", "one", "half") or words[1:2] in (
        ["few"],
        ["couple"],
        ["lot"],
        ["number"],
        ["variety"],
    )


def head(words: Sequence[str]) -> list[str]:
    """Return a noun phrase without its modifiers (place, activity, conjuncts); never empty."""
    for k, word in enumerate(words):
        if k and (word in PREPOSITIONS | CONJUNCTIONS | RELATIVES or is_participle(word)):
            return list(words[:k])
    return list(words)


def definite(words: Sequence[str]) -> list[str]:
    """Return the definite form of a noun phrase, used after its first mention.

    >>> " ".join(definite(["a", "red", "kite"])), " ".join(definite(["two", "men"])), " ".join(definite(["his", "hat"]))
    ('the red kite', 'the two men', 'his hat')
    """
    if words[0] in ("a", "an", "one", "some", "several", "many", "multiple", "numerous"):
        return ["the", *words[1:]]
    return ["the", *words] if words[0] in QUANTIFIERS else list(words)
