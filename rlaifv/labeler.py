"""The labeler as a LightningModule: it answers yes/no questions about claims and is never trained."""

from collections.abc import Sequence

from lightning import LightningModule

from rlaifv.engines.protocol import Advance, Labeler, ignore_progress
from rlaifv.feedback.score import QUESTION_SUFFIX, score
from rlaifv.models.prompting import Prompter
from rlaifv.records import Claim, Judgement, Prompt


class LabelerModule(LightningModule):
    """Puts claims to a model and returns judgements.

    Inside a run the loop calls it shard by shard; on its own it is an ordinary predict-only module, for
    `Trainer.predict` over batches of (prompts, claims).

    Args:
        engine: runs the model; the policy's own engine when a model labels itself, else that of a stronger one.
        question_suffix: what is appended to every question, asking for a yes or a no.

    Raises:
        ValueError: the model's tokenizer cannot tell a yes from a no by the first token.
    """

    def __init__(self, engine: Labeler, question_suffix: str = QUESTION_SUFFIX) -> None:
        super().__init__()
        self.engine = engine
        self.model = getattr(engine, "model", None)  # registered, so that a trainer moves it to its device
        self.question_suffix = question_suffix
        prompter = getattr(engine, "prompter", None)
        if isinstance(prompter, Prompter):
            prompter.yes_no_ids()  # fail here rather than after hours of sampling

    def forward(
        self, prompts: Sequence[Prompt], claims: Sequence[Claim], advance: Advance = ignore_progress
    ) -> list[Judgement]:
        """Judge every claim, in the order given."""
        return score(prompts, claims, self.engine, self.question_suffix, advance)

    def predict_step(self, batch: tuple[Sequence[Prompt], Sequence[Claim]], batch_idx: int) -> list[Judgement]:
        prompts, claims = batch
        return self(prompts, claims)

    def configure_optimizers(self) -> None:
        """A labeler has nothing to optimise."""
