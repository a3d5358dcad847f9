"""The local engine's twin: one forward pass for each question and each completion, nothing packed."""

from collections.abc import Sequence
from typing import Any

import torch

from rlaifv.data.images import load_image
from rlaifv.engines.local import LocalEngine
from rlaifv.records import Prompt

QUESTIONS = (
    "Is there a red circle at the top left?",
    "Is there a red circle at the bottom?",
    "Is it a star?",
    "Is there a blue square at the top left? Please answer yes or no.",
    "What?",
)
Asked = list[tuple[Prompt, tuple[str, ...]]]


def sharpened(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return model.eval()


@torch.no_grad()
def ask_plainly(model: Any, processor: Any, prompt: Prompt, question: str) -> tuple[float, float]:
    """The twin: the processor's own batch of one, the model's plain forward, a softmax, and two sums over words."""
    content = [*({"type": "image"} for _ in prompt.image_paths), {"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(text=text, images=[load_image(path) for path in prompt.image_paths], return_tensors="pt")
    probs = model(**inputs).logits[0, -1].softmax(0)
    p_yes, p_no = (
        sum(probs[processor.tokenizer.vocab[word]].item() for word in words)
        for words in ((" yes", " Yes"), (" no", " No"))
    )
    return p_yes, p_no


def assert_close(actual: Sequence[Sequence[Any]], expected: Sequence[Sequence[Any]], atol: float = 1e-6) -> None:
    assert [len(some) for some in actual] == [len(some) for some in expected]
    flat = [torch.tensor([pair for some in both for pair in some], dtype=torch.float64) for both in (actual, expected)]
    torch.testing.assert_close(*flat, rtol=1e-4, atol=atol)


@torch.no_grad()
def score_plainly(engine: LocalEngine, prompt: Prompt, answer: Sequence[int]) -> list[float]:
    encoded = engine.prompter.encode(prompt)
    ids = [*encoded.ids, *answer]
    logps = engine.model(input_ids=torch.tensor([ids]), **encoded.images).logits[0].log_softmax(1)
    return [logps[j - 1, ids[j]].item() for j in range(len(encoded.ids), len(ids))]
