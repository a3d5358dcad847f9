"""The local engine where memory runs out."""

from typing import Any

import pytest
import torch

from rlaifv.engines import local as local_module
from rlaifv.engines.local import LocalEngine
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from tests.engines.plain import Asked, assert_close


class Scarce:
    """Memory that runs out where more than `most` tokens are run at a time."""

    def __init__(self, engine: LocalEngine, most: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        def within(work: Any) -> Any:
            def run(*arguments: Any, **options: Any) -> Any:
                made = work(*arguments, **options)
                if engine.batch_tokens > most:
                    yield next(iter(made))  # after a part of it was done
                    raise error
                yield from made

            return run

        monkeypatch.setattr(local_module, "batches_by_tokens", within(local_module.batches_by_tokens))
        monkeypatch.setattr(local_module, "sample_branches", within(local_module.sample_branches))


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_where_memory_runs_out_fewer_tokens_are_run_and_nothing_changes(
    sharp: Any,
    prompter: Prompter,
    asked: Asked,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """Answers, judgements and log-probs; the progress counts every prompt once."""

    def results(engine: LocalEngine) -> list[Any]:
        prompts = [prompt for prompt, _ in asked]
        made: list[Any] = []
        for work in (
            lambda advance: engine.sample(prompts, [[5, 6]] * 4, Decoding(max_new_tokens=6), advance),
            lambda advance: engine.answer_probabilities(asked, advance),
            lambda advance: engine.completion_logps([(prompt, [(20, 21)]) for prompt in prompts], advance),
        ):
            finished: list[int] = []
            made.append(work(finished.append))
            assert sum(finished) == 4
        return made

    expected = results(LocalEngine(sharp, prompter, 400))
    engine = LocalEngine(sharp, prompter, 400)
    Scarce(engine, 100, error, monkeypatch)
    samples, judged, logps = results(engine)
    assert engine.batch_tokens == 100
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "engine.batch_tokens is 200 from now on" in caplog.text
    assert samples == expected[0]
    assert_close(judged, expected[1])
    # Batches of other sizes are summed in another order on some processors.
    torch.testing.assert_close(logps, expected[2], rtol=1e-6, atol=1e-6)


def test_memory_that_is_never_enough_is_said_in_one_sentence(
    engine: LocalEngine, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scarce(engine, 0, OUT_OF_MEMORY[0], monkeypatch)
    with pytest.raises(
        ValueError, match=r"with engine.batch_tokens=16384, and still does with 256 \(CUDA out of memory"
    ):
        engine.answer_probabilities(asked)


def test_other_errors_are_not_tried_again(engine: LocalEngine, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    Scarce(engine, 0, RuntimeError("shapes differ"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes differ"):
        engine.answer_probabilities(asked)
    assert engine.batch_tokens == 16_384
