"""Counters, and what is asked of the loop when a loader is wanted."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from rlaifv.data import datamodule
from rlaifv.data.datamodule import IterationDataModule
from rlaifv.learners.dpo.batch import PreferenceBatch, PreferenceCollator
from rlaifv.models.prompting import Prompter
from rlaifv.records import Pair, Prompt
from tests.learners.stand_ins import engine_of


@dataclass
class FakeLoop:
    """Stands for `FeedbackLoop.prepare`: iteration k has `num_pairs[k]` pairs, two of each prompt."""

    prompts: list[Prompt]
    num_pairs: tuple[int, ...] = (10, 8)
    prepared: list[int] = field(default_factory=list)

    def prepare(self, iteration: int) -> Any:
        self.prepared.append(iteration)
        return FakeManifest(self.prompts, [self.pair(iteration, k) for k in range(self.num_pairs[iteration])])

    def pair(self, iteration: int, k: int) -> Pair:
        prompt_id = self.prompts[k // 2].id
        ids = (60 + k, 3)
        return Pair(f"{iteration}/{k}", prompt_id, "+", "-", "a", "b", ids, (3,), 0.0, -1.0, (-1.0, -2.0), (-3.0,))


@dataclass
class FakeManifest:
    prompts: list[Prompt]
    pairs: list[Pair]

    def records(self, stage: str) -> list[Any]:
        return {"prompts": self.prompts, "pairs": self.pairs}[stage]


@pytest.fixture
def loop(prompts: list[Prompt]) -> FakeLoop:
    return FakeLoop(prompts)


@pytest.fixture
def data(loop: FakeLoop, prompter: Prompter) -> IterationDataModule:
    collator = PreferenceCollator(engine_of(prompter))
    return IterationDataModule(loop.prepare, collator, batch_size=4, num_iterations=2, epochs=2, seed=7)  # type: ignore[arg-type]


def counters(iteration: int, epoch: int, batch: int = 0, num_ranks: int = 1) -> dict[str, int]:
    return {"iteration": iteration, "epoch": epoch, "batch": batch, "num_ranks": num_ranks}


def record_ids(data: IterationDataModule) -> list[str]:
    return [pair_id for batch in data.train_dataloader() for pair_id in batch.record_ids]


def test_an_iteration_is_prepared_once_and_only_when_it_is_needed(data: IterationDataModule, loop: FakeLoop) -> None:
    assert loop.prepared == []
    for epoch in range(2):
        data.train_dataloader()
        data.train_dataloader()
        assert data.batches_per_epoch == 3
        assert loop.prepared == [0]
        assert (data.iteration, data.epoch) == (0, epoch)
        data.advance()
    assert (data.iteration, data.epoch) == (1, 0)
    assert loop.prepared == [0]
    assert len(data.train_dataloader()) == 2
    assert data.batches_per_epoch == 2
    assert loop.prepared == [0, 1]


def test_epochs_read_the_same_pairs_in_orders_of_their_own(data: IterationDataModule) -> None:
    first = record_ids(data)
    assert record_ids(data) == first
    data.advance()
    second = record_ids(data)
    assert sorted(first) == sorted(second) == sorted(f"0/{k}" for k in range(10))
    assert first != second


def test_the_order_depends_on_seed_iteration_and_epoch_alone(
    data: IterationDataModule, loop: FakeLoop, prompter: Prompter
) -> None:
    torch.rand(3)  # nothing that was drawn before may matter
    data.advance()
    expected = record_ids(data)
    for seed, is_same in ((7, True), (8, False)):
        other = IterationDataModule(loop.prepare, PreferenceCollator(engine_of(prompter)), 4, 2, 2, seed)  # type: ignore[arg-type]
        other.load_state_dict(counters(0, 1))
        assert (record_ids(other) == expected) is is_same


def test_the_state_carries_both_counters(data: IterationDataModule, loop: FakeLoop) -> None:
    for _ in range(3):
        data.advance()
    state = data.state_dict()
    assert state == {"iteration": 1, "epoch": 1, "batch": 0, "num_ranks": 1}
    data.load_state_dict(counters(0, 1))
    assert (data.iteration, data.epoch) == (0, 1)
    data.load_state_dict(state)
    assert (data.iteration, data.epoch) == (1, 1)
    assert set(record_ids(data)) == {f"1/{k}" for k in range(8)}
    assert loop.prepared == [1]


def test_going_back_an_iteration_serves_that_one_again(data: IterationDataModule, loop: FakeLoop) -> None:
    """A checkpoint restored after a loader was asked for must not leave the other iteration's pairs in place."""
    data.load_state_dict(counters(1, 0))
    assert len(data.dataset()) == 8
    data.load_state_dict(counters(0, 0))
    assert len(data.dataset()) == 10
    assert loop.prepared == [1, 0]


