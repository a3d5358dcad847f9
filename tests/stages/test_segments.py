"""Segments of answers: where they end, which facts they claim, and which classes verdicts give them."""

from collections.abc import Sequence
from typing import Any, get_args

import pytest

from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import Prompter
from rlaifv.models.reward_head import NUM_CLASSES, RewardSpec
from rlaifv.records import Claim, Judgement, LabelledSegments, Prompt, Response, Verdict
from rlaifv.stages.comparisons import is_held_out
from rlaifv.stages.dividers.kinds import KINDS, RuleFacts
from rlaifv.stages.segments import DivideSegments, LabelSegments, segment_classes, segment_spans, segments_of
from rlaifv.stages.stage import Task
from rlaifv.worlds.shapes import COLOURS, SHAPES
from rlaifv.worlds.shapes_facts import ShapesFacts
from rlaifv.worlds.shapes_model import build_processor

RING, STAR = "At the top, there is a red ring.", "There is a blue star at the left."
SPEC = RewardSpec(KINDS, NUM_CLASSES)


@pytest.fixture
def policy(model: Any, prompter: Prompter) -> LocalEngine:
    return LocalEngine(model, prompter)


def ids_of(prompter: Prompter, text: str, ends: bool = True) -> tuple[int, ...]:
    ids = prompter.tokenizer(text, add_special_tokens=False).input_ids
    return (*ids, prompter.tokenizer.eos_token_id) if ends else tuple(ids)


def response(prompter: Prompter, text: str, number: int = 0, prompt_id: str = "p") -> Response:
    return Response(f"{prompt_id}/{number}", prompt_id, text, ids_of(prompter, text), True, 0)


def first_place(ids: Sequence[int], prompter: Prompter, end: int) -> int:
    """The first token after which the text is at least `end` characters long."""
    return next(k for k in range(len(ids)) if len(prompter.decode(ids[: k + 1])) >= end)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        (" \n ", []),
        ("A dog", ["A dog"]),
        ("A dog. A cat!  A cow?", ["A dog.", "A cat!", "A cow?"]),
        ("It is 3.5 m wide. It is red.", ["It is 3.5 m wide.", "It is red."]),
        ("It is 3.", ["It is 3."]),
        ("Hm... A dog", ["Hm...", "A dog"]),
        ('It says "Stop!" It is red.', ['It says "Stop!"', "It is red."]),
        ("- A dog\n- A cat\n\nEnd", ["- A dog", "- A cat", "End"]),
        ("At the top, there is a red ring.", ["At the top, there is a red ring."]),  # three words before the comma
        ("One two three four five, six seven.", ["One two three four five, six seven."]),  # two words after it
        ("One two three four five, a b c d e.", ["One two three four five,", "a b c d e."]),
        ("One two three four five; a b c d e: f g h i j", ["One two three four five;", "a b c d e:", "f g h i j"]),
        ("One two three four 5,000 a b c d e.", ["One two three four 5,000 a b c d e."]),
    ],
)
def test_answers_are_cut_into_sentences_and_long_parts(text: str, wanted: list[str]) -> None:
    assert [text[start:end] for start, end in segment_spans(text)] == wanted


@pytest.mark.parametrize("ends", [True, False])
def test_a_segment_ends_at_the_token_that_completes_it(prompter: Prompter, ends: bool) -> None:
    # At, the, top, comma, there, is, a, red, ring, full stop: 10 tokens.
    # There, is, a, blue, star, at, the, left, full stop: 9 tokens.
    ids = ids_of(prompter, f"{RING} {STAR}", ends)
    assert len(ids) == 19 + ends
    assert segments_of(ids, prompter.decode) == [(RING, 9), (STAR, 18)]


@pytest.mark.parametrize(
    "text",
    [
        f"{RING} {STAR}",
        f"{RING}\n\n{STAR}\n",
        f" {RING}  {STAR} Yes",
        "There is a red ring at the top, there is a blue star at the left.",
        "Is it true? Yes! No.",
    ],
)
def test_every_place_is_right_wherever_an_answer_is_cut(prompter: Prompter, text: str) -> None:
    whole = ids_of(prompter, text)
    numbers = set()
    for num in range(len(whole) + 1):
        ids = whole[:num]
        said = prompter.decode(ids)
        spans = segment_spans(said)
        wanted = [(said[start:end], first_place(ids, prompter, end)) for start, end in spans]
        assert segments_of(ids, prompter.decode) == wanted
        numbers.add(len(spans))
    assert max(numbers) >= 2
    assert 0 in numbers


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_an_empty_answer_has_no_segments(prompter: Prompter, text: str) -> None:
    assert segments_of(ids_of(prompter, text), prompter.decode) == []
    assert segments_of((), prompter.decode) == []


