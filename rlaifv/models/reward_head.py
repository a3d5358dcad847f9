"""The head of a reward model: from a backbone's hidden states to scores, or to classes of segments.

    model.safetensors …          the backbone, as plain transformers loads it
    reward_head.safetensors      weight float32[H * C, D] and bias float32[H * C], of H heads with C classes
    reward_head.json             what the heads score, and whether facts are read (`RewardSpec`)

A score is read at the last token of an answer, classes at that of each segment; docs/rl_reference.md has code for it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rlaifv.models.loading import backbone, read_tensors
from rlaifv.records import Prompt
from rlaifv.store.atomic import publish, write_json

WEIGHTS_NAME = "reward_head.safetensors"
SPEC_NAME = "reward_head.json"
# Nothing of the kind is claimed, all of it is accepted, some of it is rejected.
NUM_CLASSES = 3


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """What a reward model scores and how it is asked.

    Attributes:
        heads: names of the criteria, or of the kinds of claims.
        num_classes: 1 for scores of whole answers, `NUM_CLASSES` for classes of segments.
        facts: how facts about the images stand beside the question, as in "{facts} {question}". Empty: they are not read.

    Raises:
        ValueError: no heads, two of one name, or a form of the facts without {facts} and {question}.
    """

    heads: tuple[str, ...] = ("score",)
    num_classes: int = 1
    facts: str = ""

    def __post_init__(self) -> None:
        if not self.heads or len(set(self.heads)) < len(self.heads):
            raise ValueError(f"A reward model needs heads with distinct names, but they are {list(self.heads)}.")
        if self.num_classes not in (1, NUM_CLASSES):
            raise ValueError(f"num_classes must be 1 or {NUM_CLASSES}, but it is {self.num_classes}.")
        if self.facts and not ("{facts}" in self.facts and "{question}" in self.facts):
            raise ValueError(f"The form of the facts must hold {{facts}} and {{question}}, but it is {self.facts!r}.")

    def asked(self, prompt: Prompt) -> Prompt:
        """Return the prompt as the reward model reads it.

        Raises:
            ValueError: the model reads facts, but the prompt has none.
        """
        if not self.facts:
            return prompt
        if not prompt.facts:
            raise ValueError(
                f"The reward model reads facts about the images, but prompt {prompt.id!r} has none; give them as `facts`."
            )
        text = self.facts.replace("{question}", prompt.question)  # facts last: they may hold braces
        return replace(prompt, question=text.replace("{facts}", "\n".join(prompt.facts)))


class RewardHead(nn.Module):
    """A linear layer in float32, whatever the backbone's type. It starts at zero, so that no answer is better than another.

    Args:
        size: D, of the hidden states.
        num_heads: H.
        num_classes: C of each head.
    """

    def __init__(self, size: int, num_heads: int = 1, num_classes: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.weight = nn.Parameter(torch.zeros(num_heads * num_classes, size))
        self.bias = nn.Parameter(torch.zeros(num_heads * num_classes))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return float32[S, H] scores, or float32[S, H, C] logits of classes, of hidden states [S, D]."""
        with torch.autocast(hidden.device.type, enabled=False):
            found = nn.functional.linear(hidden.float(), self.weight.float(), self.bias.float())
        return found if self.num_classes == 1 else found.unflatten(1, (-1, self.num_classes))


def new_head(model: nn.Module, num_heads: int = 1, num_classes: int = 1) -> RewardHead:
    """Return an untrained head for a model's hidden states."""
    return RewardHead(backbone(model).config.get_text_config().hidden_size, num_heads, num_classes)


def save_head(head: RewardHead, spec: RewardSpec, directory: Path) -> None:
    """Write a head beside the backbone's weights."""
    tensors = {"weight": head.weight, "bias": head.bias}
    with publish(directory / WEIGHTS_NAME) as temporary:
        save_file({name: t.detach().float().cpu().contiguous() for name, t in tensors.items()}, temporary)
    write_json(directory / SPEC_NAME, asdict(spec))


def read_spec(directory: Path) -> RewardSpec:
    """Read what a reward model scores.

    Raises:
        ValueError: the directory holds no reward model, or the file is damaged.
    """
    path = directory / SPEC_NAME
    if not path.is_file():
        raise ValueError(f"{directory} is no reward model: {path.name} is missing. method=reward_model trains one.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return RewardSpec(tuple(map(str, found["heads"])), int(found["num_classes"]), str(found["facts"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or not a file of this kind: {error}.") from error


def load_head(directory: Path, model: nn.Module) -> tuple[RewardHead, RewardSpec]:
    """Read the head that belongs to a backbone.

    Raises:
        ValueError: there is none, it is damaged, or it belongs to another backbone.
    """
    spec = read_spec(directory)
    head = new_head(model, len(spec.heads), spec.num_classes)
    found = read_tensors(directory / WEIGHTS_NAME) if (directory / WEIGHTS_NAME).is_file() else {}
    for name, wanted in head.state_dict().items():
        shape: Sequence[int] | str = tuple(found[name].shape) if name in found else "missing"
        if shape != tuple(wanted.shape):
            raise ValueError(
                f"{directory / WEIGHTS_NAME}: {name} is {shape}, but this backbone needs {tuple(wanted.shape)}."
            )
    head.load_state_dict(found)
    return head.requires_grad_(False), spec
