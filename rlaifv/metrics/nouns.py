"""The nouns of a closed vocabulary in a text, without a tagger, a lemmatiser or their data.

An approximation, good enough because the vocabulary is known: what a lemmatiser would turn into one of its words is listed
beforehand (regular plurals, and the exceptions below), and a tagger matters only for words that are also verbs or
adjectives, which are judged by their neighbours. Case counts: a tagger's lemmatiser leaves "Dogs" at the start of a sentence
alone, so that the word is not found (AMBER, quirk A2).
"""

import re
from collections.abc import Collection

from rlaifv.metrics.plurals import regular_plural


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Forms that the rule does not give, or gives wrongly: "leaves" is leaf and not leave, and WordNet's lemmatiser, which finds
# "men" among its nouns, leaves it so. The last four are names in lists of objects that it shortens to words outside of them.
IRREGULAR = {
    "bookshelves": "bookshelf",
    "calves": "calf",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "halves": "half",
    "heroes": "hero",
    "hooves": "hoof",
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "mangoes": "mango",
    "men": "men",
    "mice": "mouse",
    "mosquitoes": "mosquito",
    "oxen": "ox",
    "potatoes": "potato",
    "scarves": "scarf",
    "shelves": "shelf",
    "teeth": "tooth",
    "tomatoes": "tomato",
    "wives": "wife",
    "women": "woman",
    "wolves": "wolf",
    "chopsticks": "chopstick",
    "earrings": "earring",
    "slippers": "slipper",
    "sunglasses": "sunglass",
}
# Adjectives that a tagger hardly ever takes for nouns.
NEVER = frozenset({"hot"})
# Adjectives as often as nouns: not read where they stand before another word that they could belong to.
ADJECTIVES = frozenset({"individual", "light", "orange"})
# "light pole" and "orange juice" are still two nouns.
HEADS = _set("bulb bulbs fixture fixtures juice peel pole poles post posts signal slice slices switch tree trees")
# Verbs as often as nouns: not read after a word that a verb follows.
VERBS = _set(
    """
    bail bear board box brush can card court drain drink duck file fish goal ground leave line lock lounge note pack
    paddle plate plug range ring rock sign signal skate ski sound spray stage star support switch tape tie track train
    warp watch wire
    """
)
BEFORE_VERBS = _set(
    """
    to can could will would shall should may might must cannot not i we you he she they it who which people
    """
)
# After these "to" is a preposition, and what follows is a noun.
BEFORE_TO = _set("adjacent attached close connected due leading near next opposite similar tied up")
# The plural of such a noun is also a third person, after these.
BEFORE_THIRD_PERSONS = _set("he she it who which that")
# Participles as often as nouns: not read after another noun ("a boat sailing"), a form of be, or what a verb follows.
PARTICIPLES = _set("drawing painting sailing")
FORMS_OF_BE = _set("is are was were be been being while")
# "can" is a verb nearly always in descriptions; a noun after these.
BEFORE_CAN = _set("a an another aluminum beer each garbage metal one paint rubbish soda spray tin trash waste watering")
FUNCTION_WORDS = _set(
    """
    a an and are as at because but by for from he her his hanging in is it its near next on onto or over she shining
    sitting so than that the their there these they this to under was were where which while with
    """
)

_SENTENCE_END = re.compile(r"(?<=[.?!])[\"'”’)\]]*\s+|\n+")
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_POSSESSIVE = re.compile(r"['’]s$")


def sentences(text: str) -> list[str]:
    """Split after a full stop, a question or an exclamation mark with space behind it, and at line ends.

    >>> sentences("A dog. Is it wet? Yes")
    ['A dog.', 'Is it wet?', 'Yes']
    """
    return [part for part in _SENTENCE_END.split(text) if part.strip()]


def words_of(sentence: str) -> list[str]:
    """Return the words of a sentence; inner hyphens and apostrophes stay, a possessive goes.

    >>> words_of("The dog's hot-dog isn't here.")
    ['The', 'dog', 'hot-dog', "isn't", 'here']
    """
    return [_POSSESSIVE.sub("", word) for word in _WORD.findall(sentence)]


class NounFinder:
    """Finds the words of a vocabulary in a text, in their singular.

    >>> find = NounFinder({"dog", "bench", "watch", "TV"})
    >>> find("Dogs sleep near a TV. Two dogs on the benches look at a watch that people watch.")
    ['TV', 'dog', 'bench', 'watch']

    The first word has a capital, and the last one is a verb, which the word before it tells.
    """

    def __init__(self, vocabulary: Collection[str]) -> None:
        """List every form of every word.

        Args:
            vocabulary: singular words.
        """
        self.singulars = {word: word for word in vocabulary if word not in NEVER}
        for word in vocabulary:
            if word == word.lower():  # the lemmatiser knows no capitals
                self.singulars.setdefault(regular_plural(word), word)
        for form, singular in IRREGULAR.items():
            if singular in vocabulary:
                self.singulars[form] = singular
            else:
                self.singulars.pop(form, None)

    def __call__(self, text: str) -> list[str]:
        """Return the nouns in order, as often as they occur."""
        found = []
        for sentence in sentences(text):
            words = words_of(sentence)
            for place, word in enumerate(words):
                if word in self.singulars and self._is_noun(words, place):
                    found.append(self.singulars[word])
        return found

    def _is_noun(self, words: list[str], place: int) -> bool:
        """Return whether an ambiguous word is a noun here, as far as its neighbours tell; other words always are."""
        word = words[place]
        before = words[place - 1].lower() if place else ""
        after = words[place + 1].lower() if place + 1 < len(words) else ""
        if word == "can":
            return before in BEFORE_CAN
        if word in ADJECTIVES:
            return not after or after in FUNCTION_WORDS or after in HEADS
        if word in PARTICIPLES:
            return before not in self.singulars and before not in FORMS_OF_BE | BEFORE_VERBS
        if self.singulars[word] not in VERBS:
            return True
        if word != self.singulars[word]:
            return before not in BEFORE_THIRD_PERSONS
        # "next to rocks" names things.
        is_preposition = before == "to" and place > 1 and words[place - 2].lower() in BEFORE_TO
        return before not in BEFORE_VERBS or is_preposition
