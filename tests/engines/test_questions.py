"""Answers to different questions about one image, which hang from one prefix, against a prompt for each of them."""

from typing import Any

import pytest
import torch

from rlaifv.engines import local as local_module
from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt

QUESTIONS = (
    "Is there a red circle at the top left?",
    "Is it a star?",
    "Is there a blue square at the top left? Please answer yes or no.",
    "What?",
)
TEXT_FIRST = (
    "{% for m in messages %}{% for c in m['content'] | reverse %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
Asked = list[tuple[Prompt, tuple[str, ...]]]


@pytest.fixture
def engine(model: Any, prompter: Prompter) -> LocalEngine:
    """Weights so large that answers differ between questions and between pictures."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return LocalEngine(model, prompter)


@pytest.fixture
def asked(prompts: list[Prompt]) -> Asked:
    """Different numbers of questions about four pictures."""
    return [(prompts[k], QUESTIONS[k : k + 1 + k]) for k in range(3)] + [(prompts[3], QUESTIONS[::-1])]


@pytest.mark.parametrize("way", ["tree", "separately", "text first"])
@pytest.mark.parametrize("decoding", [Decoding(temperature=0, max_new_tokens=8), Decoding(max_new_tokens=8)])
def test_answers_to_questions_equal_samples_of_a_prompt_each(
    engine: LocalEngine, asked: Asked, decoding: Decoding, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever number of questions an image has, however long; and where no prefix can be shared."""
    seeds = [[100 * k + j for j in range(len(questions))] for k, (_, questions) in enumerate(asked)]
    expected = [
        [
            engine.sample([Prompt(prompt.id, question, prompt.image_paths)], [[seed]], decoding)[0][0]
            for question, seed in zip(questions, some, strict=True)
        ]
        for (prompt, questions), some in zip(asked, seeds, strict=True)
    ]
    calls: list[Any] = []
    real = local_module.sample_branches
    monkeypatch.setattr(local_module, "sample_branches", lambda *a, **k: calls.append(a[1]) or real(*a, **k))
    engine.packer.separately = way == "separately"
    if way == "text first":
        monkeypatch.setattr(engine, "_question_trees", lambda asked: None)
    finished: list[int] = []
    assert engine.sample_questions(asked, seeds, decoding, finished.append) == expected
    assert len({answer.token_ids for some in expected for answer in some}) > 4
    num_questions = sum(map(len, seeds))
    assert sum(finished) == num_questions
    assert [len(prompts) for prompts in calls] == [len(asked) if way == "tree" else num_questions]


def test_text_before_the_image_shares_no_prefix(
    engine: LocalEngine, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine._question_trees(asked) is not None
    monkeypatch.setattr(engine.prompter.processor, "chat_template", TEXT_FIRST)
    assert engine._question_trees(asked) is None
    assert engine._question_trees(asked[:1]) is not None  # one question, which is its own prefix


@pytest.mark.parametrize("tree_tokens", [1, 20])
def test_many_questions_share_out_over_trees(
    engine: LocalEngine, asked: Asked, monkeypatch: pytest.MonkeyPatch, tree_tokens: int
) -> None:
    seeds = [[7 * j for j in range(len(questions))] for _, questions in asked]
    decoding = Decoding(max_new_tokens=6)
    expected = engine.sample_questions(asked, seeds, decoding)
    monkeypatch.setattr(local_module, "MAX_TREE_TOKENS", tree_tokens)
    assert engine.sample_questions(asked, seeds, decoding) == expected
    assert engine.sample_questions([], [], decoding) == []
