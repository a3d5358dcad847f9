"""Parts a short noun phrase into its runs of nouns, by closed lists of words that are no nouns.

Object HalBench has a tagger find the runs. These lists, chosen for this project, stand in for it on phrases that name one
thing, as extractors write them ("a large wooden bench"); on whole sentences they would not do.
"""

from collections.abc import Container, Sequence

# Never part of a run: articles, pronouns, numbers, prepositions, conjunctions, adverbs, verbs.
_FUNCTION = """
a an the this that these those some any each every another other both few many much several various multiple numerous
no not all most more one two three four five six seven eight nine ten eleven twelve dozen hundred first second third
his her its their our your my he she it they we you who which whose what there here
of in on at by with without from to for into onto over under above below behind beside between near next around along
across through inside outside off up down against among beyond within like as
and or but nor while if then than
is are was were be been being has have had holding wearing do does did can could may might will would
very quite rather slightly partially mostly nearly almost also just only together alone nearby away asleep awake
possibly perhaps probably likely visible
"""
_ADJECTIVES = """
big large huge giant small little tiny miniature mini tall short long wide narrow thick thin deep shallow high low
full empty half open shut round square rectangular circular oval curved straight flat
red blue green yellow white black grey gray brown pink purple violet beige tan golden turquoise teal maroon navy
dark light bright pale colorful colourful multicolored vivid clear transparent translucent shiny glossy
wooden metallic woolen silky furry fluffy hairy woolly leafy grassy sandy snowy rocky muddy dusty rusty dirty clean
old new young elderly modern antique vintage ancient traditional classic contemporary rustic elegant fancy simple plain
beautiful pretty cute lovely adorable handsome nice good bad happy sad cheerful playful friendly calm quiet busy
hot cold warm cool wet dry fresh ripe raw juicy sweet tasty delicious spicy creamy crispy
single double main central left right front back rear upper lower top bottom middle distant close foreground
electric electrical digital portable public private commercial residential urban rural industrial professional
soft hard heavy sharp smooth rough cozy comfortable similar same different unknown unidentified typical
whole entire partial individual additional extra separate own asian african american european chinese japanese
"""
# Also nouns: part of a run only where no noun follows.
_NOUNS_TOO = "orange male female adult plastic gold silver young light back front top bottom human"
# Words that end like participles, but are nouns.
_NOUNS_IN_ING_ED = """
building ceiling clothing painting railing wedding ring string wing king swing awning lighting pudding thing crossing 
parking dining bed seed sled shed weed reed feed
"""
FUNCTION_WORDS = frozenset(_FUNCTION.split())
ADJECTIVES = frozenset(_ADJECTIVES.split())
NOUNS_TOO = frozenset(_NOUNS_TOO.split())
NOUNS_IN_ING_ED = frozenset(_NOUNS_IN_ING_ED.split())


def noun_runs(words: Sequence[str], nouns: Container[str] = ()) -> list[str]:
    """Return every maximal run of nouns, its words joined by spaces.

    Args:
        words: in lower case.
        nouns: words that are nouns whatever they end in.

    >>> noun_runs("a large wooden bench".split()), noun_runs("kitchen table".split())
    (['bench'], ['kitchen table'])
    >>> noun_runs("an orange cat next to slices of orange".split())
    ['cat', 'slices', 'orange']
    """
    is_noun = [_is_noun(word, nouns) for word in words]
    runs: list[list[str]] = [[]]
    for place, word in enumerate(words):
        if is_noun[place] and not (word in NOUNS_TOO and any(is_noun[place + 1 : place + 2])):
            runs[-1].append(word)
        else:
            runs.append([])
    return [" ".join(run) for run in runs if run]


def _is_noun(word: str, nouns: Container[str]) -> bool:
    if word in nouns or word in NOUNS_TOO or word in NOUNS_IN_ING_ED:
        return True
    is_word = word.replace("'", "").isalpha() and not word.startswith("'")
    return is_word and word not in FUNCTION_WORDS and word not in ADJECTIVES and not word.endswith(("ing", "ed"))
