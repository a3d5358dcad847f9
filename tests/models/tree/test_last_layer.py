"""The last MLP runs at the places that are read, and is itself again afterwards."""

from typing import Any

import pytest
import torch

from rlaifv.models.tree.last_layer import last_mlp_at


def forward(model: Any, places: torch.Tensor | None = None) -> torch.Tensor:
    ids = torch.arange(5, 25).view(2, 10)
    if places is None:
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
    with last_mlp_at(model, places):
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)[places]


def test_places_get_the_same_states_and_gradients(model: Any) -> None:
    model = model.double()  # exact up to order, not up to the rounding of a sum over the vocabulary
    places = torch.tensor([12, 3, 3, 19])  # twice the same: two branches read the end of their prefix
    forward(model)[places].square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    torch.testing.assert_close(forward(model, places), forward(model)[places], rtol=0, atol=1e-6)
    forward(model, places).square().sum().backward()
    for name, gradient in expected.items():
        actual = model.get_parameter(name).grad
        torch.testing.assert_close(actual, gradient, rtol=0, atol=1e-5 * gradient.abs().max().item(), msg=name)


def test_only_those_places_run(model: Any) -> None:
    seen: list[int] = []
    mlps = [layer.mlp for layer in model.get_decoder().layers]
    for mlp in mlps:
        mlp.gate_proj.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[:-1].numel()))
    forward(model, torch.tensor([12, 3, 3]))
    assert seen == [20, 2]
    forward(model)
    assert seen == [20, 2, 20, 20]


def test_the_mlp_comes_back_after_an_error(model: Any) -> None:
    mlp = model.get_decoder().layers[-1].mlp
    with pytest.raises(IndexError):
        forward(model, torch.tensor([100]))
    assert "forward" not in vars(mlp)
    wrapped = mlp.forward
    mlp.forward = wrapped
    with last_mlp_at(model, torch.tensor([0])):
        pass
    assert vars(mlp)["forward"] is wrapped


def test_recomputed_layers_are_left_alone(model: Any) -> None:
    model.train().gradient_checkpointing_enable()
    with last_mlp_at(model, torch.tensor([0])):
        assert "forward" not in vars(model.get_decoder().layers[-1].mlp)
