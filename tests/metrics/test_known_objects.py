"""The benchmarks' formulas on a tiny world, by hand, and on the embedded one."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.metrics.known_objects import benchmark_rates
from rlaifv.metrics.truth import BenchmarkQuestion, KnownObjects
from rlaifv.models.loading import load_model
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.records import Prompt, Response
from rlaifv.worlds.shapes_model import WEIGHTS_DIR
from rlaifv.worlds.shapes_source import ShapesSource

OBJECTS = {"p": ["red circle", "blue ring"], "q": ["black cross", "red ring"]}
LIKELY = {"p": ["purple ring"], "q": ["purple ring", "green star"]}
PROMPTS = [Prompt(name, "Describe the image.", ()) for name in OBJECTS]


class World:
    """Two images, and questions about them."""

    def __init__(self, questions: Sequence[BenchmarkQuestion] = ()) -> None:
        self.questions = list(questions)

    def facts(self, prompt_id: str) -> list[str]:
        pytest.fail("benchmarks ask for objects, not for sentences")

    def holds(self, prompt_id: str, claim: str) -> bool:
        pytest.fail("benchmarks ask for objects, not for sentences")

    def covered(self, prompt_id: str, claims: Sequence[str]) -> int:
        pytest.fail("benchmarks ask for objects, not for sentences")

    def exam(self, prompt_id: str) -> list[tuple[str, bool]]:
        pytest.fail("benchmarks ask for objects, not for sentences")

    def objects(self, prompt_id: str) -> list[str]:
        return OBJECTS[prompt_id]

    def likely_objects(self, prompt_id: str) -> list[str]:
        return LIKELY[prompt_id]

    def objects_named(self, text: str) -> list[str]:
        return [name for name in text.split(", ") if name]

    def benchmark_questions(self) -> list[BenchmarkQuestion]:
        return self.questions


class Policy:
    """Says "Yes" to questions that have one of its words, "No" to others, and notes what it is asked."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.asked: list[Prompt] = []

    def sample(self, prompts: Any, seeds: Any, decoding: Decoding, advance: Advance = ignore_progress) -> Any:
        assert (decoding.temperature, decoding.max_new_tokens) == (0, 1)
        self.asked += prompts
        for _ in prompts:
            advance(1)
        return [[Sampled((int(any(word in prompt.question for word in self.words)),), True)] for prompt in prompts]

    def decode(self, token_ids: Sequence[int]) -> str:
        return ("No", "Yes")[token_ids[0]]


def response(prompt_id: str, text: str) -> Response:
    return Response(f"{prompt_id}/0", prompt_id, text, (), True, 0)


def question(kind: str, name: str, is_true: bool, prompt_id: str = "p") -> BenchmarkQuestion:
    return BenchmarkQuestion(prompt_id, kind, f"Is there a {name}?", name, is_true)


def rates(texts: Sequence[str], world: World, policy: Policy) -> dict[str, float]:
    answers = [response(prompt.id, text) for prompt, text in zip(PROMPTS, texts, strict=True)]
    return benchmark_rates(PROMPTS, answers, policy, world)


def test_descriptions_by_hand() -> None:
    # Five mentions. Kinds: only the star is not there. Objects: the purple ring, named twice, and the green star are not.
    found = rates(["red circle, purple ring, purple ring", "black cross, green star"], World(), Policy())
    assert found["chair/chair_s"] == 1 / 2
    assert found["chair/chair_i"] == 1 / 5
    assert found["chair/recall"] == 3 / 4
    assert found["amber/chair"] == pytest.approx(3 / 5, abs=1e-3)
    assert found["amber/cover"] == pytest.approx(2 / 4, abs=1e-3)
    assert found["amber/hal"] == pytest.approx(1.0, abs=1e-3)
    # Of three objects that language suggests, the purple ring of the first image and the star of the second were named.
    assert found["amber/cog"] == pytest.approx(2 / 3, abs=1e-3)
    assert set(found) == {
        *(f"chair/{name}" for name in ("chair_s", "chair_i", "recall")),
        *(f"amber/{name}" for name in ("chair", "cover", "hal", "cog")),
    }


def test_who_says_nothing_has_no_share_of_mentions() -> None:
    found = rates(["", ""], World(), Policy())
    assert "chair/chair_i" not in found
    assert (found["chair/chair_s"], found["chair/recall"], found["amber/cover"]) == (0, 0, 0)


