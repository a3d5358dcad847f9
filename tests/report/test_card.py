"""What a card says of runs that differ in what made their pairs; that it is safe to publish, the export's tests say."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rlaifv.report.card import model_card
from rlaifv.report.run import Evaluation, Run
from tests.settings import composed

RUN = Run(
    run_dir=Path("run"),
    config=None,
    evaluations=tuple(Evaluation(k, {"coverage": 0.5 + k / 4}) for k in range(2)),
    statistics=({"pairs_kept": 5000.0},),
    training=(),
)


def card(*overrides: str) -> str:
    settings: Any = OmegaConf.to_container(composed("run_dir=run", *overrides), resolve=True)
    return model_card(RUN, settings)


def test_given_pairs_are_not_called_feedback() -> None:
    commit = "5" * 40
    text = card("experiment=llava7b_rlhfv", f"data.revision={commit}")
    assert (
        "Trained from `llava-hf/llava-1.5-7b-hf` by DPO on the pairs of openbmb/RLHF-V-Dataset (revision "
        f"`{commit}`); nothing was sampled or judged."
    ) in text
    assert f"| data | openbmb/RLHF-V-Dataset (revision `{commit}`) |" in text
    assert "| pairs | 5,000 |" in text
    assert "| iterations | 1 |" in text
    for false in ("RLAIF-V", "rlaif-v", "labeler", "answers a prompt", "divider", "prompts |"):
        assert false not in text


def test_what_was_off_has_no_row() -> None:
    text = card("model.path=owner/base")
    assert (
        "with feedback on its own answers (RLAIF-V, arXiv 2405.17220): claims are checked by the policy itself" in text
    )
    assert "| divider | RulesDivider |" in text
    assert "| loss | sigmoid |" in text
    for row in ("chosen answers from", "scored by", "turned around"):
        assert row not in text


@pytest.mark.parametrize(
    ("override", "row"),
    [
        ("iteration.pairing.score=rate", "| answers scored by | rate |"),
        ("iteration.chosen_from=owner/other", "| chosen answers from | `owner/other` |"),
        ("labeler.error_rate=0.25", "| labeler's answers turned around | 25% |"),
        ("learner.loss=ipo", "| loss | ipo |"),
        ("divider=whole", "| divider | WholeDivider |"),
        ("iteration.epochs=3", "| passes over the pairs | 3 |"),
    ],
)
def test_what_was_set_has_one(override: str, row: str) -> None:
    assert row in card(override).splitlines()


def test_answers_of_another_model_are_not_the_models_own() -> None:
    assert "with feedback on its own answers and those of `owner/other` (RLAIF-V" in card(
        "iteration.chosen_from=owner/other"
    )


def test_a_labeler_of_its_own_is_named_with_its_revision() -> None:
    text = card("labeler=model", "labeler.path=/home/somebody/judge")
    assert "| labeler | `judge` |" in text
    assert "somebody" not in text
    text = card("labeler=model", "labeler.path=owner/judge", "labeler.revision=v2")
    assert "| labeler | `owner/judge` (revision `v2`) |" in text


def test_kto_is_said_to_be_it() -> None:
    text = card("method=kto_claims", "learner.beta=0.2", "method.stages.label.min_rejected=2")
    assert "trained by KTO" in text
    assert "by KTO on its own answers, labelled by the claims that" in text
    assert "| KTO | beta 0.2, learning rate 2e-05 |" in text.splitlines()
    assert "| undesirable | from 2 rejected claims |" in text.splitlines()
    assert "DPO" not in text
    assert not any(line.startswith("| pairs") for line in text.splitlines())


def test_a_policy_gradient_is_said_to_be_one() -> None:
    text = card("method=rloo_claims", "method.stages.reward.terms.cut.weight=-2")
    assert "trained by RLOO" in text
    assert "by RLOO on its own answers; the reward is made of claims that" in text
    assert "| reward | weights accepted 0.2, rejected -1.0, cut -2 |" in text.splitlines()
    assert "| RLOO | clip 0.2, KL weight 0.04, learning rate 2e-05 |" in text.splitlines()
    assert "DPO" not in text
    assert not any(line.startswith("| pairs") for line in text.splitlines())
