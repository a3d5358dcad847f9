"""Stand-ins for what a learner takes from a run."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from rlaifv.models.prompting import Prompter
from rlaifv.models.tree.packing import Packer
from rlaifv.records import Prompt


class Collating:
    """A collator of pairs that is a function of them."""

    table = "pairs"

    def __init__(self, function: Callable[[Sequence[tuple[Prompt, Any]]], Any] | None = None) -> None:
        self.function = function

    def check(self, prompts: Sequence[Prompt]) -> None: ...

    def check_record(self, record: Any) -> None: ...

    def __call__(self, items: Sequence[tuple[Prompt, Any]]) -> Any:
        assert self.function is not None
        return self.function(items)


def engine_of(prompter: Prompter) -> Any:
    """An engine without a model, which packs trees and finds them right."""
    packer = Packer(prompter.tokenizer.pad_token_id or 0)
    return SimpleNamespace(prompter=prompter, packer=packer, check=lambda prompt: None)
