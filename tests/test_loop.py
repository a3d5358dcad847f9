"""The loop with a policy and a labeler that are functions of their inputs, interrupted wherever it can be."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from rlaifv import loop as loop_module
from rlaifv import runtime
from rlaifv.data.sources import FilesSource, PromptSource
from rlaifv.engines.local import LocalEngine
from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.feedback.canaries import Canary, CanarySet
from rlaifv.feedback.divide import NotDivided, RulesDivider
from rlaifv.feedback.pair import PairingRules
from rlaifv.labeler import LabelerModule
from rlaifv.loop import FeedbackLoop, IterationSettings
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.records import Claim, Prompt, Response
from rlaifv.stopping import Stopped, stoppable
from rlaifv.store.manifest import Manifest, TooFewPairs

SENTENCES = [f"There is a {colour} {shape} at the {place}." for colour, shape, place in (
    ("red", "circle", "top"), ("blue", "star", "left"), ("green", "ring", "right"), ("black", "cross", "top left"),
    ("purple", "square", "bottom"), ("yellow", "triangle", "center"),
)]  # fmt: skip
SETTINGS = IterationSettings(
    num_prompts=6,
    num_responses=4,
    decoding=Decoding(temperature=1.0, max_new_tokens=8),
    rules=PairingRules(length_balance=False),
    min_pairs=3,
    shard_prompts=2,
    max_drop_rate=0.3,
)


class Interrupted(Exception):
    """What a test throws into the loop."""


class FakePolicy:
    """Answers and log-probs follow from prompt ids, seeds and tokens, and every call is noted."""

    def __init__(self, events: list[str]) -> None:
        self.model = torch.nn.Linear(2, 2)
        torch.nn.init.ones_(self.model.weight)
        torch.nn.init.zeros_(self.model.bias)
        self.events = events
        self.checked: list[str] = []

    def check(self, prompt: Prompt) -> None:
        self.checked.append(prompt.id)

    def sample(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        decoding: Decoding,
        advance: Advance = ignore_progress,
    ) -> list[list[Sampled]]:
        kind = "answer" if decoding.temperature == 0 else "sample"
        self.events.append(f"{kind} {' '.join(prompt.id for prompt in prompts)}")
        advance(len(prompts))
        return [[self._draw(seed) for seed in some] for some in seeds]

    def _draw(self, seed: int) -> Sampled:
        rng = random.Random(seed)
        said = rng.sample(range(len(SENTENCES)), rng.choice((1, 2, 3)))
        return Sampled((*said, 99), rng.random() < 0.9)

    def num_tokens(self, prompt: Prompt) -> int:
        return 100 + len(prompt.id)

    def check_lengths(self, prompts: Sequence[Prompt], num_new_tokens: int) -> None:
        assert num_new_tokens > 0

    def decode(self, token_ids: Sequence[int]) -> str:
        return " ".join(SENTENCES[token] for token in token_ids if token < len(SENTENCES))

    def completion_logps(
        self, completions: Sequence[tuple[Prompt, Sequence[Sequence[int]]]], advance: Advance = ignore_progress
    ) -> list[list[list[float]]]:
        self.events.append(f"reference {' '.join(dict.fromkeys(prompt.id for prompt, _ in completions))}")
        advance(len(completions))
        return [[[-0.5 * token for token in ids] for ids in answers] for _, answers in completions]


class FakeLabeler:
    """Says yes to about half of the questions about an image, always to the same ones."""

    def __init__(self, events: list[str], always_yes: bool = False) -> None:
        self.events = events
        self.always_yes = always_yes
        self.seen: list[Any] = []

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        self.events.append(f"label {' '.join(prompt.id for prompt, _ in asked)}")
        self.seen += [(prompt, list(questions)) for prompt, questions in asked]
        advance(len(asked))
        return [[self._answer(prompt.id, question) for question in questions] for prompt, questions in asked]

    def _answer(self, prompt_id: str, question: str) -> tuple[float, float]:
        digit = hashlib.sha256(f"{prompt_id}{question}".encode()).digest()[0]
        if digit % 9 == 0 and not self.always_yes:
            return float("nan"), 0.0
        return (0.75, 0.125) if digit % 2 or self.always_yes else (0.125, 0.75)


class FakeSource:
    def prompts(self, iteration: int, num_prompts: int | None) -> list[Prompt]:
        assert num_prompts is not None
        return [Prompt(f"{iteration}-{k}", "What is it?", ()) for k in range(num_prompts)]

    def held_out(self) -> list[Prompt]:
        return [Prompt("h-0", "What is it?", ()), Prompt("h-1", "What is it?", ())]


@dataclass
class FakeTruth:
    """Every image holds the first two things."""

    is_turned_around: bool = False

    def facts(self, prompt_id: str) -> list[str]:
        return SENTENCES[2:4] if self.is_turned_around else SENTENCES[:2]

    def holds(self, prompt_id: str, claim: str) -> bool:
        return claim in self.facts(prompt_id)

    def covered(self, prompt_id: str, claims: Sequence[str]) -> int:
        return len({*claims} & {*self.facts(prompt_id)})

    def exam(self, prompt_id: str) -> list[tuple[str, bool]]:
        return [("Is there a red circle at the top?", not self.is_turned_around)]


@dataclass
class World:
    """Builds loops over one run directory; each is what a process that starts anew would have."""

    run_dir: Path
    source: PromptSource = field(default_factory=FakeSource)
    settings: IterationSettings = SETTINGS
    truth: FakeTruth | None = field(default_factory=FakeTruth)
    always_yes: bool = False
    events: list[str] = field(default_factory=list)
    labeler: FakeLabeler = field(init=False)

    def loop(self) -> FeedbackLoop:
        self.labeler = FakeLabeler(self.events, self.always_yes)
        policy: Any = FakePolicy(self.events)
        return FeedbackLoop(
            self.run_dir,
            self.source,
            policy,
            LabelerModule(self.labeler),
            RulesDivider(),
            self.settings,
            5,
            self.truth,
        )

    def content(self) -> dict[str, Any]:
        """All that a run wrote, by path: bytes, but for the statistics, whose times differ from run to run."""
        found: dict[str, Any] = {}
        for path in sorted(self.run_dir.rglob("*")):
            if path.is_file():
                name = str(path.relative_to(self.run_dir))
                found[name] = path.read_bytes()
                if path.name == "statistics.json":
                    statistics = json.loads(path.read_text())
                    found[name] = {key: n for key, n in statistics.items() if not key.startswith("seconds/")}
        return found


@pytest.fixture(autouse=True, scope="module")
def _without_syncs() -> Iterator[None]:
    """Nothing here loses its power; `tests/store` does."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uninterrupted run writes."""
    world = World(tmp_path_factory.mktemp("whole"))
    world.loop().prepare(0)
    return world.content()