def test_an_answer_without_a_full_stop_ends_before_its_end_token(prompter: Prompter) -> None:
    assert segments_of(ids_of(prompter, "There is a ring"), prompter.decode) == [("There is a ring", 3)]


def test_a_decimal_number_ends_no_segment() -> None:
    processor = build_processor()
    processor.tokenizer.add_tokens(["3", "5"])
    prompter = Prompter(processor)
    ids = ids_of(prompter, "There is 3.5 of a ring. A star")
    # There, is, space, 3, full stop, 5, of, a, ring, full stop; A, star.
    assert segments_of(ids, prompter.decode) == [("There is 3.5 of a ring.", 9), ("A star", 11)]
    # Cut after "3.", the answer does end there.
    assert segments_of(ids[:5], prompter.decode) == [("There is 3.", 4)]


def test_white_space_after_a_segment_is_not_its_end(prompter: Prompter) -> None:
    ids = ids_of(prompter, "A ring.\n\nA star.")
    # A, ring, full stop, two new lines; A, star, full stop.
    assert segments_of(ids, prompter.decode) == [("A ring.", 2), ("A star.", 7)]


def test_a_letter_of_several_tokens_counts_when_it_is_complete() -> None:
    def decode(ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")

    # Every byte is a token: C, a, f, two of é; and then a space, and two of é.
    assert segments_of(tuple("Café".encode()), decode) == [("Café", 4)]
    assert segments_of(tuple("Café. é".encode()), decode) == [("Café.", 5), ("é", 8)]


def test_segments_that_end_in_one_token_are_one() -> None:
    pieces = ["A cat", ". Dog.", " Cow. Hen."]

    def decode(ids: Sequence[int]) -> str:
        return "".join(pieces[k] for k in ids)

    assert segments_of((0, 1, 2), decode) == [("A cat. Dog.", 1), ("Cow. Hen.", 2)]


@pytest.mark.parametrize(
    ("segment", "wanted"),
    [
        (
            "There is a brown dog on the sofa.",
            [
                ("existence", "There is a dog.", "Is there a dog?"),
                ("attribute", "There is a brown dog.", "Is there a brown dog?"),
                ("relation", "There is a brown dog on the sofa.", "Is there a brown dog on the sofa?"),
            ],
        ),
        ("There is a dog.", [("existence", "There is a dog.", "Is there a dog?")]),
        (
            "There is a cup on it.",
            [
                ("existence", "There is a cup.", "Is there a cup?"),
                ("relation", "There is a cup on it.", "Is there a cup on it?"),
            ],
        ),
        ("The dog is brown.", [("attribute", "The dog is brown.", "Is the dog brown?")]),
        ("The dog is running.", [("relation", "The dog is running.", "Is the dog running?")]),
        ("The dog is on the sofa.", [("relation", "The dog is on the sofa.", "Is the dog on the sofa?")]),
        ("The man holds a cup.", [("relation", "The man holds a cup.", "Does the man hold a cup?")]),
        ("It looks beautiful.", []),
        ("", []),
    ],
)
def test_facts_of_english_have_a_kind(segment: str, wanted: list[tuple[str, str, str]]) -> None:
    found = RuleFacts()(segment)
    assert [(fact.kind, fact.text, *fact.questions) for fact in found] == wanted


def test_facts_of_several_claims_come_in_order() -> None:
    found = RuleFacts()("There are two red cups. The man is tall.")
    assert [(fact.kind, fact.text) for fact in found] == [
        ("existence", "There are two cups."),
        ("attribute", "There are two red cups."),
        ("attribute", "The man is tall."),
    ]


def test_facts_of_the_world_are_asked_for_in_all_colours_or_shapes() -> None:
    existence, attribute, relation = ShapesFacts()(RING)
    assert [fact.kind for fact in (existence, attribute, relation)] == list(KINDS)
    assert {fact.text for fact in (existence, attribute, relation)} == {"There is a red ring at the top."}
    assert existence.questions == tuple(f"Is there a {colour} ring at the top?" for colour in COLOURS)
    assert attribute.questions == tuple(f"Is there a red {shape} at the top?" for shape in SHAPES)
    assert relation.questions == ("Is there a red ring at the top?",)


def test_what_is_not_of_the_world_is_no_fact() -> None:
    assert ShapesFacts()("There is a brown dog on the sofa.") == []
    assert len(ShapesFacts()(f"There is a dog. {STAR}")) == 3


def claims_of(*facts: str) -> list[Claim]:
    """Claims "<end> <kind> <fact>", one for each question; a repeated fact has several questions."""
    found = []
    for k, fact in enumerate(facts):
        end, kind, name = fact.split()
        found.append(Claim(f"p/0/{k}", "p/0", "p", name, f"{name} {k}?", kind, f"{kind} {end} {name}", int(end)))
    return found


def classes(facts: Sequence[str], letters: str) -> dict[int, tuple[int, ...]] | None:
    """Classes by the verdicts of the facts' questions (a: accepted, r: rejected, u: unknown)."""
    names = {"a": "accepted", "r": "rejected", "u": "unknown"}
    claims = claims_of(*facts)
    verdicts = {claim.id: names[letter] for claim, letter in zip(claims, letters, strict=True)}
    return segment_classes(claims, verdicts, KINDS)


def test_a_segment_has_a_class_for_each_kind() -> None:
    facts = ["4 existence dog", "4 relation sofa", "9 attribute red"]
    assert classes(facts, "aaa") == {4: (1, 0, 1), 9: (0, 1, 0)}
    assert classes(facts, "ara") == {4: (1, 0, 2), 9: (0, 1, 0)}
    assert classes(facts, "rrr") == {4: (2, 0, 2), 9: (0, 2, 0)}
    assert classes([], "") == {}


@pytest.mark.parametrize(("letters", "wanted"), [("aa", 1), ("ar", 2), ("ra", 2), ("rr", 2)])
def test_one_fact_that_does_not_hold_makes_its_kind_hallucinated(letters: str, wanted: int) -> None:
    assert classes(["4 existence dog", "4 existence cat"], letters) == {4: (wanted, 0, 0)}


@pytest.mark.parametrize(("letters", "wanted"), [("ar", 1), ("ra", 1), ("ua", 1), ("rr", 2), ("ur", 2)])
def test_a_fact_holds_if_any_of_its_questions_is_accepted(letters: str, wanted: int) -> None:
    assert classes(["4 existence dog", "4 existence dog"], letters) == {4: (wanted, 0, 0)}


def test_a_fact_of_which_nothing_is_known_leaves_no_classes() -> None:
    assert classes(["4 existence dog", "9 relation sofa", "9 relation sofa"], "auu") is None
    assert classes(["4 existence dog", "9 relation sofa", "9 relation sofa"], "aua") == {4: (1, 0, 0), 9: (0, 0, 1)}


def test_the_order_of_the_kinds_is_the_reward_models() -> None:
    claims = claims_of("4 existence dog", "4 relation sofa")
    verdicts = {"p/0/0": "accepted", "p/0/1": "rejected"}
    assert segment_classes(claims, verdicts, ("relation", "existence")) == {4: (2, 1)}


def test_a_claim_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'p/0/0' is of kind 'relation', but the reward model knows existence"):
        segment_classes(claims_of("4 relation sofa"), {"p/0/0": "accepted"}, ("existence",))


def test_every_question_of_a_fact_is_a_claim(policy: LocalEngine) -> None:
    finished: list[int] = []
    stage = DivideSegments(policy, ShapesFacts())
    answers = [response(policy.prompter, f"{RING} {STAR}"), response(policy.prompter, "Yes.", 1)]
    found = stage(Task(advance=finished.append), answers).records
    # 6 colours, 6 shapes and 1 relation of each of two things.
    assert [claim.id for claim in found] == [f"p/0/{k}" for k in range(26)]
    assert [claim.end for claim in found] == [9] * 13 + [18] * 13
    assert [claim.kind for claim in found[:13]] == ["existence"] * 6 + ["attribute"] * 6 + ["relation"]
    assert found[12].question == "Is there a red ring at the top?"
    assert {(claim.response_id, claim.prompt_id) for claim in found} == {("p/0", "p")}
    assert sum(finished) == 1  # prompt


def test_a_fact_is_one_by_kind_and_segment(policy: LocalEngine) -> None:
    found = DivideSegments(policy, ShapesFacts())(Task(), [response(policy.prompter, f"{STAR} {STAR}")]).records
    assert len({claim.fact for claim in found}) == 6
    assert len({claim.question for claim in found}) == 11  # the relation is one of the colours and one of the shapes


def test_the_facts_are_among_what_claims_depend_on(policy: LocalEngine) -> None:
    producers = [DivideSegments(policy, facts).producer() for facts in (ShapesFacts(), RuleFacts())]
    assert producers[0] != producers[1]


def labelled(
    policy: LocalEngine, prompt: Prompt, texts: Sequence[str], true: Sequence[str], unknown: Sequence[str] = ()
) -> tuple[list[LabelledSegments], dict[str, int]]:
    """Label answers to a prompt; questions are accepted if they are `true`."""
    responses = [response(policy.prompter, text, k, prompt.id) for k, text in enumerate(texts)]
    claims = DivideSegments(policy, ShapesFacts())(Task(), responses).records
    judgements = []
    for claim in claims:
        verdict: Verdict = (
            "unknown" if claim.question in unknown else "accepted" if claim.question in true else "rejected"
        )
        judgements.append(Judgement(claim.id, claim.response_id, claim.prompt_id, 0.5, 0.5, verdict))
    assert {judgement.verdict for judgement in judgements} <= {*get_args(Verdict)}
    found = LabelSegments(policy, SPEC, held_out=0.5)(Task(), [prompt], responses, claims, judgements)
    return list(found.records), dict(found.drops)


def test_answers_are_labelled_by_segment(policy: LocalEngine, prompts: list[Prompt]) -> None:
    """A ring at the top that is green, and a star as it is said; "Yes." between them claims nothing."""
    true = ["Is there a green ring at the top?", "Is there a blue star at the left?"]
    (one,), drops = labelled(policy, prompts[0], [f"{RING} Yes. {STAR}"], true)
    # Yes and its full stop are the tokens 10 and 11; the star's sentence has nine.
    assert one.ends == (9, 11, 20)
    assert one.labels == (1, 2, 2, 0, 0, 0, 1, 1, 1)
    assert one.token_ids == ids_of(policy.prompter, f"{RING} Yes. {STAR}")
    assert (one.id, one.prompt_id, one.prompt_tokens) == (
        f"{prompts[0].id}/0",
        prompts[0].id,
        policy.num_tokens(prompts[0]),
    )
    assert drops == {}


def test_a_prompts_answers_are_held_out_together(policy: LocalEngine, prompts: list[Prompt]) -> None:
    held_out = {}
    for prompt in prompts:
        found, _ = labelled(policy, prompt, [RING, STAR], [])
        (held_out[prompt.id],) = {one.is_held_out for one in found}
    assert held_out == {prompt.id: is_held_out(prompt.id, 0.5) for prompt in prompts}
    assert {*held_out.values()} == {True, False}


def test_answers_that_cannot_be_labelled_are_dropped_and_counted(policy: LocalEngine, prompts: list[Prompt]) -> None:
    asked = "Is there a blue star at the left?"
    found, drops = labelled(policy, prompts[0], ["", "Yes.", STAR, RING, " "], [], unknown=[asked])
    assert [one.id for one in found] == [f"{prompts[0].id}/3"]
    # The relation has only one question, which is unknown.
    assert drops == {"empty_response": 2, "no_claims": 1, "unknown": 1}


def test_facts_stand_beside_the_question_of_the_reward_model(policy: LocalEngine, prompts: list[Prompt]) -> None:
    spec = RewardSpec(KINDS, NUM_CLASSES, "{facts} {question}")
    with pytest.raises(ValueError, match=r"reads facts about the images, but prompt .* has none"):
        LabelSegments(policy, spec)(Task(), prompts[:1], [], [], [])


def test_a_reward_model_of_whole_answers_is_refused(policy: LocalEngine) -> None:
    with pytest.raises(ValueError, match="Segments have 3 classes, but the reward model has 1"):
        LabelSegments(policy, RewardSpec(KINDS, 1))


def test_labels_depend_on_the_reward_model_and_the_share(policy: LocalEngine) -> None:
    stages = (
        LabelSegments(policy, SPEC, 0.1),
        LabelSegments(policy, SPEC, 0.2),
        LabelSegments(policy, RewardSpec(KINDS[:2], NUM_CLASSES), 0.1),
    )
    assert len({stage.producer()["segments"] for stage in stages}) == 3
