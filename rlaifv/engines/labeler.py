"""The labeler as a LightningModule: it answers yes/no questions about claims and is never trained."""

from collections.abc import Iterator, Sequence

import torch
from lightning import LightningModule

from rlaifv.engines.protocol import Advance, Labeler, ignore_progress
from rlaifv.models.prompting import Prompter
from rlaifv.records import Claim, Judgement, Prompt
from rlaifv.stages.score import QUESTION_SUFFIX, score


class Judgements(list[Judgement]):
    """What a batch predicts. A trainer moves predictions to the host, and records, which are frozen, stay as they are."""

    def to(self, device: torch.device) -> "Judgements":
        return self


class ClaimBatch:
    """Prompts and claims about their images, for `Trainer.predict` in any precision.

    An ordinary class on purpose: precision plugins look inside tuples and dataclasses, and fail at frozen records.
    """

    def __init__(self, prompts: Sequence[Prompt], claims: Sequence[Claim]) -> None:
        self.prompts = prompts
        self.claims = claims

    def __iter__(self) -> Iterator[Sequence[Prompt] | Sequence[Claim]]:
        return iter((self.prompts, self.claims))


class LabelerModule(LightningModule):
    """Puts claims to a model and returns judgements.

    Inside a run the loop calls it shard by shard; on its own it is an ordinary predict-only module, for
    `Trainer.predict` over `ClaimBatch`es.

    Args:
        engine: runs the model; the policy's own engine when a model labels itself, else that of a stronger one.
        question_suffix: what is appended to every question, asking for a yes or a no.
        other_forms: further wordings of every question, see `score`.

    Raises:
        ValueError: the model's tokenizer cannot tell a yes from a no by the first token.
    """

    def __init__(
        self, engine: Labeler, question_suffix: str = QUESTION_SUFFIX, other_forms: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.engine = engine
        self.model = getattr(engine, "model", None)  # registered, so that a trainer moves it to its device
        self.question_suffix = question_suffix
        self.other_forms = tuple(other_forms)
        prompter = getattr(engine, "prompter", None)
        if isinstance(prompter, Prompter):
            prompter.yes_no_ids()  # fail here rather than after hours of sampling

    def forward(
        self, prompts: Sequence[Prompt], claims: Sequence[Claim], advance: Advance = ignore_progress
    ) -> list[Judgement]:
        """Judge every claim, in the order given."""
        return score(prompts, claims, self.engine, self.question_suffix, advance, self.other_forms)

    def predict_step(self, batch: ClaimBatch, batch_idx: int) -> Judgements:
        prompts, claims = batch
        return Judgements(self(prompts, claims))

    def transfer_batch_to_device(self, batch: ClaimBatch, device: torch.device, dataloader_idx: int) -> ClaimBatch:
        """Records are no tensors; the engine encodes them where its model is."""
        return batch

    def configure_optimizers(self) -> None:
        """A labeler has nothing to optimise."""
