"""Log a few preference pairs with their images to Weights & Biases."""

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from rlaifv.data.datamodule import IterationDataModule
from rlaifv.data.images import load_image
from rlaifv.records import Pair

COLUMNS = ["iteration", "pair", "question", "chosen", "rejected", "chosen_score", "rejected_score"]


class SampleTableCallback(Callback):
    """Log the first pairs of every iteration: texts and scores as a table, images with both answers as captions.

    Args:
        num_pairs: number of pairs per iteration.
    """

    def __init__(self, num_pairs: int) -> None:
        self.num_pairs = num_pairs

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, IterationDataModule)
        if data.epoch == 0:
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    self._log(logger, data, trainer.global_step)

    def _log(self, logger: WandbLogger, data: IterationDataModule, step: int) -> None:
        dataset = data.dataset()
        items = [dataset[k] for k in range(min(self.num_pairs, len(dataset)))]
        rows = [_row(data.iteration + 1, prompt.question, pair) for prompt, pair in items]
        logger.log_table("samples/pairs", columns=COLUMNS, data=rows, step=step)
        shown = [(load_image(prompt.image_paths[0]), pair) for prompt, pair in items if prompt.image_paths]
        if shown:
            captions = [f"chosen: {pair.chosen}\nrejected: {pair.rejected}" for _, pair in shown]
            logger.log_image("samples/images", [image for image, _ in shown], step=step, caption=captions)


def _row(iteration: int, question: str, pair: Pair) -> list[object]:
    scores = [pair.chosen_score, pair.rejected_score]
    return [iteration, pair.id, question, pair.chosen, pair.rejected, *scores]
