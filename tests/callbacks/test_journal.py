"""The journal: every batch once, whatever was trained twice."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlaifv.callbacks import journal
from rlaifv.callbacks.journal import JournalCallback


class Training:
    """Trains by hand: each batch makes a step, or every second one if gradients are accumulated."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int = 1, step: int = 0) -> None:
        self.callback = JournalCallback(str(directory))
        self.trainer: Any = SimpleNamespace(
            global_step=step, accumulate_grad_batches=accumulate, strategy=SimpleNamespace(barrier=lambda: None)
        )
        self.data = SimpleNamespace(iteration=1, epoch=2)
        monkeypatch.setattr(journal, "parts", lambda trainer, module: (self.data, None))
        self.module: Any = None
        self.callback.on_train_start(self.trainer, self.module)

    def train(self, batch_idx: int, pair_id: str, loss: float = 0.5) -> None:
        batch: Any = SimpleNamespace(record_ids=(pair_id, "second"))
        self.callback.on_train_batch_start(self.trainer, self.module, batch, batch_idx)
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            self.trainer.global_step += 1
        outputs = {"loss": torch.tensor(loss / self.trainer.accumulate_grad_batches)}
        self.callback.on_train_batch_end(self.trainer, self.module, outputs, batch, batch_idx)


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_batch_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(tmp_path / "journal", monkeypatch)
    training.train(0, "p0>p1")
    training.train(1, "ü\u2028", loss=0.25)
    path = tmp_path / "journal" / "rank-000.jsonl"
    common = {"iteration": 1, "epoch": 2}
    assert entries(path) == [
        {**common, "batch": 0, "step": 0, "loss": 0.5, "pairs": ["p0>p1", "second"]},
        {**common, "batch": 1, "step": 1, "loss": 0.25, "pairs": ["ü\u2028", "second"]},
    ]


def test_accumulated_batches_belong_to_one_step_and_have_their_own_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path, monkeypatch, accumulate=2)
    for k in range(4):
        training.train(k, str(k), loss=k + 1)
    found = entries(tmp_path / "rank-000.jsonl")
    assert [(entry["step"], entry["loss"]) for entry in found] == [(0, 1), (0, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize("torn", ["", '{"iteration": 1, "st', "\x00\x00"])
@pytest.mark.parametrize("takes_back", [True, False])
def test_a_resumed_run_takes_back_what_its_checkpoint_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: str, takes_back: bool
) -> None:
    training = Training(tmp_path, monkeypatch)
    path = tmp_path / "rank-000.jsonl"
    for k in range(4):
        training.train(k, str(k))
    whole = path.read_text()
    with path.open("a") as file:
        file.write(torn)
    (tmp_path / "rank-001.jsonl").write_text(whole)  # of a rank that is no more
    if not takes_back:
        monkeypatch.setattr(JournalCallback, "on_train_start", lambda *arguments: None)
    resumed = Training(tmp_path, monkeypatch, step=2)
    for k in (2, 3):
        resumed.train(k, str(k))
    assert (path.read_text() == whole) is takes_back
    assert ((tmp_path / "rank-001.jsonl").read_text() == "".join(whole.splitlines(keepends=True)[:2])) is takes_back


def test_a_line_is_on_the_disk_before_the_next_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(tmp_path, monkeypatch)
    monkeypatch.setenv("RLAIFV_FAIL", "enospc store.append 2")
    training.train(0, "0")
    with pytest.raises(OSError, match=r"rank-000\.jsonl: No space left on device"):
        training.train(1, "1")
    assert len(entries(tmp_path / "rank-000.jsonl")) == 1
