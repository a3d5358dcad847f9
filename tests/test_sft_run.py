"""`python train.py method=sft` and FLAME's chain as users type them: killed, resumed, refused, and without leaks."""

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from rlaifv.engines.local import LocalEngine
from rlaifv.records import Prompt
from rlaifv.store.manifest import Manifest, main
from tests.launching import Launch
from tests.test_policy_gradient_run import SMALL, run

TINY = (*SMALL, "learner.batch_size=4")


def check_equal(whole: Path, killed: Path, *paths: str) -> None:
    for path in ("export/model.safetensors", *paths):
        assert (whole / path).read_bytes() == (killed / path).read_bytes(), path


def test_a_killed_chain_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """Killed while targets are made in the first run, and while pairs are in the second, which starts from its export."""
    chain = ("experiment=flame/flame", *TINY, "iteration.num_prompts=16")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(*chain, f"run_dir={whole}") == 0
    assert run(*chain, f"run_dir={killed}", fail="crash loop.targets 2") == -9
    assert run(f"resume={killed}", fail="crash loop.pairs 1") == -9
    assert run(f"resume={killed}") == 0
    check_equal(whole, killed, "sft/export/model.safetensors", "iterations/000/pairs-00000.parquet")
    before, tuned, after = (
        load_file(path / "model.safetensors")
        for path in (Path("rlaifv/worlds/shapes_llava"), whole / "sft/export", whole / "export")
    )
    name = next(key for key in tuned if key.endswith("layers.0.mlp.up_proj.weight"))
    assert not (before[name] == tuned[name]).all()
    assert not (tuned[name] == after[name]).all()
    # The first measurement of the second run is of the weights that the first one ended with.
    first, last = (
        json.loads((whole / path).read_text()) for path in ("evaluations/000.json", "sft/evaluations/001.json")
    )
    assert first["metrics"] == last["metrics"]
    assert main([str(whole)]) == 0
    targets = Manifest(whole / "sft/iterations/000").records("targets")
    assert {target.source for target in targets} <= {"policy", "person"}
    page = (whole / "sft/report/index.html").read_text(encoding="utf-8")
    assert "targets in 1 iteration" in page


def test_fine_tuning_learns_demonstrations_of_a_users_own_list(launch: Launch, tmp_path: Path) -> None:
    """Also the replies of LLaVA conversations; a row without one is counted."""
    rows = []
    for k in range(6):
        Image.new("RGB", (64, 48), (40 * k, 0, 0)).save(tmp_path / f"{k}.png")
        said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A red square."}]
        own = {"question": "What is it?", "demonstration": "A red circle."} if k % 2 else {"conversations": said}
        rows.append({"image": f"{k}.png", **own})
    rows[1].pop("demonstration")
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status, output = launch(
        *("method=sft", "data=files", "data.path=prompts.jsonl", "iteration.num_iterations=1", "iteration.min_pairs=1"),
        *("run_dir=run", "data.num_held_out=1", "iteration.num_prompts=5", "learner.batch_size=2"),
    )
    assert status == 0, output
    found = json.loads((tmp_path / "run/iterations/000/statistics.json").read_text())
    assert found["targets"] + found.get("dropped/no_demonstration", 0) == 5
    assert {len(one.token_ids) for one in Manifest(tmp_path / "run/iterations/000").records("targets")} == {5}


def test_what_people_answered_reaches_no_prompt(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the policy's nor the labeler's: demonstrations are targets alone."""
    asked: list[Prompt] = []
    for name in ("completion_logps", "sample", "answer_probabilities"):
        real = getattr(LocalEngine, name)

        def spy(self: LocalEngine, prompts: object, *rest: object, real: object = real, **named: object) -> object:
            found = [one[0] if isinstance(one, tuple) else one for one in prompts]  # type: ignore[attr-defined]
            asked.extend(found)
            return real(self, prompts, *rest, **named)  # type: ignore[operator]

        monkeypatch.setattr(LocalEngine, name, spy)
    status, output = launch("experiment=flame/sft", "run_dir=run", *TINY, "iteration.num_prompts=16")
    assert status == 0, output
    shown = [prompt for prompt in asked if prompt.demonstration]
    assert shown
    assert not any(prompt.demonstration in repr(prompt.asks) for prompt in shown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("method=sft",), "dropped"),
        (("method=flame_sft", "method.stages.targets.per_prompt=0"), "per_prompt must be at least 1, but it is 0."),
        (("method=flame_dpo", "method.stages.pair.sets.factual.not_worse=[useful]"), "refers to 'useful'"),
        (("method=sft", "data.unfamiliar=2"), "data.unfamiliar must be between 0 and 1, but it is 2."),
        (("method=sft", "learner.beta=0.2"), "learner.beta has no effect with this method"),
        (("start_from=nowhere",), "start_from=nowhere is not a directory, nor does it have the form of a hub id"),
    ],
)
def test_wrong_settings_end_in_one_sentence(launch: Launch, arguments: tuple[str, ...], message: str) -> None:
    status, output = launch(*arguments, "run_dir=run", *SMALL)
    assert status == 2, output
    assert message in " ".join(output.split())
    assert "Traceback" not in output