def test_yes_no_questions_by_hand() -> None:
    world = World(
        [
            question("amber/existence", "green star", False),
            question("amber/attribute", "red circle", True),
            question("amber/attribute", "blue circle", False),
            question("amber/relation", "red circle", True, "q"),
            question("amber/relation", "red ring", False, "q"),
        ]
    )
    # Yes to both rings and circles that are red: one of five is wrong, the red ring.
    found = rates(["red circle", "red ring"], world, Policy("red"))
    assert found["amber/existence"] == pytest.approx(1, abs=1e-2)
    assert found["amber/attribute"] == pytest.approx(1, abs=1e-2)
    assert found["amber/relation"] == pytest.approx(1 / 2, abs=1e-2)
    # "No" is positive: two of three are found, and none too many.
    assert found["amber/f1"] == pytest.approx(0.8, abs=1e-2)
    assert found["amber/score"] == pytest.approx((1 - found["amber/chair"] + found["amber/f1"]) / 2)


def test_asked_and_told_are_two_things() -> None:
    splits = [f"pope/{split}" for split in ("random", "popular", "adversarial")]
    asked = [question(split, name, name == "red circle") for split in splits for name in ("red circle", "green star")]
    policy = Policy("red circle")
    found = rates(["green star", ""], World(asked), policy)
    assert [found[f"{split}/accuracy"] for split in splits] == [1, 1, 1]
    assert (found["pope/f1"], found["pope/yes_ratio"]) == (1, 0.5)
    # The description names what is not there, and not what is.
    assert found["pope_told/random/accuracy"] == 0
    assert (found["pope_told/f1"], found["pope_told/yes_ratio"]) == (0, 0.5)
    # What comes in three splits is asked once, with the request to answer yes or no.
    assert [prompt.question for prompt in policy.asked] == [
        "Is there a red circle? Please answer yes or no.",
        "Is there a green star? Please answer yes or no.",
    ]


def test_splits_are_averaged() -> None:
    asked = [question("pope/random", "red circle", True), question("pope/popular", "blue ring", True)]
    found = rates(["", ""], World(asked), Policy("red circle"))
    assert (found["pope/random/accuracy"], found["pope/popular/accuracy"]) == (1, 0)
    assert found["pope/f1"] == 0.5
    assert "pope/adversarial/accuracy" not in found


def test_a_model_that_never_says_yes_has_an_f1_of_zero() -> None:
    found = rates(["", ""], World([question("pope/random", "red circle", True)]), Policy())
    assert (found["pope/f1"], found["pope/yes_ratio"]) == (0, 0)


def test_questions_about_prompts_that_were_not_answered_are_left_out() -> None:
    policy = Policy()
    world = World([question("pope/random", "red circle", True), question("pope/random", "red ring", True, "elsewhere")])
    rates(["", ""], world, policy)
    assert len(policy.asked) == 1


def test_a_run_can_be_stopped_between_questions() -> None:
    told: list[int] = []
    answers = [response(prompt.id, "") for prompt in PROMPTS]
    world = World([question("pope/random", "red circle", True), question("pope/random", "red ring", False)])
    benchmark_rates(PROMPTS, answers, Policy(), world, advance=told.append)
    assert told == [0, 0]


def test_the_embedded_world_knows_its_objects(tmp_path: Path) -> None:
    source = ShapesSource(tmp_path, 6, seed=0)
    prompts = source.held_out()
    assert isinstance(source, KnownObjects)
    truthful = [response(prompt.id, " ".join(source.facts(prompt.id))) for prompt in prompts]
    found = benchmark_rates(prompts, truthful, Policy("Is there"), source)
    assert (found["chair/chair_s"], found["chair/chair_i"], found["chair/recall"]) == (0, 0, 1)
    assert found["amber/cover"] == pytest.approx(1, abs=1e-3)
    assert found["amber/cog"] == 0
    # Descriptions that tell everything answer everything; a model that says yes to everything is right half of the time.
    assert (found["pope_told/random/accuracy"], found["pope_told/f1"], found["pope_told/yes_ratio"]) == (1, 1, 0.5)
    assert (found["pope/adversarial/accuracy"], found["pope/yes_ratio"]) == (0.5, 1)
    assert found["amber/existence"] == 0
    assert found["amber/relation"] == pytest.approx(0.5, abs=1e-3)


def test_the_small_model_answers_in_one_word_and_nothing_is_drawn(tmp_path: Path) -> None:
    model, processor = load_model(str(WEIGHTS_DIR))
    source = ShapesSource(tmp_path, 3, seed=0)
    prompts = source.held_out()
    answers = [response(prompt.id, "") for prompt in prompts]
    state, plain = torch.get_rng_state(), random.getstate()
    found = benchmark_rates(prompts, answers, LocalEngine(model.requires_grad_(False), Prompter(processor)), source)
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == plain
    # AMBER's reading knows "Yes" and "No", and nothing else.
    assert min(found[f"amber/{name}"] for name in ("existence", "attribute", "relation")) > 0.9
    assert found["pope/f1"] > 0.9
