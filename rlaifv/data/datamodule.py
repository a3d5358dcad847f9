"""The DataModule that regenerates its preference data: each iteration's pairs are made when its first loader is asked for."""

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from rlaifv.data.training_set import PairBatchSampler, PreferenceDataset
from rlaifv.learners.dpo.batch import PreferenceBatch, PreferenceCollator
from rlaifv.records import Pair, Prompt
from rlaifv.runtime.ranks import rank, world_size
from rlaifv.runtime.seeds import derive_seed
from rlaifv.runtime.stopping import listen
from rlaifv.store.manifest import Manifest


class PreferenceDataModule(LightningDataModule):
    """Serves one committed iteration at a time.

    `train_dataloader` asks `prepare` for the current iteration, which generates it or finds it done. It is the first moment
    at which weights, counters and data agree, also after a resume, whatever the strategy; the trainer's epoch number is one
    too small then, so iteration, epoch and batch are counted here. `callbacks.iteration` advances them.

    Args:
        prepare: makes sure that an iteration is generated and committed; called on every rank, any number of times.
        collator: turns pairs into batches.
        batch_size: pairs per step and rank.
        batch_tokens: instead, tokens per step and rank, see `PairBatchSampler`; 0 for `batch_size` pairs.
        num_iterations: how many iterations the run has.
        epochs: passes over the pairs of an iteration.
        seed: of the order of pairs.
        num_workers: loader processes.
        finish: what is left to do after the last iteration, given their number. Asked for here only where a run is resumed
            that stopped after its last epoch: the trainer wants a loader, then finds that it is done, and calls no hook.
    """

    def __init__(
        self,
        prepare: Callable[[int], Manifest],
        collator: PreferenceCollator,
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
        self._served: tuple[int, PreferenceDataset] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches that one rank sees in each epoch of the current iteration."""
        return len(self._batch_sampler(0))

    def train_dataloader(self) -> DataLoader[tuple[Prompt, Pair]]:
        listen()  # the trainer has put its own signal handlers in place just before it asks for the first loader
        if self.iteration >= self.num_iterations and self.finish is not None:
            self.finish(self.iteration)
        return DataLoader(
            self.dataset(),
            batch_sampler=self._batch_sampler(self.epoch, self.batch),
            # A loader draws when it is asked for; it would draw from the generators that dropout draws from.
            generator=torch.Generator(),
            collate_fn=self.collator,
            num_workers=self.num_workers,
            persistent_workers=False,
        )

    def transfer_batch_to_device(
        self, batch: PreferenceBatch, device: torch.device, dataloader_idx: int
    ) -> PreferenceBatch:
        return batch.to(device)

    def advance(self) -> None:
        """Count an epoch as done, and its iteration with the last one."""
        self.epoch, self.batch = self.epoch + 1, 0
        if self.epoch == self.epochs:
            self.iteration, self.epoch = self.iteration + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"iteration": self.iteration, "epoch": self.epoch, "batch": self.batch, "num_ranks": world_size()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError in the middle of an epoch that another number of ranks began."""
        begun_by = state_dict["num_ranks"]
        if state_dict["batch"] and begun_by != world_size():
            raise ValueError(
                f"The run stopped within an epoch that {begun_by} processes shared; trainer.devices makes {world_size()} of "
                f"them now. Resume it with {begun_by} until the epoch ends."
            )
        self.iteration, self.epoch, self.batch = (state_dict[name] for name in ("iteration", "epoch", "batch"))

    def dataset(self) -> PreferenceDataset:
        """The current iteration's pairs, the last one's after all of them; made now if they are not there yet."""
        iteration = min(self.iteration, self.num_iterations - 1)
        if self._served is None or self._served[0] != iteration:
            manifest = self.prepare(iteration)
            self._served = iteration, PreferenceDataset(manifest.records("prompts"), manifest.records("pairs"))
        return self._served[1]

    def _batch_sampler(self, epoch: int, num_done: int = 0) -> PairBatchSampler:
        return PairBatchSampler(
            self.dataset().pairs,
            self.batch_size,
            derive_seed(self.seed, self.iteration, "order", epoch),
            rank(),
            world_size(),
            self.batch_tokens,
            num_done,
        )