def test_stages_come_one_after_the_other(world: World) -> None:
    """The policy is measured, then samples all shards; the labeler is not asked before all answers are there."""
    manifest = world.loop().prepare(0)
    assert manifest.committed
    assert manifest.stages == {"prompts": 1, "responses": 3, "claims": 3, "judgements": 3, "pairs": 2}
    shards = ["0-0 0-1", "0-2 0-3", "0-4 0-5"]
    assert world.events[:3] == ["answer h-0 h-1", "label h-0 h-1", "label h-0 h-1"]
    assert world.events[3:9] == [*(f"sample {shard}" for shard in shards), *(f"label {shard}" for shard in shards)]
    assert [event.split()[0] for event in world.events[9:]] == ["reference"] * 2


def test_records_of_all_stages_belong_together(world: World) -> None:
    manifest = world.loop().prepare(0)
    prompts, responses, claims, judgements, pairs = (
        manifest.records(stage) for stage in ("prompts", "responses", "claims", "judgements", "pairs")
    )
    assert [prompt.id for prompt in prompts] == [f"0-{k}" for k in range(6)]
    assert [response.id for response in responses] == [f"0-{k}/{n}" for k in range(6) for n in range(4)]
    assert [judgement.claim_id for judgement in judgements] == [claim.id for claim in claims]
    said = {response.id: response for response in responses}
    for pair in pairs:
        chosen, rejected = said[pair.chosen_response_id], said[pair.rejected_response_id]
        assert (pair.chosen, pair.rejected) == (chosen.text, rejected.text)
        assert chosen.prompt_id == rejected.prompt_id == pair.prompt_id
        assert pair.chosen_score > pair.rejected_score
        assert pair.chosen_reference_logps == tuple(-0.5 * token for token in chosen.token_ids)
        assert pair.rejected_reference_logps == tuple(-0.5 * token for token in rejected.token_ids)
    assert len(pairs) >= SETTINGS.min_pairs


def test_preparing_again_asks_no_model(world: World) -> None:
    loop = world.loop()
    loop.prepare(0)
    content, num_events = world.content(), len(world.events)
    loop.prepare(0)
    world.loop().prepare(0)
    assert world.content() == content
    assert len(world.events) == num_events


