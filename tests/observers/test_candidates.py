"""Candidates of a policy of a few weights, measured by what the weights are."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlaifv.observers import candidates as module
from rlaifv.observers.candidates import Candidates
from rlaifv.observers.selection import SelectionRules
from rlaifv.records import Prompt
from rlaifv.runtime.stopping import Stopped


class Policy:
    """Says yes as often as its one weight that trains says."""

    def __init__(self) -> None:
        self.model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
        self.model[0].requires_grad_(False)
        self.set(0.0)

    def set(self, value: float) -> None:
        torch.nn.init.constant_(self.model[1].weight, value)

    @property
    def value(self) -> float:
        return float(self.model[1].weight.detach())

    def answer_probabilities(self, asked: Sequence[Any], advance: Any = None) -> list[Any]:
        return [[(self.value, 0.0)]]


class Loop:
    """Its measurement is the policy's weight, and the labeler's answer."""

    def __init__(self, run_dir: Path, labels_itself: bool = True, **rules: Any) -> None:
        self.run_dir = run_dir
        self.policy = Policy()
        engine = self.policy if labels_itself else Policy()
        self.labeler = engine
        self.selection = SelectionRules(4, **rules)
        self.min_free_bytes = 0
        self.measured: list[float] = []
        self.held = [Prompt("h-0", "What is it?", ())]

    def prompts(self, for_choice: bool) -> list[Prompt]:
        assert for_choice
        return self.held

    def evaluate(self, prompts: Sequence[Prompt], labeler: Any) -> Any:
        self.measured.append(self.policy.value)
        ((answer,),) = labeler.answer_probabilities([(prompts[0], ["Is it?"])])
        rates = {"rejected/mention": abs(self.policy.value - 5), "rejected/response": 0.5, "claims_per_response": 2.0}
        return SimpleNamespace(metrics=rates | {"answer": answer[0]})


def make(loop: Loop) -> Candidates:
    return Candidates(loop, loop.min_free_bytes)  # type: ignore[arg-type]


def take(loop: Loop, step: int, value: float, previous: int | None = None, epoch: float | None = None) -> Any:
    loop.policy.set(value)
    found = make(loop).take(0, step, step / 4 if epoch is None else epoch, step - 1 if previous is None else previous)
    assert loop.policy.value == value
    return found


def weights(loop: Loop, iteration: int = 0) -> list[str]:
    return sorted(path.stem for path in make(loop).directory(iteration).glob("*.safetensors"))


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    loop = Loop(tmp_path)
    loop.policy.set(0.25)
    make(loop).begin(0, 0)
    return loop


def test_one_labeler_judges_all_candidates_of_an_iteration(loop: Loop, tmp_path: Path) -> None:
    """The policy as the iteration began, whatever it has become; or the labeler's own weights."""
    assert [take(loop, step, value).metrics["answer"] for step, value in ((1, 3.0), (2, 7.0))] == [0.25, 0.25]
    other = Loop(tmp_path / "other", labels_itself=False)
    make(other).begin(0, 0)
    assert take(other, 1, 3.0).metrics["answer"] == 0.0
    assert weights(other) == ["step=000001"]  # nobody judges with the start's


def test_nothing_is_measured_twice_and_another_policy_is(loop: Loop) -> None:
    first = take(loop, 1, 3.0)
    assert take(loop, 1, 3.0) == first
    loop.policy.set(0.25)
    make(loop).begin(0, 0)
    assert loop.measured == [0.25, 3.0]
    assert take(loop, 1, 4.0) != first  # the same step of another attempt, whose kernels rounded otherwise
    assert loop.measured == [0.25, 3.0, 4.0]
    make(loop).load(0, 1)
    assert loop.policy.value == 4.0


