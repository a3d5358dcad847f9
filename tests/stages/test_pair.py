import random
from collections import Counter
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlaifv.records import Claim, Judgement, Response, Verdict
from rlaifv.stages.answer_scores import score_responses
from rlaifv.stages.pair import (
    PAIR_REASONS,
    RESPONSE_REASONS,
    PairingRules,
    build_pairs,
    length_threshold,
    pair_statistics,
)

VERDICTS: dict[str, Verdict] = {"+": "accepted", "-": "rejected", "?": "unknown"}
UNBALANCED = PairingRules(length_balance=False)


def answer(key: str, text: str, marks: str, finished: bool = True) -> tuple[Response, list[Judgement]]:
    """A response such as "p1/0" and a judgement per mark: "+" accepted, "-" rejected, "?" unknown."""
    prompt_id = key.split("/")[0]
    response = Response(key, prompt_id, text, (len(text), 2), finished, 0)
    judgements = [
        Judgement(f"{key}/{k}", key, prompt_id, 0.9 if mark == "+" else 0.1, 0.1, VERDICTS[mark])
        for k, mark in enumerate(marks)
    ]
    return response, judgements


def table(*answers: tuple[Response, list[Judgement]]) -> tuple[list[Response], list[Judgement]]:
    return [response for response, _ in answers], [judgement for _, some in answers for judgement in some]


@st.composite
def feedback(draw: st.DrawFn) -> tuple[list[Response], list[Judgement]]:
    answers = []
    for prompt in range(draw(st.integers(0, 4))):
        for k in range(draw(st.integers(0, 6))):
            text = " ".join("w" * draw(st.integers(0, 9)))
            marks = "".join(draw(st.lists(st.sampled_from("++--"), max_size=4)))
            unknown = "?" if draw(st.integers(0, 9)) == 0 else ""
            answers.append(answer(f"p{prompt}/{k}", text, marks + unknown, draw(st.integers(0, 9)) > 0))
    return table(*answers)


def test_the_rules_score_is_the_one_that_pairs() -> None:
    """Two of six claims rejected against one of one: more of them, but a smaller share."""
    responses, judgements = table(answer("p/0", "long", "--++++"), answer("p/1", "short", "-"))
    (by_number,), _ = build_pairs(responses, judgements, PairingRules(length_balance=False), 0)
    (by_rate,), _ = build_pairs(responses, judgements, PairingRules(0.2, length_balance=False, score="rate"), 0)
    assert (by_number.chosen, by_rate.chosen) == ("short", "long")
    with pytest.raises(ValueError, match="must be one of rejected, rate, probability, net, f_score, but it is 'sum'"):
        PairingRules(score="sum")  # type: ignore[arg-type]


def test_a_chosen_answer_that_says_less_that_is_true_is_dropped_on_request() -> None:
    responses, judgements = table(answer("p/0", "silent", "+"), answer("p/1", "full of facts", "+++-"))
    assert [pair.chosen for pair in build_pairs(responses, judgements, UNBALANCED, 0)[0]] == ["silent"]
    rules = PairingRules(length_balance=False, keep_accepted=True)
    assert build_pairs(responses, judgements, rules, 0) == ([], Counter(fewer_accepted=1))


def test_pairs_of_different_lengths_are_dropped_on_request() -> None:
    responses, judgements = table(answer("p/0", "two words", "+"), answer("p/1", "these are four words", "-"))
    for gap, num_pairs in ((0.5, 1), (0.49, 0)):
        rules = PairingRules(length_balance=False, max_length_gap=gap)
        pairs, drops = build_pairs(responses, judgements, rules, 0)
        assert (len(pairs), drops["length_mismatch"]) == (num_pairs, 1 - num_pairs)


@pytest.mark.parametrize("rules", [{"score_weight": 0.0}, {"max_length_gap": 1.5}, {"score": "f_score"}])
def test_rules_of_scores_that_have_no_meaning_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|between 0 and 1"):
        PairingRules(**rules)  # type: ignore[arg-type]


@pytest.mark.parametrize("rules", [{"margin": 0.0}, {"margin": float("nan")}, {"max_pairs_per_prompt": 0}])
def test_rules_that_make_no_pairs_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be a"):
        PairingRules(**rules)  # type: ignore[arg-type]