def test_trees_are_checked_before_pairs_are_trained_on(world: World) -> None:
    """Also where all of them were made by an earlier process, so that nothing else runs the policy in this one."""
    for _ in range(2):
        loop: Any = world.loop()
        loop.prepare(0)
        assert loop.policy.checked == ["0-0"]


def test_lengths_are_checked_before_anything_is_generated(world: World) -> None:
    loop: Any = world.loop()

    def refuse(prompts: Sequence[Prompt], num_new_tokens: int) -> None:
        assert num_new_tokens == loop.settings.decoding.max_new_tokens
        raise ValueError(f"Prompt {prompts[1].id!r} needs too many tokens.")

    loop.policy.check_lengths = refuse
    with pytest.raises(ValueError, match="Prompt '0-1' needs too many tokens"):
        loop.prepare(0)
    assert loop.policy.events == []


def test_iterations_are_apart(world: World) -> None:
    """The next iteration has prompts, seeds and a directory of its own, and leaves the one before as it was."""
    world.loop().prepare(0)
    first = world.content()
    world.loop().prepare(1)
    both = world.content()
    assert {name: both[name] for name in first} == first
    assert {name.split("/")[1].removesuffix(".json") for name in both} == {"000", "001"}
    seeds = [{r.seed for r in Manifest(world.run_dir / "iterations" / k).records("responses")} for k in ("000", "001")]
    assert not seeds[0] & seeds[1]


def test_a_damaged_shard_is_noticed(world: World) -> None:
    world.loop().prepare(0)
    shard = world.run_dir / "iterations/000/claims-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=r"claims-00001\.parquet was changed or damaged"):
        world.loop().prepare(0)


NUM_PUTS = 1 + 3 + 3 + 3 + 2  # prompts, responses, claims, judgements, pairs


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("number", range(NUM_PUTS))
def test_a_run_resumes_after_every_shard(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, number: int, is_written: bool
) -> None:
    """Stopped before or after any shard is put, and so at and between all stages, it ends byte for byte the same.

    No finished shard is made again: each prompt is sampled, labeled and so on once, but for the shard that was lost.
    """
    put, puts = Manifest.put, []

    def put_or_stop(self: Manifest, *arguments: Any) -> None:
        puts.append(arguments[0])
        if len(puts) == number + 1 and not is_written:
            raise Interrupted
        put(self, *arguments)
        if len(puts) == number + 1:
            raise Interrupted

    monkeypatch.setattr(Manifest, "put", put_or_stop)
    with pytest.raises(Interrupted):
        world.loop().prepare(0)
    monkeypatch.setattr(Manifest, "put", put)
    assert world.content() != whole
    world.loop().prepare(0)
    assert world.content() == whole
    again = Counter(world.events[3:])  # the first three measure
    twice = [event for event, count in again.items() if count > 1]
    assert max(again.values()) <= 2
    assert len(twice) == (0 if is_written or puts[-1] in ("prompts", "claims") else 1)
    assert world.events.count("answer h-0 h-1") == 1


@pytest.mark.parametrize(
    ("call", "number"),
    [("answer", 0), ("label", 0), ("label", 1), ("sample", 0), ("sample", 2), ("label", 3), ("reference", 1)],
)
def test_a_run_resumes_after_a_model_failed(world: World, whole: dict[str, Any], call: str, number: int) -> None:
    loop = world.loop()

    class Failing(list[str]):
        def append(self, event: str) -> None:
            super().append(event)
            if [other.split()[0] for other in self].count(call) == number + 1:
                raise Interrupted(event)

    policy: Any = loop.policy
    policy.events = world.labeler.events = Failing()
    with pytest.raises(Interrupted, match=call):
        loop.prepare(0)
    world.loop().prepare(0)
    assert world.content() == whole