def test_ranks_read_disjoint_pairs_in_equal_numbers_of_steps(
    data: IterationDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10 pairs are batches of 4, 4 and 2; two ranks take one each, and the third batch is left out."""
    monkeypatch.setattr(datamodule, "world_size", lambda: 2)
    read = []
    for rank in range(2):
        monkeypatch.setattr(datamodule, "rank", lambda rank=rank: rank)
        assert data.batches_per_epoch == 1
        read.append(record_ids(data))
    assert [len(ids) for ids in read] == [4, 4]
    assert not set(read[0]) & set(read[1])


def test_a_step_reads_batch_size_pairs(data: IterationDataModule) -> None:
    """Two sides per pair: 8 for a batch of 4 pairs, 4 for the last two pairs."""
    batches = list(data.train_dataloader())
    assert all(isinstance(batch, PreferenceBatch) for batch in batches)
    assert [len(batch.sides) for batch in batches] == [8, 8, 4]


def test_a_batch_is_moved_by_the_data_module(data: IterationDataModule) -> None:
    batch = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.reference_logps.device.type == "meta"


def test_after_the_last_iteration_nothing_new_is_generated(
    data: IterationDataModule, loop: FakeLoop, prompter: Prompter
) -> None:
    """A run that stopped after its last epoch wants a loader once more when it is resumed, though it will not use it."""
    finished: list[int] = []
    collator = PreferenceCollator(engine_of(prompter))
    data = IterationDataModule(loop.prepare, collator, 4, 2, 2, 7, finish=finished.append)  # type: ignore[arg-type]
    data.train_dataloader()
    assert finished == []
    data.load_state_dict(counters(2, 0))
    assert set(record_ids(data)) == {f"1/{k}" for k in range(8)}
    assert finished == [2]
    assert loop.prepared == [0, 1]


def test_an_epoch_goes_on_after_the_batches_that_were_read(
    data: IterationDataModule, loop: FakeLoop, prompter: Prompter
) -> None:
    """The length stays that of the whole epoch, and the next epoch is whole again."""
    whole = [batch.record_ids for batch in data.train_dataloader()]
    data.batch = 2
    resumed = IterationDataModule(loop.prepare, PreferenceCollator(engine_of(prompter)), 4, 2, 2, seed=7)  # type: ignore[arg-type]
    resumed.load_state_dict(data.state_dict())
    assert [batch.record_ids for batch in resumed.train_dataloader()] == whole[2:]
    assert len(resumed.train_dataloader()) == resumed.batches_per_epoch == 3
    resumed.advance()
    assert len(list(resumed.train_dataloader())) == 3


def test_an_epoch_is_shared_by_as_many_ranks_as_began_it(data: IterationDataModule) -> None:
    with pytest.raises(
        ValueError, match=r"within an epoch that 2 processes shared; trainer\.devices makes 1 of them now"
    ):
        data.load_state_dict(counters(0, 0, batch=1, num_ranks=2))
    data.load_state_dict(counters(0, 1, batch=0, num_ranks=2))
    assert data.epoch == 1


def test_a_loader_draws_from_no_shared_generator(data: IterationDataModule) -> None:
    """Dropout after a resume would else differ: an uninterrupted run asks for a loader less often."""
    state = torch.get_rng_state()
    iter(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), state)