def test_a_kill_between_weights_and_record_leaves_nothing_to_be_believed(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(loop, 1, 3.0)

    def stop(*arguments: Any) -> None:
        raise Stopped(15)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(loop, "evaluate", stop)
        with pytest.raises(Stopped):
            take(loop, 1, 4.0)
    assert make(loop).taken(0) == []
    assert take(loop, 1, 4.0).step == 1
    make(loop).load(0, 1)


def test_the_best_goes_on(loop: Loop) -> None:
    """5 is what the measure wants: 7 is 2 away, 4 is 1, 1 is 4."""
    for step, value in ((1, 7.0), (2, 4.0), (3, 1.0)):
        take(loop, step, value)
    assert make(loop).choose(0, 3).step == 2
    found = json.loads((loop.run_dir / "iterations/000/candidates.json").read_text())
    assert (found["by"], found["min_claims"], found["chosen"], found["start"]["epoch"]) == ("labeler", 0.8, 2, 0.0)
    assert [(one["step"], one["metrics"]["rejected/mention"]) for one in found["candidates"]] == [
        (1, 2),
        (2, 1),
        (3, 4),
    ]
    for _ in range(2):
        make(loop).load(0, 2)
        assert loop.policy.value == 4.0


def test_a_choice_made_again_after_tidying_is_the_same(loop: Loop) -> None:
    """A run goes back to an earlier checkpoint, where the one that held the choice is damaged."""
    for step, value in ((1, 4.0), (2, 7.0), (3, 1.0), (4, 8.0)):
        take(loop, step, value, epoch=step / 2)
    first = make(loop).choose(0, 4)
    make(loop).tidy(0)
    assert weights(loop) == ["start", "step=000001"]
    for step, value in ((3, 1.0), (4, 8.0)):  # its last pass
        take(loop, step, value, epoch=step / 2)
    assert loop.measured == [0.25, 4.0, 7.0, 1.0, 8.0]
    assert make(loop).choose(0, 4) == first
    make(loop).load(0, 1)


def test_of_earlier_passes_only_the_best_stays_on_the_disk(loop: Loop) -> None:
    for step, value in ((1, 9.0), (2, 4.0), (3, 1.0), (4, 0.0)):  # two a pass
        take(loop, step, value, epoch=step / 2)
    assert weights(loop) == ["start", "step=000002", "step=000003", "step=000004"]
    take(loop, 5, 5.0, epoch=2.5)
    assert weights(loop) == ["start", "step=000002", "step=000005"]
    assert [candidate.step for candidate in make(loop).taken(0)] == [1, 2, 3, 4, 5]


def test_candidates_of_steps_that_were_given_up_are_forgotten(loop: Loop) -> None:
    """Four processes made two steps of the pass, at 3 and 4; after a resume one process makes more."""
    for step, value in ((1, 9.0), (2, 8.0), (3, 5.0), (4, 5.0)):
        take(loop, step, value)
    take(loop, 5, 7.0, previous=2)
    assert [candidate.step for candidate in make(loop).taken(0)] == [1, 2, 5]
    take(loop, 9, 5.0)
    assert make(loop).choose(0, 5).step == 5  # what lies after the iteration's end is of a future that was given up


def test_weights_are_removed_once_nobody_can_go_back_to_them(loop: Loop) -> None:
    take(loop, 1, 4.0)
    take(loop, 2, 3.0)
    make(loop).choose(0, 2)
    make(loop).tidy(-1)
    make(loop).tidy(0)
    make(loop).begin(1, 2)
    assert (weights(loop, 0), weights(loop, 1)) == (["start", "step=000001"], ["start"])
    make(loop).take(1, 3, 1.0, 2)
    make(loop).choose(1, 3)
    make(loop).tidy(1)
    assert (weights(loop, 0), weights(loop, 1)) == ([], ["start", "step=000003"])
    make(loop).tidy(1, is_over=True)
    assert (weights(loop, 0), weights(loop, 1)) == ([], [])
    assert len(make(loop).taken(0)) == 2


def test_saying_little_is_warned_of_where_all_do(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    take(loop, 1, 4.0)
    path = make(loop).directory(0) / "start.json"
    path.write_text(path.read_text().replace('"claims_per_response": 2.0', '"claims_per_response": 4.0'))
    assert make(loop).choose(0, 1).step == 1
    assert "None of 1 candidates of iteration 1 makes iteration.selection.min_claims=0.8 of the 4.00" in caplog.text


def test_nothing_is_written_to_a_full_disk(loop: Loop) -> None:
    loop.min_free_bytes = 1 << 62
    with pytest.raises(OSError, match=r"bytes left, fewer than min_free_bytes=4,611"):
        take(loop, 1, 4.0)
    assert weights(loop) == ["start"]


def test_without_a_picture_that_can_be_read_nothing_is_chosen(tmp_path: Path) -> None:
    loop = Loop(tmp_path)
    loop.held = []
    with pytest.raises(ValueError, match="No held-out prompt with an image that can be read is left"):
        make(loop).begin(0, 0)


@pytest.mark.parametrize("text", ["{", "[]", '{"step": 1}'])
def test_a_damaged_record_is_named(loop: Loop, text: str) -> None:
    take(loop, 1, 4.0)
    (make(loop).directory(0) / "step=000001.json").write_text(text)
    with pytest.raises(ValueError, match=r"step=000001\.json is damaged, or not a file of this kind"):
        make(loop).taken(0)


def test_other_ranks_wait_for_the_record_of_their_own_weights(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for one that an earlier attempt left; they measure and write nothing."""
    take(loop, 1, 3.0)
    monkeypatch.setattr("rlaifv.runtime.stopping.POLL_SECONDS", 0.01)
    second = Loop(loop.run_dir)
    second.policy.set(4.0)
    found = []
    mine = threading.local()
    monkeypatch.setattr(module, "rank", lambda: getattr(mine, "rank", 0))

    def wait() -> None:
        mine.rank = 1
        found.append(make(second).take(0, 1, 0.25, 0))

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    measured = take(loop, 1, 4.0)
    waiting.join(20)
    assert found == [measured]
    assert second.measured == []