@pytest.mark.parametrize("stage", ["responses", "claims", "judgements", "pairs"])
def test_a_signal_is_honoured_between_two_shards_of_any_stage(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The shard in work is finished and kept, none is begun after it, and the next run ends with the same bytes."""
    put = Manifest.put

    def put_and_signal(self: Manifest, name: str, shard: int, *others: Any) -> None:
        if name == stage:
            os.kill(os.getpid(), signal.SIGTERM)
        put(self, name, shard, *others)

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "put", put_and_signal)
        with stoppable(), pytest.raises(Stopped):
            world.loop().prepare(0)
    shards = Manifest(world.run_dir / "iterations/000").shards(stage)
    assert [shard is not None for shard in shards] == [True] + [False] * (len(shards) - 1)
    world.events.clear()
    world.loop().prepare(0)
    assert world.content() == whole


def test_a_signal_is_honoured_while_the_policy_is_measured(world: World, whole: dict[str, Any]) -> None:
    loop: Any = world.loop()
    sample = loop.policy.sample

    def sample_and_signal(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGUSR1)
        return sample(*arguments)

    loop.policy.sample = sample_and_signal
    with stoppable(), pytest.raises(Stopped):
        loop.prepare(0)
    assert not loop.evaluation_path(0).exists()
    world.loop().prepare(0)
    assert world.content() == whole


@pytest.mark.parametrize("stage", ["responses", "claims", "judgements", "pairs"])
def test_a_disk_that_is_nearly_full_stops_the_run_before_the_next_shard(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """With room again, the run ends with the same bytes; without the floor it would have written on."""
    full, put = [False], Manifest.put

    def put_and_fill(self: Manifest, name: str, shard: int, *others: Any) -> None:
        assert not full[0], "a shard was begun without room for it"
        put(self, name, shard, *others)
        full[0] = name == stage

    loop = world.loop()
    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "put", put_and_fill)
        patched.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10 if full[0] else 10**9))
        loop.min_free_bytes = 10**6
        with pytest.raises(OSError, match="has 10 bytes left, fewer than min_free_bytes=1,000,000"):
            loop.prepare(0)
        loop.min_free_bytes = 0
        with pytest.raises(AssertionError, match="without room"):
            loop.prepare(0)
    world.loop().prepare(0)
    assert world.content() == whole


@pytest.mark.parametrize("stage", ["responses", "claims", "judgements", "pairs"])
def test_a_full_disk_costs_the_shard_in_work(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def no_space(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        put = Manifest.put

        def put_without_space(self: Manifest, name: str, shard: int, *others: Any) -> None:
            if (name, shard) == (stage, 1):
                patched.setattr(Path, "write_bytes", no_space)
            put(self, name, shard, *others)

        patched.setattr(Manifest, "put", put_without_space)
        with pytest.raises(OSError, match=rf"Cannot write .*{stage}-00001.parquet: No space left on device"):
            world.loop().prepare(0)
    assert not Manifest(world.run_dir / "iterations/000").committed
    assert not list(world.run_dir.rglob("*.tmp"))
    world.loop().prepare(0)
    assert world.content() == whole


@pytest.mark.parametrize("where", ["_claim_statistics", "commit", "after_commit"])
def test_a_run_resumes_around_the_commit(
    world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Also a run that stops right after its commit has left its statistics."""
    commit = Manifest.commit

    def stop(*arguments: Any) -> None:
        if where == "after_commit":
            commit(*arguments)
        raise Interrupted

    with monkeypatch.context() as patched:
        owner = FeedbackLoop if where == "_claim_statistics" else Manifest
        patched.setattr(owner, "commit" if where == "after_commit" else where, stop)
        with pytest.raises(Interrupted):
            world.loop().prepare(0)
    world.loop().prepare(0)
    assert world.content() == whole


@pytest.mark.parametrize(
    "lost",
    [
        ("responses-00001",),
        ("claims-00000", "claims-00002"),
        ("judgements-00002",),
        ("pairs-00000",),
        ("prompts-00000",),
        ("responses-00000", "claims-00001", "judgements-00002", "pairs-00001"),
    ],
)
def test_lost_shards_are_made_again_as_they_were(world: World, whole: dict[str, Any], lost: Sequence[str]) -> None:
    """As the manifest's documentation says: delete what is damaged and the manifest, and the next run makes it again."""
    world.loop().prepare(0)
    directory = world.run_dir / "iterations/000"
    for name in (*(f"{shard}.parquet" for shard in lost), "manifest.json"):
        (directory / name).unlink()
    world.events.clear()
    world.loop().prepare(0)
    assert world.content() == whole
    models = {"responses": "sample", "judgements": "label", "pairs": "reference"}
    called = Counter(event.split()[0] for event in world.events)
    assert called == Counter(models[name[:-6]] for name in lost if name[:-6] in models)


def test_two_ranks_write_what_one_does(world: World, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks as threads: each does its share of the shards, and what is on disk does not tell how many there were."""
    local = threading.local()
    for module in (loop_module, runtime):
        monkeypatch.setattr(module, "rank", lambda: local.rank)
        monkeypatch.setattr(module, "world_size", lambda: 2)
    worlds = [World(world.run_dir) for _ in range(2)]
    errors: list[BaseException] = []

    def work(rank: int) -> None:
        local.rank = rank
        try:
            worlds[rank].loop().prepare(0)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert world.content() == whole
    sampled = [[event for event in one.events if event.startswith("sample")] for one in worlds]
    assert sampled == [["sample 0-0 0-1", "sample 0-4 0-5"], ["sample 0-2 0-3"]]


def test_another_policy_does_not_go_on_with_what_was_begun(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "commit", lambda *arguments: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            world.loop().prepare(0)
    loop = world.loop()
    torch.nn.init.constant_(loop.policy.model.weight, 2.0)
    with pytest.raises(ValueError, match="the iteration was begun with policy"):
        loop.prepare(0)


def test_too_few_pairs_are_refused_with_the_reasons(world: World) -> None:
    """A labeler that accepts everything leaves ties only, and the run stops rather than train on nothing."""
    world.always_yes = True
    with pytest.raises(TooFewPairs, match=r"000 has 0 pairs, fewer than min_pairs=3; dropped: \d+ tie") as raised:
        world.loop().prepare(0)
    assert "truncated" in str(raised.value)
    assert not Manifest(world.run_dir / "iterations/000").committed
    with pytest.raises(TooFewPairs):  # and again when it is asked again
        world.loop().prepare(0)


def test_statistics_are_counted_from_the_records(world: World) -> None:
    manifest = world.loop().prepare(0)
    statistics = json.loads((world.run_dir / "iterations/000/statistics.json").read_text())
    responses, claims, judgements, pairs = (
        manifest.records(stage) for stage in ("responses", "claims", "judgements", "pairs")
    )
    verdicts = Counter(judgement.verdict for judgement in judgements)
    assert min(verdicts[verdict] for verdict in ("accepted", "rejected", "unknown")) > 0
    true = [claim.text in SENTENCES[:2] for claim in claims]
    agreeing = sum(
        (j.verdict == "accepted") == holds for j, holds in zip(judgements, true, strict=True) if j.verdict != "unknown"
    )
    expected = {
        "responses": 24,
        "claims": len(claims),
        "claims_per_response": len(claims) / 24,
        "rejection_rate": verdicts["rejected"] / len(claims),
        "unknown_rate": verdicts["unknown"] / len(claims),
        "claims_repeated": 0,
        "questions_asked": len({(claim.prompt_id, claim.question) for claim in claims}),
        "labeler/agreement": agreeing / (len(claims) - verdicts["unknown"]),
        "pairs_kept": len(pairs),
        "length/chosen_words": sum(len(pair.chosen.split()) for pair in pairs) / len(pairs),
        "length/rejected_words": sum(len(pair.rejected.split()) for pair in pairs) / len(pairs),
        "dropped/truncated": sum(not response.finished for response in responses),
        "dropped/empty_response": 0,
        "dropped/no_claims": 0,
        "dropped/length_balance": 0,
    }
    assert {name: statistics[name] for name in expected} == pytest.approx(expected)
    assert statistics["pairs_possible"] == statistics["pairs_kept"] + statistics["dropped/over_cap"]
    others = {"dropped/unknown", "dropped/identical", "dropped/tie", "dropped/over_cap", "pairs_possible"}
    seconds = {f"seconds/{stage}" for stage in ("generate", "divide", "score", "reference")}
    assert {*statistics} == {*expected, *others, *seconds}
    assert all(statistics[name] >= 0 for name in seconds)
    assert statistics["questions_asked"] < statistics["claims"]


def test_without_truth_there_is_no_agreement(world: World) -> None:
    world.truth = None
    world.loop().prepare(0)
    assert "labeler/agreement" not in json.loads((world.run_dir / "iterations/000/statistics.json").read_text())
    evaluation = json.loads((world.run_dir / "evaluations/000.json").read_text())
    assert {*evaluation["metrics"]} == {"rejected/response", "rejected/mention", "length/words", "claims_per_response"}


def test_measuring_is_done_once(world: World) -> None:
    loop = world.loop()
    loop.measure(3)
    content = world.content()
    assert [*content] == ["evaluations/003.json"]
    evaluation = json.loads(content["evaluations/003.json"])
    assert {*evaluation} == {"num_iterations", "metrics", "examples"}
    assert evaluation["num_iterations"] == 3
    assert [example["prompt_id"] for example in evaluation["examples"]] == ["h-0", "h-1"]
    assert 0 <= evaluation["metrics"]["coverage"] <= 1
    events = list(world.events)
    loop.measure(3)
    world.loop().measure(3)
    assert (world.content(), world.events) == (content, events)


def test_nothing_is_measured_without_held_out_prompts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSource, "held_out", lambda self: [])
    world.loop().prepare(0)
    assert not (world.run_dir / "evaluations").exists()


def test_the_truth_reaches_no_labeler_and_no_pair(tmp_path: Path, whole: dict[str, Any]) -> None:
    """With the truth turned around or absent, the labeler sees the same, and the same pairs come out."""
    seen = []
    for name, truth in (("honest", FakeTruth()), ("turned", FakeTruth(is_turned_around=True)), ("absent", None)):
        world = World(tmp_path / name, truth=truth)
        world.loop().prepare(0)
        content = world.content()
        parquet = {path: data for path, data in content.items() if path.endswith(".parquet")}
        assert parquet == {path: data for path, data in whole.items() if path.endswith(".parquet")}
        exams = [("h-0", FakeTruth().exam("")[0][0]), ("h-1", FakeTruth().exam("")[0][0])]
        asked = [(prompt.id, question) for prompt, questions in world.labeler.seen for question in questions]
        seen.append(sorted(asked if truth else [*asked, *((k, f"{q} Please answer yes or no.") for k, q in exams)]))
    assert seen[0] == seen[1] == seen[2]


def save_images(directory: Path, num_images: int, num_truncated: int) -> Path:
    """A prompt list with JPEG files, the first of which are cut off in the middle."""
    lines = []
    for k in range(num_images):
        path = directory / f"{k}.jpg"
        Image.effect_noise((64, 64), 40.0 + k).convert("RGB").save(path)
        if k < num_truncated:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        lines.append(json.dumps({"id": f"photo-{k}", "image": path.name, "question": "What is it?"}))
    listed = directory / "prompts.jsonl"
    listed.write_text("\n".join(lines))
    return listed


def files_world(tmp_path: Path, num_truncated: int, **options: Any) -> World:
    listed = save_images(tmp_path, 6, num_truncated)
    source = FilesSource(path=str(listed), num_iterations=1, seed=0, **options)
    return World(tmp_path / "run", source, replace(SETTINGS, num_prompts=None, min_pairs=1), truth=None)


@pytest.mark.parametrize("num_truncated", [0, 1])
def test_a_damaged_image_costs_its_prompt_and_is_counted(tmp_path: Path, num_truncated: int) -> None:
    """One of six is less than the 30 % allowed."""
    world = files_world(tmp_path, num_truncated)
    manifest = world.loop().prepare(0)
    expected = {f"photo-{k}" for k in range(num_truncated, 6)}
    assert {prompt.id for prompt in manifest.records("prompts")} == expected
    (shard,) = manifest.shards("prompts")
    assert shard is not None
    assert shard.drops == ({"incomplete": 1} if num_truncated else {})
    assert {response.prompt_id for response in manifest.records("responses")} == expected


def test_too_many_damaged_images_stop_the_run(tmp_path: Path) -> None:
    """Two of six are more than 30 %; nothing was generated yet."""
    world = files_world(tmp_path, 2)
    message = r"2 of the 6 prompts of iteration 0 have unreadable images \(incomplete: 2\).*max_drop_rate=0.3"
    with pytest.raises(ValueError, match=message):
        world.loop().prepare(0)
    assert world.events == []


def test_the_source_says_which_images_are_too_large(tmp_path: Path) -> None:
    """The limits of the data are those that prompts are dropped by."""
    Image.new("RGB", (80, 80)).save(tmp_path / "large.png")
    listed = save_images(tmp_path, 6, 0)
    line = {"id": "large", "image": "large.png", "question": "What is it?"}
    listed.write_text(f"{listed.read_text()}\n{json.dumps(line)}")
    source = FilesSource(path=str(listed), num_iterations=1, seed=0, max_pixels=64 * 64)
    settings = replace(SETTINGS, num_prompts=None, min_pairs=1)
    manifest = World(tmp_path / "run", source, settings, truth=None).loop().prepare(0)
    assert {prompt.id for prompt in manifest.records("prompts")} == {f"photo-{k}" for k in range(6)}
    assert manifest.shards("prompts")[0].drops == {"too_many_pixels": 1}  # type: ignore[union-attr]


def test_a_damaged_held_out_image_costs_its_prompt_too(tmp_path: Path) -> None:
    world = files_world(tmp_path, 1, num_held_out=6 - 1)
    held_out = {prompt.id for prompt in world.source.held_out()}
    world.loop().measure(0)
    evaluation = json.loads((world.run_dir / "evaluations/000.json").read_text())
    assert {example["prompt_id"] for example in evaluation["examples"]} == held_out - {"photo-0"}


class FailingDivider(RulesDivider):
    """The rules, but that it makes nothing of every third answer, like a model whose reply cannot be used."""

    producer = "rules that fail"

    def divide_all(self, pairs: Sequence[tuple[Prompt, Response]]) -> list[list[Claim] | NotDivided]:
        return [
            NotDivided("no JSON") if k % 3 == 0 else self.divide(prompt, response)
            for k, (prompt, response) in enumerate(pairs)
        ]


def test_answers_that_were_not_divided_leave_pairing_and_are_counted(tmp_path: Path) -> None:
    world = World(tmp_path / "run")
    loop = world.loop()
    loop.divider = FailingDivider()
    manifest = loop.prepare(0)
    responses, claims = manifest.records("responses"), manifest.records("claims")
    divided = {claim.response_id for claim in claims}
    failed = {r.id for r in responses if r.id not in divided and r.finished and r.text.strip()}
    assert failed
    assert not failed & {
        id for pair in manifest.records("pairs") for id in (pair.chosen_response_id, pair.rejected_response_id)
    }
    statistics = json.loads((world.run_dir / "iterations/000/statistics.json").read_text())
    assert (statistics["dropped/not_divided"], statistics["dropped/no_claims"]) == (len(failed), 0)
    assert manifest.drops["not_divided"] == len(failed)
    assert "no_claims" not in manifest.drops
    evaluation = json.loads(loop.evaluation_path(0).read_text())
    assert 0 < evaluation["metrics"]["not_divided"] < 1


def test_an_iteration_is_not_continued_with_another_divider(tmp_path: Path) -> None:
    world = World(tmp_path / "run")
    Manifest.open(world.run_dir, 0, world.loop()._producer())
    loop = world.loop()
    loop.divider = FailingDivider()
    with pytest.raises(ValueError, match=r"RulesDivider.*rules that fail"):
        loop.prepare(0)


class ScriptedEngine(LocalEngine):
    """The tiny model, but for its answers: random weights say nothing that could be divided."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        decoding: Decoding,
        advance: Advance = ignore_progress,
    ) -> list[list[Sampled]]:
        def draw(prompt: Prompt, seed: int) -> Sampled:
            rng = random.Random(seed)
            said = " ".join(rng.sample(SENTENCES, rng.choice((1, 2, 3))))
            return Sampled(self.prompter.completion_ids(prompt, said), True)

        return [[draw(prompt, seed) for seed in some] for prompt, some in zip(prompts, seeds, strict=True)]


def test_with_a_real_model(
    model: Any, prompter: Prompter, source: PromptSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that labels itself: its pairs carry its own log-probs, and a resumed run ends with the same bytes."""

    def make(name: str) -> FeedbackLoop:
        engine = ScriptedEngine(model, prompter)
        settings = replace(SETTINGS, num_prompts=4)
        return FeedbackLoop(
            tmp_path / name, source, engine, LabelerModule(engine), RulesDivider(), settings, 0, source  # type: ignore[arg-type]
        )  # fmt: skip

    # Random weights prefer one answer to every question; what they prefer is made to depend on the question.
    verdict_of = "rlaifv.feedback.score.verdict_of"
    monkeypatch.setattr(verdict_of, lambda p_yes, p_no: "accepted" if int(p_yes * 1e7) % 2 else "rejected")
    manifest = make("whole").prepare(0)
    by_id = {prompt.id: prompt for prompt in manifest.records("prompts")}
    pairs = manifest.records("pairs")
    expected = LocalEngine(model, prompter).completion_logps(
        [(by_id[pair.prompt_id], (pair.chosen_token_ids, pair.rejected_token_ids)) for pair in pairs]
    )
    for pair, logps in zip(pairs, expected, strict=True):
        assert list(pair.chosen_reference_logps) == pytest.approx(logps[0], rel=1e-5)
        assert list(pair.rejected_reference_logps) == pytest.approx(logps[1], rel=1e-5)
    resumed = make("resumed")
    put: Callable[..., None] = Manifest.put

    def stop_at_the_second_judgements(self: Manifest, stage: str, shard: int, *others: Any) -> None:
        if (stage, shard) == ("judgements", 1):
            raise Interrupted
        put(self, stage, shard, *others)

    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "put", stop_at_the_second_judgements)
        with pytest.raises(Interrupted):
            resumed.prepare(0)
    make("resumed").prepare(0)
    digests = [Manifest(tmp_path / name / "iterations/000")._index().shards for name in ("whole", "resumed")]
    assert digests[0] == digests[1]
    evaluations = [(tmp_path / name / "evaluations/000.json").read_bytes() for name in ("whole", "resumed")]
    assert evaluations[0] == evaluations[1]


def canary_set(least_accuracy: float) -> CanarySet:
    """One picture, four questions, of which the labeler of these tests answers some right."""
    questions = tuple((f"Is it {k}?", k % 2 == 0) for k in range(4))
    return CanarySet([Canary(Prompt("canary", "?", ()), questions)], least_accuracy)


def test_a_shard_whose_canaries_fail_is_flagged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.always_yes = True
    loop = world.loop()
    loop.canaries = canary_set(0.75)
    loop.settings = replace(SETTINGS, min_pairs=1)
    with pytest.raises(TooFewPairs):  # all claims are accepted
        loop.prepare(0)
    assert [event for event in world.events if "canary" in event] == ["label canary"] * 3
    warnings = [record.getMessage() for record in caplog.records if "canaries" in record.getMessage()]
    assert len(warnings) == 3
    assert "The labeler answers only 0.50 of the canaries right beside" in warnings[0]
    assert "iterations/000/judgements-00000.parquet (labeler.min_canary_accuracy=0.75)" in warnings[0]
    statistics = json.loads(loop.statistics_path(0).read_text())
    assert statistics["labeler/canary_accuracy"] == 0.5
    assert statistics["labeler/flagged_shards"] == 3


def test_canaries_that_pass_change_nothing(
    world: World, whole: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    loop = world.loop()
    loop.canaries = canary_set(0.0)
    loop.prepare(0)
    content = world.content()
    statistics = content["iterations/000/statistics.json"]
    assert statistics.pop("labeler/flagged_shards") == 0
    assert 0 <= statistics.pop("labeler/canary_accuracy") <= 1
    assert {name: content.pop(name) for name in [*content] if "canaries-" in name}.keys() == {
        f"iterations/000/canaries-{k:05d}.json" for k in range(3)
    }
    assert content == whole
    assert "canaries" not in caplog.text


def test_a_resumed_iteration_knows_what_its_canaries_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard's are asked once, before its judgements are stored."""
    put = Manifest.put

    def put_or_stop(self: Manifest, stage: str, shard: int, *others: Any) -> None:
        put(self, stage, shard, *others)
        if (stage, shard) == ("judgements", 1):
            raise Interrupted

    monkeypatch.setattr(Manifest, "put", put_or_stop)
    for end in (pytest.raises(Interrupted), nullcontext()):
        loop = world.loop()
        loop.canaries = canary_set(1.0)
        with end:
            loop.prepare(0)
        monkeypatch.setattr(Manifest, "put", put)
    assert world.events.count("label canary") == 3
    assert json.loads(loop.statistics_path(0).read_text())["labeler/flagged_shards"] == 3


class OddDivider:
    """Divides into nothing, into 500 claims, or into the same claim over and over."""

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]:
        kind = int(response.id.rpartition("/")[2]) % 4
        texts = [[], [f"There are {k}." for k in range(500)], ["There is \ud83d<image></s>\0."] * 40, ["It is."]][kind]
        ids = (response.id, response.prompt_id)
        return [Claim(f"{response.id}/{k}", *ids, text, f"{text[:-1]}?") for k, text in enumerate(texts)]


def test_odd_claims_of_a_divider_are_judged_and_counted(world: World) -> None:
    loop = world.loop()
    loop.divider = OddDivider()
    loop.settings = replace(SETTINGS, min_pairs=1, num_prompts=2, shard_prompts=2)
    with pytest.raises(ValueError, match=r"claims-00000\.parquet: column 'text' cannot be stored as string"):
        loop.prepare(0)  # half of a surrogate pair is no text
    loop.divider.divide = lambda prompt, response: [  # type: ignore[method-assign]
        replace(claim, text=claim.text.replace("\ud83d", ""), question=claim.question.replace("\ud83d", ""))
        for claim in OddDivider().divide(prompt, response)
    ]
    world.labeler._answer = lambda *asked: (0.7, 0.1) if "It" in asked[1] else (0.1, 0.7)  # type: ignore[method-assign]
    manifest = loop.prepare(0)
    statistics = json.loads(loop.statistics_path(0).read_text())
    assert statistics["claims"] == 2 * (500 + 40 + 1)
    assert statistics["claims_repeated"] == 2 * 39
    assert statistics["questions_asked"] == 2 * (500 + 1 + 1)
    assert statistics["dropped/no_claims"] > 0
    assert len(manifest.records("judgements")) == statistics["claims"]