def test_the_better_scored_response_is_chosen() -> None:
    responses, judgements = table(answer("p1/0", "bad one", "--+"), answer("p1/1", "good", "-+"))
    (pair,), drops = build_pairs(responses, judgements, PairingRules(), seed=0)
    assert pair.id == "p1/1>p1/0"
    assert (pair.prompt_id, pair.chosen_response_id, pair.rejected_response_id) == ("p1", "p1/1", "p1/0")
    assert (pair.chosen, pair.rejected) == ("good", "bad one")
    assert (pair.chosen_token_ids, pair.rejected_token_ids) == ((4, 2), (7, 2))
    assert (pair.chosen_score, pair.rejected_score) == (-1.0, -2.0)
    assert drops == Counter()


def test_every_reason_to_drop_is_counted_once() -> None:
    responses, judgements = table(
        answer("p1/0", "red", "+"),
        answer("p1/1", " red ", "-"),  # identical to 0, whatever its score
        answer("p1/2", "blue", "+"),  # tie with 0
        answer("p1/3", "  ", "", finished=False),  # empty comes before truncated and no_claims
        answer("p1/4", "cut", "-", finished=False),
        answer("p1/5", "mute", ""),
        answer("p1/6", "odd", "-?"),
    )
    pairs, drops = build_pairs(responses, judgements, UNBALANCED, seed=0)
    assert [pair.id for pair in pairs] == ["p1/2>p1/1"]
    assert drops == Counter(empty_response=1, truncated=1, no_claims=1, unknown=1, identical=1, tie=1)


@pytest.mark.parametrize(("margin", "ids"), [(1, ["0>1", "0>2", "1>2"]), (1.5, ["0>2", "1>2"]), (3, ["0>2"]), (4, [])])
def test_margin(margin: float, ids: list[str]) -> None:
    responses, judgements = table(answer("p/0", "a", "+"), answer("p/1", "b", "-"), answer("p/2", "c", "---"))
    rules = PairingRules(margin=margin, max_pairs_per_prompt=9, length_balance=False)
    pairs, drops = build_pairs(responses, judgements, rules, seed=0)
    assert [pair.id.replace("p/", "") for pair in pairs] == ids
    assert drops["tie"] == 3 - len(ids)


def test_cap_is_a_uniform_sample_that_depends_on_the_seed() -> None:
    responses, judgements = table(*(answer(f"p1/{k}", "w" * (k + 1), "-" * k + "+") for k in range(4)))
    counts: Counter[str] = Counter()
    for seed in range(600):
        pairs, drops = build_pairs(responses, judgements, UNBALANCED, seed)
        assert len(pairs) == len({pair.id for pair in pairs}) == 2
        assert drops == Counter(over_cap=4)
        counts.update(pair.id for pair in pairs)
    # Each of the 6 pairs is kept with p = 1/3: 200 of 600, standard deviation 11.5.
    assert len(counts) == 6
    assert all(140 < count < 260 for count in counts.values())
    assert build_pairs(responses, judgements, UNBALANCED, 7) == build_pairs(responses, judgements, UNBALANCED, 7)


def test_prompts_draw_independently() -> None:
    rows = {p: [answer(f"{p}/{k}", "w" * (k + 1), "-" * k + "+") for k in range(5)] for p in map(str, range(8))}
    kept = {p: build_pairs(*table(*some), UNBALANCED, seed=3)[0] for p, some in rows.items()}
    together, _ = build_pairs(*table(*(one for some in rows.values() for one in some)), UNBALANCED, seed=3)
    assert together == [pair for pairs in kept.values() for pair in pairs]
    assert len({tuple(pair.id.replace(f"{p}/", "") for pair in pairs) for p, pairs in kept.items()}) > 1


