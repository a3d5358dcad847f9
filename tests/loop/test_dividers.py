"""Dividers that fail, change, or make odd claims."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlaifv.observers.held_out import evaluation_path
from rlaifv.records import Claim, Prompt, Response
from rlaifv.stages.dividers.protocol import NotDivided
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.store.iteration import statistics_path
from rlaifv.store.manifest import Manifest
from tests.loop.world import SETTINGS, Interrupted, World


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
    world.divider = FailingDivider()
    loop = world.loop()
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
    evaluation = json.loads(evaluation_path(loop.run_dir, 0).read_text())
    assert 0 < evaluation["metrics"]["not_divided"] < 1


def test_an_iteration_is_not_continued_with_another_divider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(Manifest, "commit", lambda *arguments: (_ for _ in ()).throw(Interrupted))
        with pytest.raises(Interrupted):
            world.loop().prepare(0)
    world.divider = FailingDivider()
    loop = world.loop()
    with pytest.raises(ValueError, match=r"RulesDivider.*rules that fail"):
        loop.prepare(0)


class OddDivider:
    """Divides into nothing, into 500 claims, or into the same claim over and over."""

    def divide(self, prompt: Prompt, response: Response) -> list[Claim]:
        kind = int(response.id.rpartition("/")[2]) % 4
        texts = [[], [f"There are {k}." for k in range(500)], ["There is \ud83d<image></s>\0."] * 40, ["It is."]][kind]
        ids = (response.id, response.prompt_id)
        return [Claim(f"{response.id}/{k}", *ids, text, f"{text[:-1]}?") for k, text in enumerate(texts)]


def test_odd_claims_of_a_divider_are_judged_and_counted(world: World) -> None:
    world.divider = OddDivider()
    world.settings = replace(SETTINGS, min_pairs=1, num_prompts=2, shard_prompts=2)
    loop = world.loop()
    with pytest.raises(ValueError, match=r"claims-00000\.parquet: column 'text' cannot be stored as string"):
        loop.prepare(0)  # half of a surrogate pair is no text
    world.divider.divide = lambda prompt, response: [
        replace(claim, text=claim.text.replace("\ud83d", ""), question=claim.question.replace("\ud83d", ""))
        for claim in OddDivider().divide(prompt, response)
    ]
    world.labeler._answer = lambda *asked: (0.7, 0.1) if "It" in asked[1] else (0.1, 0.7)  # type: ignore[method-assign]
    manifest = loop.prepare(0)
    statistics = json.loads(statistics_path(loop.run_dir, 0).read_text())
    assert statistics["claims"] == 2 * (500 + 40 + 1)
    assert statistics["claims_repeated"] == 2 * 39
    assert statistics["questions_asked"] == 2 * (500 + 1 + 1)
    assert statistics["dropped/no_claims"] > 0
    assert len(manifest.records("judgements")) == statistics["claims"]
