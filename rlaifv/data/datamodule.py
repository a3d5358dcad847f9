"""The DataModule of every learner, which regenerates its data for each iteration."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from rlaifv.data.training_set import PromptBatchSampler, TrainingSet
from rlaifv.records import Prompt
from rlaifv.runtime.phases import timed
from rlaifv.runtime.ranks import rank, world_size
from rlaifv.runtime.seeds import derive_seed
from rlaifv.runtime.stopping import listen
from rlaifv.store.manifest import Manifest


class Collator(Protocol):
    """Builds batches of a learner's records.

    Attributes:
        table: the records that it trains on, a table of the iteration.
    """

    table: str

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Prepare to train on an iteration's prompts."""
        ...

    def check_record(self, record: Any) -> None:
        """Raise ValueError for a record that cannot be trained on."""
        ...

    def __call__(self, items: Sequence[tuple[Prompt, Any]]) -> Any:
        """Build a batch, which has `to(device)`."""
        ...


class IterationDataModule(LightningDataModule):
    """Serves one committed iteration at a time.

    `train_dataloader` asks `prepare` for the current iteration, which generates it or finds it done. This is the first moment
    at which weights, counters and data agree, also after a resume and with any strategy. The trainer's epoch number is one too
    small at that moment, so iteration, epoch and batch are counted here; `callbacks.iteration` advances them.

    Args:
        prepare: generates and commits an iteration, or finds it done. Called on every rank, any number of times.
        collator: the learner's; names its records and builds its batches.
        batch_size: records per step and rank.
        num_iterations: of the run.
        epochs: passes over the records of an iteration.
        seed: of the order of records.
        num_workers: loader processes.
        finish: does what is left after the last iteration, given their number. Called here only when a run is resumed that
            stopped after its last epoch: the trainer asks for a loader, finds that it is done, and calls no hook.
        batch_tokens: tokens per step and rank in the place of `batch_size`, see `PromptBatchSampler`; 0 uses `batch_size`.
    """

    def __init__(
        self,
        prepare: Callable[[int], Manifest],
        collator: Collator,
        batch_size: int,
        num_iterations: int,
        epochs: int,
        seed: int,
        num_workers: int = 0,
        finish: Callable[[int], None] | None = None,
        batch_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.prepare = prepare
        self.collator = collator
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.num_iterations = num_iterations
        self.epochs = epochs
        self.seed = seed
        self.num_workers = num_workers
        self.finish = finish
        self.iteration = 0
        self.epoch = 0
        self.batch = 0
        self._served: tuple[int, TrainingSet] | None = None
        self._weights: tuple[tuple[int, int], list[float]] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches per epoch of the current iteration, on one rank."""
        return len(self._batch_sampler(0))

    def train_dataloader(self) -> DataLoader[tuple[Prompt, Any]]:
        listen()  # the trainer installs its own signal handlers just before it asks for the first loader
        if self.iteration >= self.num_iterations and self.finish is not None:
            self.finish(self.iteration)
        return DataLoader(
            self.dataset(),
            batch_sampler=self._batch_sampler(self.epoch, self.batch),
            # A generator of its own: loaders would draw from the one that dropout draws from.
            generator=torch.Generator(),
            collate_fn=self.collator,
            num_workers=self.num_workers,
            persistent_workers=False,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def weight(self, units: Callable[[Any], int], accumulate: int) -> float:
        """Return the weight of the present batch in its optimizer step, see `PromptBatchSampler.weights`.

        Args:
            units: of a record: how many terms the loss averages over.
            accumulate: batches per rank and step.
        """
        present = self.iteration, self.epoch
        if self._weights is None or self._weights[0] != present:
            counts = [units(record) for record in self.dataset().records]
            self._weights = present, self._batch_sampler(self.epoch).weights(counts, accumulate)
        return self._weights[1][self.batch]

    def advance(self) -> None:
        """Count an epoch as done, and after the last epoch its iteration."""
        self.epoch, self.batch = self.epoch + 1, 0
        if self.epoch == self.epochs:
            self.iteration, self.epoch = self.iteration + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"iteration": self.iteration, "epoch": self.epoch, "batch": self.batch, "num_ranks": world_size()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counters. Raises ValueError within an epoch that another number of ranks began."""
        begun_by = state_dict["num_ranks"]
        if state_dict["batch"] and begun_by != world_size():
            raise ValueError(
                f"The run stopped within an epoch that {begun_by} processes shared; trainer.devices makes {world_size()} of "
                f"them now. Resume it with {begun_by} until the epoch ends."
            )
        self.iteration, self.epoch, self.batch = (state_dict[name] for name in ("iteration", "epoch", "batch"))

    def dataset(self) -> TrainingSet:
        """Return the current iteration's records, generated now if need be; after the last iteration, its records."""
        iteration = min(self.iteration, self.num_iterations - 1)
        if self._served is None or self._served[0] != iteration:
            manifest = self.prepare(iteration)
            with timed("data"):
                prompts, found = manifest.records("prompts"), manifest.records(self.collator.table)
                records = [record for record in found if not getattr(record, "is_held_out", False)]
                self.collator.check(prompts)
                self._served = iteration, TrainingSet(prompts, records, self.collator.check_record)
        return self._served[1]

    def _batch_sampler(self, epoch: int, num_done: int = 0) -> PromptBatchSampler:
        return PromptBatchSampler(
            self.dataset().records,
            self.batch_size,
            derive_seed(self.seed, self.iteration, "order", epoch),
            rank(),
            world_size(),
            self.batch_tokens,
            num_done,
        )
