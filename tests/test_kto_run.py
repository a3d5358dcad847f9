"""`python train.py method=kto_claims` as users type it: killed, resumed, and refused."""

import json
from pathlib import Path

import pytest

from rlaifv.store.manifest import Manifest, main
from tests.launching import Launch
from tests.test_policy_gradient_run import SMALL, run


def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run("method=kto_claims", f"run_dir={whole}", *SMALL) == 0
    assert run("method=kto_claims", f"run_dir={killed}", *SMALL, fail="crash loop.labelled_answers 3") == -9
    assert run(f"resume={killed}") == 0
    for path in ("export/model.safetensors", *(f"iterations/00{k}/labelled_answers-00000.parquet" for k in (0, 1))):
        assert (whole / path).read_bytes() == (killed / path).read_bytes(), path
    check_records(whole)
    assert main([str(whole)]) == 0
    page = (whole / "report/index.html").read_text(encoding="utf-8")
    assert "labelled answers in 2 iterations" in page
    assert "Answers, desirable" in page
    assert "Rewards of labelled answers" in page
    assert 'id="pairs"' not in page


def check_records(run_dir: Path) -> None:
    """Every answer has its log-probs, and the prompt's mismatched answer is one to the next prompt."""
    answers = Manifest(run_dir / "iterations/000").records("labelled_answers")
    first = {one.prompt_id: one for one in reversed(answers)}
    names = list(dict.fromkeys(one.prompt_id for one in answers))
    assert len(names) > 2
    for one in answers:
        following = names[(names.index(one.prompt_id) + 1) % len(names)]
        assert one.mismatched_token_ids == first[following].token_ids
        assert len(one.reference_logps) == len(one.token_ids)
        assert len(one.mismatched_reference_logps) == len(one.mismatched_token_ids)
        assert one.is_desirable == (one.num_rejected == 0)
    found = json.loads((run_dir / "iterations/000/statistics.json").read_text())
    assert found["answers_kept"] == len(answers) == found["answers/desirable"] + found["answers/undesirable"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("method.stages.label.min_rejected=0", "min_rejected must be at least 1, but it is 0."),
        ("method.stages.label.desirable_weight=0", "desirable_weight and undesirable_weight must be above 0"),
        ("learner.beta=0", "learner.beta=0 must be above 0."),
        ("+method.learner.module.clip=0.1", "clip is no setting of rlaifv.learners.kto.module"),
        # Every answer is cut, so none is labelled.
        (
            "iteration.decoding.max_new_tokens=1",
            "has 0 labelled_answers, fewer than min_pairs=1; dropped: 32 truncated.",
        ),
        # Nothing has so many rejected claims, so all that is labelled is desirable.
        ("method.stages.label.min_rejected=99", "of iteration 0 are desirable, so there is nothing to tell apart"),
    ],
)
def test_what_cannot_run_ends_in_one_sentence(launch: Launch, wrong: str, message: str) -> None:
    small = [one for one in SMALL if one.partition("=")[0] != wrong.partition("=")[0]]
    status, output = launch("method=kto_claims", wrong, "run_dir=run", *small)
    assert status == 2, output
    assert message in " ".join(output.split())
    assert "Traceback" not in output
