"""A step of every learner does not depend on the batches and ranks among which its records are shared out.

KTO's does where its reference point does, which is estimated for each batch; here it is 0.

Gains of weights are gradients here, and equal up to the order in which float32 sums are added: some 1e-7 of the largest
term for each of some hundred terms, so 1e-5 of a tensor's largest entry. Means of means would differ by more than 1e-2.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlaifv.data.datamodule import IterationDataModule
from rlaifv.records import Prompt
from tests.learners.dpo_run import QUIET
from tests.learners.steps import NAMES, weights_after

pytestmark = QUIET
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(prompts: list[Prompt]) -> dict[str, dict[str, Tensor]]:
    """The gain of every learner from one batch of all records."""
    return {name: weights_after(name, prompts, batch_size=4, accumulate=1) for name in NAMES}


def check_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    largest = max(gain.abs().max().item() for gain in expected.values())
    assert largest > 1e-2
    for name, gain in expected.items():
        torch.testing.assert_close(found[name], gain, rtol=1e-3, atol=1e-5 * largest, msg=lambda text, n=name: n + text)


@pytest.mark.parametrize("name", NAMES)
def test_batches_of_a_step_are_one_batch(whole: dict[str, dict[str, Tensor]], prompts: list[Prompt], name: str) -> None:
    """A batch of three records and one of the record that is left."""
    check_equal(weights_after(name, prompts, batch_size=3, accumulate=2), whole[name])


@pytest.mark.parametrize("name", ["dapo", "sft", "reward_model"])
def test_without_weights_the_batches_would_show(
    whole: dict[str, dict[str, Tensor]], prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(IterationDataModule, "weight", lambda *arguments: 1.0)
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        check_equal(weights_after(name, prompts, batch_size=1, accumulate=4), whole[name])


def test_two_ranks_are_one(whole: dict[str, dict[str, Tensor]], tmp_path: Path) -> None:
    """Two batches of one record on each; both ranks end with the same weights, those of one process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "tests.learners.steps", str(tmp_path)]
    with ExitStack() as stack:
        processes = []
        for k in range(2):
            environment = {**os.environ, **group, "LOCAL_RANK": str(k), "OMP_NUM_THREADS": "1"}
            output = stack.enter_context((tmp_path / f"output-{k}").open("w"))
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
            stack.callback(process.kill)
            processes.append(process)
        statuses = [process.wait(200) for process in processes]
    assert statuses == [0, 0], (tmp_path / "output-0").read_text()
    for name in NAMES:
        first, second = (torch.load(tmp_path / f"{name}-{k}.pt", weights_only=True) for k in range(2))
        check_equal(first, whole[name])
        assert all(torch.equal(gain, second[key]) for key, gain in first.items())
