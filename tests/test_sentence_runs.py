"""`python train.py method=corrected_pairs` and `method=sentence_pairs` as users type them: killed, resumed, and refused."""

from pathlib import Path

import pytest

from rlaifv.data.exports import read_examples
from rlaifv.store.manifest import Manifest, main
from tests.launching import Launch
from tests.test_policy_gradient_run import SMALL, run


@pytest.mark.parametrize("name", [pytest.param("corrected_pairs", marks=pytest.mark.slow), "sentence_pairs"])
def test_a_killed_run_ends_as_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(f"method={name}", f"run_dir={whole}", *SMALL) == 0
    assert run(f"method={name}", f"run_dir={killed}", *SMALL, fail="crash loop.pairs 1") == -9
    assert run(f"resume={killed}") == 0
    for path in ("export/model.safetensors", *(f"iterations/00{k}/pairs-00000.parquet" for k in (0, 1))):
        assert (whole / path).read_bytes() == (killed / path).read_bytes(), path
    pairs = Manifest(whole / "iterations/000").records("pairs")
    assert len(pairs) > 2
    assert all(len(one.chosen_reference_logps) == len(one.chosen_token_ids) > 0 for one in pairs)
    assert all(one.chosen_score == 0 > one.rejected_score for one in pairs)
    assert main([str(whole)]) == 0
    page = (whole / "report/index.html").read_text(encoding="utf-8")
    assert 'id="pairs"' in page
    # Claims of an answer are not exported as those of a correction of it.
    chosen = [example.provenance["chosen_claims"] for example in read_examples(whole, 0, {})]
    assert chosen == [[]] * len(pairs) or name == "sentence_pairs"


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("corrected_pairs", ("method.stages.pair.max_pairs_per_prompt=0",), "must be at least 1, but it is 0."),
        ("sentence_pairs", ("learner.reduction=mean",), "only with learner.reduction=sum does what comes before"),
        ("sentence_pairs", ("learner.nll_weight=0.1",), "it would train what comes before the sentences as well."),
        (
            "sentence_pairs",
            ("method.stages.divide._target_=rlaifv.stages.divide.Divide",),
            "does not say in which sentence it is; set method.stages.divide._target_=",
        ),
    ],
)
def test_wrong_settings_end_in_one_sentence(launch: Launch, name: str, wrong: tuple[str, ...], message: str) -> None:
    status, output = launch(f"method={name}", *wrong, "run_dir=run", *SMALL)
    assert status == 2, output
    assert message in " ".join(output.split())
    assert "Traceback" not in output
