from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rlaifv.models.digests import weights_digest
from rlaifv.models.loading import select_trainable
from rlaifv.models.trained import on_host, other_weights, read_trained, trained_digest, trained_tensors, write_trained


@pytest.fixture
def policy() -> nn.Module:
    """Two layers, of which the second trains, in 16 bits."""
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).bfloat16()
    policy[0].requires_grad_(False)
    return policy


def shift(policy: nn.Module) -> None:
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1)


def test_what_trains_comes_back_bit_by_bit_and_nothing_else(policy: nn.Module, tmp_path: Path) -> None:
    path, digest = tmp_path / "weights.safetensors", trained_digest(policy)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    write_trained(on_host(policy), path)
    shift(policy)
    assert trained_digest(policy) != digest
    pointers = {name: parameter.data_ptr() for name, parameter in policy.named_parameters()}
    read_trained(policy, path, digest)
    assert trained_digest(policy) == digest
    assert torch.equal(policy.get_parameter("1.weight"), before["1.weight"])
    assert torch.equal(policy.get_parameter("0.weight"), before["0.weight"] + 1)  # frozen, so not in the file
    # In place: an optimizer and a strategy hold on to the tensors.
    assert {name: parameter.data_ptr() for name, parameter in policy.named_parameters()} == pointers


def test_other_weights_are_there_for_a_while(policy: nn.Module, tmp_path: Path) -> None:
    path, start = tmp_path / "start.safetensors", trained_digest(policy)
    write_trained(on_host(policy), path)
    shift(policy)
    trained = weights_digest(policy)
    with other_weights(policy, path, start):
        assert trained_digest(policy) == start
    assert weights_digest(policy) == trained
    with pytest.raises(KeyError, match="stopped"), other_weights(policy, path, start):
        raise KeyError("stopped")
    assert weights_digest(policy) == trained


def test_weights_that_share_memory_are_written_apart(tmp_path: Path) -> None:
    """As where a strategy keeps all of them in one strip."""
    strip = torch.arange(6.0)
    policy = nn.ParameterDict({"a": nn.Parameter(strip[:2]), "b": nn.Parameter(strip[2:].view(2, 2))})
    digest = trained_digest(policy)
    write_trained(on_host(policy), tmp_path / "weights.safetensors")
    shift(policy)
    read_trained(policy, tmp_path / "weights.safetensors", digest)
    assert strip.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_of_a_model_with_adapters_only_these_are_written(model: Any, tmp_path: Path) -> None:
    whole = sum(parameter.numel() for parameter in model.parameters())
    policy = select_trainable(model, [], {"r": 2, "lora_alpha": 4})
    assert all("lora_" in name for name in trained_tensors(policy))
    write_trained(on_host(policy), tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size < whole


def test_weights_that_are_not_those_are_refused(policy: nn.Module, tmp_path: Path) -> None:
    path, digest = tmp_path / "weights.safetensors", trained_digest(policy)
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing"):
        read_trained(policy, path, digest)
    write_trained(on_host(policy), path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    path.write_bytes(bytes(flipped))
    with pytest.raises(ValueError, match=f"is not what was written: its weights have SHA-256 .*, but {digest} was rec"):
        read_trained(policy, path, digest)
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="is damaged"):
        read_trained(policy, path, digest)
    assert trained_digest(policy) == digest


def test_weights_of_another_model_are_refused(policy: nn.Module, tmp_path: Path) -> None:
    path, digest = tmp_path / "weights.safetensors", trained_digest(policy)
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4))
    other[0].requires_grad_(False)
    save_file({name: tensor.detach() for name, tensor in trained_tensors(other).items()}, path)
    with pytest.raises(
        ValueError, match=r"weights\.safetensors: 1\.bias is \(4,\) there, but \(2,\) in what trains here"
    ):
        read_trained(policy, path, trained_digest(other))
    assert trained_digest(policy) == digest
