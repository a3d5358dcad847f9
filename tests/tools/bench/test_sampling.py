"""What the benchmark compares: the same number of tokens on the same model, and FLOPs worked out by hand."""

import pytest
import torch

from tools.bench.sampling import build_llava, flop_floor_ratio, make_prompts, measure


def test_flop_ratio_of_llava_7b() -> None:
    """93.4 TFLOP against 21.9 for ten answers of 100 tokens, and the head's 0.26 on either side."""
    model = build_llava("7b", torch.device("meta"))
    assert flop_floor_ratio(model, 10, 100) == pytest.approx(93.4 / 21.9, rel=0.03)
    assert flop_floor_ratio(model, 1, 100) == 1


def test_prompts_hold_as_many_placeholders_as_the_model_expects() -> None:
    model = build_llava("small", torch.device("cpu"))
    first, second = make_prompts(model, 2)
    assert len(first.ids) == len(second.ids) == 606
    assert first.ids.count(model.config.image_token_id) == 576 == model.config.image_seq_length
    assert first.ids != second.ids
    with torch.no_grad():
        assert model.model(input_ids=torch.tensor([first.ids]), **first.images).last_hidden_state.isfinite().all()


def test_median_leaves_the_first_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first run's end is not asked for.
    times = iter([0.0, 0.0, 3.0, 0.0, 1.0, 0.0, 2.0])
    monkeypatch.setattr("tools.bench.sampling.perf_counter", lambda: next(times))
    calls: list[int] = []
    seconds, value, peak = measure(lambda: calls.append(1) or len(calls), 3, torch.device("cpu"))  # type: ignore[func-returns-value]
    assert (seconds, value, peak) == (2.0, 4, None)
