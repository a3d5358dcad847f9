from rlaifv.stages.dividers.content import content_words, is_negated, numbers


def test_content_words_leave_out_what_carries_nothing() -> None:
    assert content_words("There is one of the women's dresses, which costs 4.50 and isn't ironed.") == {
        *("women", "dres", "which", "cost", "4.50", "iron"),
    }


def test_numbers_are_digits() -> None:
    assert numbers(content_words("Two of the 15 cups cost 4.50, one is red.")) == {"2", "15", "4.50"}


def test_denial() -> None:
    assert [
        is_negated(text) for text in ("There is no dog.", "It isn’t red.", "Nobody sits.", "A note.", "Knots.")
    ] == [
        *(True, True, True, False, False),
    ]