@pytest.mark.parametrize(
    ("chosen", "rejected", "threshold"),
    [
        ([], [], 1.0),
        ([10], [10], 0.0),
        # 0 keeps (12, 10): gap 0.2. From 1/11 on (10, 11) is kept too, 22 against 21. 0.5 adds (10, 20): 32 against 41.
        ([10, 10, 12], [20, 11, 10], 0.1),
        # 0 keeps (15, 10): gap 0.5. 0.5 adds (5, 10), exactly on the threshold: 20 against 20.
        ([15, 5], [10, 10], 0.5),
        # 0 keeps (12, 10), and from 0.6 on both are kept, 16 against 20: the gap is 0.2 either way, so the first wins.
        ([12, 4], [10, 10], 0.0),
        # The chosen side is longer throughout: nothing can be dropped, and 0 keeps everything.
        ([20, 30], [10, 10], 0.0),
        # Below 0.98 nothing would be left; 98 of 100 words missing is kept by 0.98.
        ([2], [100], 0.98),
        # Not even 0.98 keeps it.
        ([1], [100], 1.0),
        ([0, 3], [0, 0], 1.0),
        # Dropping short chosen sides would only take the balance away from where 0.3 has it: 10 + 7 + 13 = 30.
        ([10, 7, 13, 1], [10, 10, 10, 10], 0.3),
    ],
)
def test_length_threshold_by_hand(chosen: list[int], rejected: list[int], threshold: float) -> None:
    assert length_threshold(chosen, rejected) == threshold


def test_length_threshold_refuses_unequal_columns() -> None:
    with pytest.raises(ValueError, match="2 chosen and 1 rejected"):
        length_threshold([1, 2], [1])


LENGTHS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30)


def exact_threshold(lengths: list[tuple[int, int]]) -> float:
    """The search in fractions, with the means written out."""
    found = []
    for threshold in (Fraction(step, 50) for step in range(50)):
        kept = [(c, r) for c, r in lengths if r == 0 or Fraction(r - c, r) <= threshold]
        if any(r for _, r in kept):
            chosen, rejected = (Fraction(sum(column), len(kept)) for column in zip(*kept, strict=True))
            found.append((abs(chosen - rejected) / rejected, threshold))
    return float(min(found)[1]) if found else 1.0


@given(LENGTHS, st.randoms())
def test_length_threshold_is_exact_and_never_leaves_nothing(lengths: list[tuple[int, int]], rng: random.Random) -> None:
    threshold = length_threshold([c for c, _ in lengths], [r for _, r in lengths])
    assert threshold == exact_threshold(lengths)
    assert bool(lengths) == any(r == 0 or (r - c) / r <= threshold for c, r in lengths)
    shuffled = rng.sample(lengths, len(lengths))
    assert length_threshold([c for c, _ in shuffled], [r for _, r in shuffled]) == threshold


def test_length_balance_drops_short_chosen_responses_across_prompts() -> None:
    words = {"p1": (10, 20), "p2": (10, 11), "p3": (12, 10)}
    rows = [
        row
        for p, (chosen, rejected) in words.items()
        for row in (answer(f"{p}/0", "c " * chosen, "+"), answer(f"{p}/1", "r " * rejected, "-"))
    ]
    pairs, drops = build_pairs(*table(*rows), PairingRules(), seed=0)
    assert [pair.prompt_id for pair in pairs] == ["p2", "p3"]
    assert drops == Counter(length_balance=1)
    pairs, drops = build_pairs(*table(*rows), UNBALANCED, seed=0)
    assert [pair.prompt_id for pair in pairs] == ["p1", "p2", "p3"]
    assert drops == Counter()


def test_nothing_makes_no_pairs() -> None:
    assert build_pairs([], [], PairingRules(), seed=0) == ([], Counter())


