"""Encoding once changes nothing but the time; the store is bounded, notices damage, and stays out of what it does not know."""

import copy
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlaifv.models.loading import select_trainable
from rlaifv.models.prompting import EncodedPrompt, Prompter, stack_images
from rlaifv.models.tree.packing import Branch, Tree, branch_logps, pack
from rlaifv.models.vision import FeatureStore, keep_features
from rlaifv.records import Prompt

PLENTY = 2**30


@pytest.fixture
def encoded(prompter: Prompter, prompts: list[Prompt]) -> list[EncodedPrompt]:
    return [prompter.encode(prompt) for prompt in prompts[:3]]


def logps(model: Any, encoded: list[EncodedPrompt]) -> Tensor:
    packed = pack([Tree(prompt.ids, [Branch((20, 21, 22)), Branch((30, 31))]) for prompt in encoded])
    images = stack_images([encoded[k] for k in packed.tree_order])
    return branch_logps(model, packed, images)


def gradients(model: Any, encoded: list[EncodedPrompt]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    found = logps(model, encoded)
    found.sum().backward()
    return found.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def count_runs(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that each run of the tower's layers sees."""
    seen: list[int] = []
    encoder = model.base_model.vision_tower.embeddings
    run = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda pixels, **kwargs: seen.append(len(pixels)) or run(pixels, **kwargs))
    return seen


def test_a_frozen_tower_builds_no_graph(model: Any, encoded: list[EncodedPrompt]) -> None:
    select_trainable(model, ["projector", "language_model"])
    outputs: list[Any] = []
    with model.base_model.vision_tower.register_forward_hook(lambda _, __, output: outputs.append(output)):
        logps(model, encoded)
    assert not any(state.requires_grad for state in outputs[0].hidden_states if state is not None)


def test_kept_features_give_the_same_logps_and_gradients(
    model: Any, encoded: list[EncodedPrompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    select_trainable(model, ["projector", "language_model"])
    expected, expected_gradients = gradients(model, encoded)
    seen = count_runs(model, monkeypatch)
    keep_features(model, FeatureStore(tmp_path, PLENTY))
    for _ in range(2):
        actual, actual_gradients = gradients(model, encoded)
        assert torch.equal(actual, expected)
        assert actual_gradients.keys() == expected_gradients.keys()
        assert any("projector" in name for name in actual_gradients)
        for name, gradient in expected_gradients.items():
            assert torch.equal(actual_gradients[name], gradient), name
    assert seen == [3]


def test_only_what_is_missing_is_computed(
    model: Any, encoded: list[EncodedPrompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.requires_grad_(False)
    seen = count_runs(model, monkeypatch)
    other = copy.deepcopy(model)
    keep_features(model, FeatureStore(tmp_path, PLENTY))
    logps(model, encoded[:2])
    logps(model, encoded)
    assert seen == [2, 1]
    with torch.no_grad():
        other.base_model.vision_tower.post_layernorm.weight.add_(1)
    seen = count_runs(other, monkeypatch)
    keep_features(other, FeatureStore(tmp_path, PLENTY))
    logps(other, encoded)  # another tower's features are others
    assert seen == [3]


def test_a_tower_that_trains_or_is_unknown_is_refused(model: Any, tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, PLENTY)
    unknown = SimpleNamespace(base_model=SimpleNamespace(), config=SimpleNamespace(model_type="other"))
    for one, name in ((model, "llava"), (unknown, "other")):
        with pytest.raises(ValueError, match=rf"engine\.feature_store_bytes must be 0: .*'{name}' model trains"):
            keep_features(one, store)
    assert "forward" not in vars(model.base_model.vision_tower)


def test_damage_is_noticed(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, PLENTY)
    store.put("a", {"x": torch.arange(6.0)})
    assert torch.equal(store.get("a")["x"], torch.arange(6.0))  # type: ignore[index]
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert store.get("a") is None
    assert list(tmp_path.iterdir()) == []
    assert store.get("b") is None


def test_what_was_read_longest_ago_goes_first(tmp_path: Path) -> None:
    features = {"x": torch.zeros(1000)}
    store = FeatureStore(tmp_path, max_bytes=2 * 4500)
    for k, key in enumerate(("a", "b")):
        store.put(key, features)
        (path,) = tmp_path.glob(f"{key}-*")
        os.utime(path, (k, k))
    assert store.get("a") is not None
    store.put("c", features)
    assert [store.get(key) is not None for key in "abc"] == [True, False, True]
    small = FeatureStore(tmp_path, max_bytes=100)
    small.put("d", features)
    assert list(tmp_path.iterdir()) == []  # whatever does not fit is not kept
