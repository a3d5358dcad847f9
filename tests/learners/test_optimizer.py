"""The optimizer: AdamW bit by bit on float32 weights, and updates that all arrive on weights of 16 bits."""

import copy
import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlaifv.learners.optimizer import MasterAdamW
from rlaifv.models.loading import backbone
from rlaifv.models.tree.packing import branch_logps
from tests.learners.dpo_run import Run

RATE = 5e-7  # the paper's
STEPS = 40
NAIVE = partial(torch.optim.AdamW, fused=True)


def learned(model: nn.Module, run: Run, make: Callable[..., Optimizer]) -> tuple[list[Tensor], list[Tensor]]:
    """Train on the run's pairs for `STEPS` steps. Returns what was learned, masters where there are any, and the weights."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make(parameters, lr=RATE, weight_decay=0.01)
    collator = run.data().collator
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        batch = collator(run.items()[step % 4 : step % 4 + 1])
        logps = batch.of_sides(branch_logps(backbone(model), batch.trees, batch.images)).split(list(batch.lengths))
        nn.functional.softplus(logps[1].sum() - logps[0].sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    masters = [optimizer.state[parameter].get("master", parameter).detach().float() for parameter in parameters]
    return masters, [parameter.detach().float() for parameter in parameters]


def distance(some: list[Tensor], others: list[Tensor]) -> float:
    return float(torch.stack([(a - b).square().sum() for a, b in zip(some, others, strict=True)]).sum().sqrt())


@pytest.fixture
def formats(run: Run) -> dict[str, Any]:
    """The same weights in both formats: the float32 ones have no digits that bfloat16 lacks."""
    for parameter in run.model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return {"float32": run.model, "bfloat16": copy.deepcopy(run.model).bfloat16()}


def relative_distance(formats: dict[str, Any], run: Run, make: Callable[..., Optimizer]) -> float:
    """How far what bfloat16 learns is from what float32 learns, as a share of the way that float32 goes."""
    start = [p.detach().clone() for p in formats["float32"].parameters() if p.requires_grad]
    exact, _ = learned(formats["float32"], run, MasterAdamW)
    rounded, _ = learned(formats["bfloat16"], run, make)
    return distance(rounded, exact) / distance(exact, start)


def test_every_update_arrives_in_bfloat16(formats: dict[str, Any], run: Run) -> None:
    assert relative_distance(formats, run, MasterAdamW) < 0.05


def test_without_masters_updates_are_lost(formats: dict[str, Any], run: Run) -> None:
    """The negative control: the same measure on the optimizer that was there before."""
    assert relative_distance(formats, run, NAIVE) > 0.5


def test_float32_is_plain_adamw(run: Run) -> None:
    other = copy.deepcopy(run.model)
    mine, _ = learned(run.model, run, MasterAdamW)
    theirs, _ = learned(other, run, NAIVE)
    assert all(torch.equal(one, another) for one, another in zip(mine, theirs, strict=True))


def steps_of(parameter: nn.Parameter, optimizer: Optimizer) -> Iterator[None]:
    for _ in range(3):
        parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
        yield


@pytest.fixture
def stepped() -> tuple[nn.Parameter, MasterAdamW]:
    parameter = nn.Parameter(torch.full((4,), 0.02, dtype=torch.bfloat16))
    optimizer = MasterAdamW([parameter], lr=1e-6)
    list(steps_of(parameter, optimizer))
    return parameter, optimizer


def test_weight_is_the_master_rounded(stepped: tuple[nn.Parameter, MasterAdamW]) -> None:
    parameter, optimizer = stepped
    master = optimizer.state[parameter]["master"]
    assert master.dtype == torch.float32
    assert torch.equal(parameter, master.bfloat16())
    # Three steps of 1e-6, far below the spacing of bfloat16 there.
    assert master[0].item() == pytest.approx(float(torch.tensor(0.02).bfloat16()) - 3e-6, abs=1e-7)


def test_state_survives_a_checkpoint(stepped: tuple[nn.Parameter, MasterAdamW]) -> None:
    parameter, optimizer = stepped
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = nn.Parameter(parameter.detach().clone())
    resumed = MasterAdamW([twin], lr=1.0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for name, value in optimizer.state[parameter].items():
        assert resumed.state[twin][name].dtype == value.dtype == torch.float32
    list(steps_of(parameter, optimizer)), list(steps_of(twin, resumed))
    assert torch.equal(resumed.state[twin]["master"], optimizer.state[parameter]["master"])


def test_state_between_two_iterations_is_masters_alone(stepped: tuple[nn.Parameter, MasterAdamW]) -> None:
    parameter, optimizer = stepped
    optimizer.reset()
    twin = nn.Parameter(parameter.detach().clone())
    resumed = MasterAdamW([twin], lr=1.0)
    resumed.load_state_dict(optimizer.state_dict())
    list(steps_of(parameter, optimizer)), list(steps_of(twin, resumed))
    assert torch.equal(resumed.state[twin]["master"], optimizer.state[parameter]["master"])


def test_reset_keeps_the_masters_and_forgets_the_rest(stepped: tuple[nn.Parameter, MasterAdamW]) -> None:
    parameter, optimizer = stepped
    master = optimizer.state[parameter]["master"].clone()
    optimizer.reset()
    assert set(optimizer.state[parameter]) == {"master"}
    assert torch.equal(optimizer.state[parameter]["master"], master)
    list(steps_of(parameter, optimizer))
    assert optimizer.state[parameter]["step"] == 3


def test_masters_go_on_from_what_was_loaded(stepped: tuple[nn.Parameter, MasterAdamW]) -> None:
    parameter, optimizer = stepped
    value = torch.full((4,), 0.50001)
    optimizer.load_masters({parameter: value})
    assert torch.equal(optimizer.masters()[parameter], value)
    list(steps_of(parameter, optimizer))
    assert parameter[0].item() == 0.5
    assert optimizer.masters()[parameter][0].item() == pytest.approx(0.50001 - 3e-6, abs=1e-6)