@given(feedback(), st.integers(1, 3), st.sampled_from([1.0, 2.0]), st.booleans(), st.integers(0, 3))
def test_all_pairs_keep_the_rules_and_all_drops_are_accounted_for(
    records: tuple[list[Response], list[Judgement]], cap: int, margin: float, balance: bool, seed: int
) -> None:
    responses, judgements = records
    scores = score_responses(responses, judgements)
    pairs, drops = build_pairs(responses, judgements, PairingRules(margin, cap, balance), seed)
    by_id = {response.id: response for response in responses}
    for pair in pairs:
        assert pair.chosen_response_id != pair.rejected_response_id
        assert pair.chosen.strip() != pair.rejected.strip()
        assert pair.chosen_score - pair.rejected_score >= margin
        assert by_id[pair.chosen_response_id].prompt_id == by_id[pair.rejected_response_id].prompt_id == pair.prompt_id
        assert (pair.chosen_score, pair.rejected_score) == (
            scores[pair.chosen_response_id],
            scores[pair.rejected_response_id],
        )
    assert len({frozenset((pair.chosen_response_id, pair.rejected_response_id)) for pair in pairs}) == len(pairs)
    assert all(count <= cap for count in Counter(pair.prompt_id for pair in pairs).values())

    assert set(drops) <= {*RESPONSE_REASONS, *PAIR_REASONS}
    assert all(drops.values())
    unknown = {judgement.response_id for judgement in judgements if judgement.verdict == "unknown"}
    usable = [r for r in responses if r.text.strip() and r.finished and r.id in scores and r.id not in unknown]
    assert sum(drops[reason] for reason in RESPONSE_REASONS) == len(responses) - len(usable)
    num_combinations = sum(a.prompt_id == b.prompt_id for a, b in combinations(usable, 2))
    assert sum(drops[reason] for reason in PAIR_REASONS) == num_combinations - len(pairs)
    if num_combinations > drops["identical"] + drops["tie"]:
        assert pairs


@given(feedback(), st.randoms(), st.integers(0, 3))
def test_order_of_records_does_not_matter(
    records: tuple[list[Response], list[Judgement]], rng: random.Random, seed: int
) -> None:
    responses, judgements = records
    pairs, drops = build_pairs(responses, judgements, PairingRules(), seed)
    shuffled = rng.sample(responses, len(responses))
    others, other_drops = build_pairs(shuffled, rng.sample(judgements, len(judgements)), PairingRules(), seed)
    order = list(dict.fromkeys(response.prompt_id for response in shuffled))
    assert others == sorted(pairs, key=lambda pair: order.index(pair.prompt_id))
    assert other_drops == drops


def test_statistics_by_hand() -> None:
    responses, judgements = table(
        answer("p1/0", "one two three", "+++"),
        answer("p1/1", "one two", "-"),
        answer("p1/2", "four", "---"),
        answer("p1/3", "cut off", "+", finished=False),
        answer("p1/4", "who knows", "?-"),
    )
    rules = PairingRules(max_pairs_per_prompt=3, length_balance=False)
    pairs, drops = build_pairs(responses, judgements, rules, seed=0)
    assert pair_statistics(responses, judgements, pairs, drops + Counter(too_short=2)) == {
        "responses": 5.0,
        "claims": 10.0,
        "claims_per_response": 2.0,
        "rejection_rate": 0.5,
        "unknown_rate": 0.1,
        "pairs_kept": 3.0,
        "pairs_possible": 3.0,
        "dropped/empty_response": 0.0,
        "dropped/truncated": 1.0,
        "dropped/no_claims": 0.0,
        "dropped/unknown": 1.0,
        "dropped/identical": 0.0,
        "dropped/tie": 0.0,
        "dropped/over_cap": 0.0,
        "dropped/length_balance": 0.0,
        "dropped/too_short": 2.0,
        # Chosen: 3 + 3 + 2 words, rejected: 2 + 1 + 1.
        "length/chosen_words": pytest.approx(8 / 3),
        "length/rejected_words": pytest.approx(4 / 3),
    }


def test_possible_pairs_are_those_before_cap_and_balance() -> None:
    rows = [answer(f"p1/{k}", "w " * (k + 1), "-" * (4 - k) + "+") for k in range(4)]
    responses, judgements = table(*rows)
    pairs, drops = build_pairs(responses, judgements, PairingRules(max_pairs_per_prompt=1), seed=0)
    statistics = pair_statistics(responses, judgements, pairs, drops)
    assert (statistics["pairs_kept"], statistics["pairs_possible"]) == (1.0, 6.0)


def test_statistics_of_nothing_are_zero() -> None:
    statistics = pair_statistics([], [], [], Counter())
    assert set(statistics.values()) == {0.0}
    assert {f"dropped/{reason}" for reason in (*RESPONSE_REASONS, *PAIR_REASONS)} < set(statistics)


REFERENCE = PairingRules(max_pairs_per_prompt=9, length_balance=False, order="reference")


