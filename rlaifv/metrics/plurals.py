"""Map plurals to the words of a closed list, without a dictionary."""

from collections.abc import Iterable

# Reviewed by hand; every other word follows the rules of `plurals_of`.
IRREGULAR = {
    "child": ("children",),
    "deer": ("deer",),
    "fish": ("fish", "fishes"),
    "foot": ("feet",),
    "goose": ("geese",),
    "grandchild": ("grandchildren",),
    "louse": ("lice",),
    "mouse": ("mice",),
    "ox": ("oxen",),
    "person": ("persons",),
    "schoolchild": ("schoolchildren",),
    "sheep": ("sheep",),
    "tooth": ("teeth",),
}
_WITHOUT_PLURAL = """
binoculars broccoli children cutlery flatware glasses luggage pants people scissors shears silverware skis sports 
sunglasses traffic
"""
WITHOUT_PLURAL = frozenset(_WITHOUT_PLURAL.split())
# Of the words in -f and -fe, these change it to -ves.
VES = ("calf", "half", "knife", "leaf", "life", "loaf", "scarf", "shelf", "thief", "wife", "wolf")


def regular_plural(word: str) -> str:
    """Return the plural by rule.

    >>> [regular_plural(word) for word in ("dog", "bench", "cherry", "monkey", "snowman", "cafe")]
    ['dogs', 'benches', 'cherries', 'monkeys', 'snowmen', 'cafes']
    """
    if word.endswith("man") and not word.endswith("human"):
        return word[:-2] + "en"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def plurals_of(word: str) -> tuple[str, ...]:
    """Return the plurals of an English noun; several where usage differs, none for what has no other form.

    >>> plurals_of("bus"), plurals_of("knife"), plurals_of("giraffe"), plurals_of("policeman"), plurals_of("skis")
    (('buses', 'busses'), ('knives',), ('giraffes',), ('policemen',), ())
    """
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word in WITHOUT_PLURAL or not word.isalpha():
        return ()
    if word.endswith("bus"):
        return (word + "es", word + "ses")
    if word.endswith(VES):
        return (word.removesuffix("e").removesuffix("f") + "ves",)
    return (regular_plural(word), word + "es") if word.endswith("o") else (regular_plural(word),)


def singulars(words: Iterable[str]) -> dict[str, str]:
    """Return the closed table from plurals to the words of a list. The first of two words with the same plural has it.

    A plural that is itself a word of the list has a singular all the same, as a lemmatizer would have it.

    >>> singulars(["child", "children", "knife"])
    {'children': 'child', 'knives': 'knife'}
    """
    table: dict[str, str] = {}
    for word in dict.fromkeys(words):
        for plural in plurals_of(word):
            if plural != word:
                table.setdefault(plural, word)
    return table
