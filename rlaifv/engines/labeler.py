"""The labeler as a LightningModule, which answers yes/no questions about claims and never trains."""

from collections.abc import Iterator, Sequence

import torch
from lightning import LightningModule

from rlaifv.engines.protocol import Advance, Labeler, ignore_progress
from rlaifv.models.prompting import Prompter
from rlaifv.records import Claim, Judgement, Prompt
from rlaifv.stages.score import WORDING, Wording, score


class Judgements(list[Judgement]):
    """Predictions of a batch. The Trainer moves predictions to the host; records are frozen and stay as they are."""

    def to(self, device: torch.device) -> "Judgements":
        return self


class ClaimBatch:
    """Prompts and claims about their images, for `Trainer.predict`.

    Not a dataclass, since precision plugins convert the fields of tuples and dataclasses, and fail at frozen records.
    """

    def __init__(self, prompts: Sequence[Prompt], claims: Sequence[Claim]) -> None:
        self.prompts = prompts
        self.claims = claims

    def __iter__(self) -> Iterator[Sequence[Prompt] | Sequence[Claim]]:
        return iter((self.prompts, self.claims))


class LabelerModule(LightningModule):
    """Judge claims with a model. In a run, the loop calls it shard by shard; `Trainer.predict` takes `ClaimBatch`es.

    Args:
        engine: runs the model: the policy's engine if a model labels itself, else a stronger model's.
        wording: of the questions.

    Raises:
        ValueError: the model's tokenizer cannot tell a yes from a no by the first token.
    """

    def __init__(self, engine: Labeler, wording: Wording = WORDING) -> None:
        super().__init__()
        self.engine = engine
        self.model = getattr(engine, "model", None)  # registered as a submodule so the Trainer moves it
        self.wording = wording
        prompter = getattr(engine, "prompter", None)
        if isinstance(prompter, Prompter):
            prompter.yes_no_ids()  # fail here rather than after hours of sampling

    def forward(
        self, prompts: Sequence[Prompt], claims: Sequence[Claim], advance: Advance = ignore_progress
    ) -> list[Judgement]:
        """Judge every claim, in the order given."""
        return score(prompts, claims, self.engine, self.wording, advance)

    def predict_step(self, batch: ClaimBatch, batch_idx: int) -> Judgements:
        prompts, claims = batch
        return Judgements(self(prompts, claims))

    def transfer_batch_to_device(self, batch: ClaimBatch, device: torch.device, dataloader_idx: int) -> ClaimBatch:
        """Return the batch as it is: records are no tensors, and the engine encodes them on its model's device."""
        return batch

    def configure_optimizers(self) -> None:
        """Return nothing: a labeler does not train."""