def claims_of(judgements: list[Judgement], questions: dict[str, str] | None = None) -> list[Claim]:
    """A question of its own for each claim, unless `questions` says otherwise."""
    return [
        Claim(one.claim_id, one.response_id, one.prompt_id, "text", (questions or {}).get(one.claim_id, one.claim_id))
        for one in judgements
    ]


def test_the_reference_pairs_what_the_paper_leaves_out() -> None:
    """Cut answers and unknown verdicts take part; an answer without claims does not."""
    responses, judgements = table(
        answer("p/0", "red", "+"),
        answer("p/1", "cut", "-", finished=False),
        answer("p/2", "mute", ""),
        answer("p/3", "odd", "--?"),
    )
    pairs, drops = build_pairs(responses, judgements, REFERENCE, 0, claims_of(judgements))
    assert [pair.id for pair in pairs] == ["p/0>p/1", "p/0>p/3", "p/1>p/3"]
    assert drops == Counter(no_claims=1)


def test_the_reference_drops_answers_with_a_question_twice() -> None:
    responses, judgements = table(answer("p/0", "a", "+"), answer("p/1", "b", "--"), answer("p/2", "c", "---"))
    asked_twice = claims_of(judgements, {"p/1/1": "p/1/0"})
    pairs, drops = build_pairs(responses, judgements, REFERENCE, 0, asked_twice)
    assert [pair.id for pair in pairs] == ["p/0>p/2"]
    assert drops == Counter(repeated_question=2)
    # Two answers may well share a question, and the paper's order does not mind either.
    shared = claims_of(judgements, {"p/1/0": "p/0/0"})
    assert len(build_pairs(responses, judgements, REFERENCE, 0, shared)[0]) == 3
    rules = PairingRules(max_pairs_per_prompt=9, length_balance=False)
    assert len(build_pairs(responses, judgements, rules, 0, asked_twice)[0]) == 3


def test_the_reference_drops_a_prompt_that_comes_again() -> None:
    first = [answer("p/0", "a", "+"), answer("p/1", "b", "-")]
    responses, judgements = table(*first, answer("q/0", "c", "+"), answer("q/1", "d", "-"), answer("p/2", "e", "--"))
    pairs, drops = build_pairs(responses, judgements, REFERENCE, 0, claims_of(judgements))
    assert [pair.id for pair in pairs] == ["p/0>p/1", "q/0>q/1"]
    assert drops == Counter(not_contiguous=1)


def test_the_reference_caps_before_it_drops_identical_texts() -> None:
    """Two of three pairs survive the cap, whichever they are; the identical one leaves after it, and is not made up for."""
    responses, judgements = table(answer("p/0", "same", "+"), answer("p/1", " same", "-"), answer("p/2", "c", "---"))
    rules = PairingRules(max_pairs_per_prompt=2, length_balance=False, order="reference")
    sizes = set()
    for seed in range(30):
        pairs, drops = build_pairs(responses, judgements, rules, seed, claims_of(judgements))
        assert drops["over_cap"] == 1
        assert len(pairs) == 2 - drops["identical"]
        sizes.add(len(pairs))
    assert sizes == {1, 2}
    assert len(build_pairs(responses, judgements, PairingRules(length_balance=False), 0)[0]) == 2


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of paper, reference, but it is 'random'"):
        PairingRules(order="random")  # type: ignore[arg-type]


def test_chosen_answers_of_another_model_are_paired_with_rejected_ones_of_the_policy_only() -> None:
    responses, judgements = table(
        answer("p/0", "a b c", "+-"),
        answer("p/1", "d e f", "--"),
        answer("p/2-other", "g h i", "++"),
        answer("p/3-other", "j k l", "---"),
    )
    others = {"p/2-other", "p/3-other"}
    pairs, drops = build_pairs(responses, judgements, UNBALANCED, 0, others=others)
    assert [pair.id for pair in pairs] == ["p/2-other>p/0", "p/2-other>p/1"]
    assert drops == {}
    assert (
        len(build_pairs(responses, judgements, PairingRules(max_pairs_per_prompt=9, length_balance=False), 0)[0]) == 6
    )
