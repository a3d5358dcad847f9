"""The tool on a small model: what it writes, and its curve on candidates made by hand."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest
import torch
from omegaconf import OmegaConf

from rlaifv.learners.dpo.best_of_n import Candidates
from rlaifv.models.loading import load_model
from rlaifv.records import Prompt, Response
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.store.atomic import make_directory, write_text
from tests.settings import composed
from tools.best_of_n import _of_run, _write_curve, best_of_n_curve, main


class Truth:
    """A red circle, and nothing else."""

    def facts(self, prompt_id: str) -> list[str]:
        return ["There is a red circle."]

    def holds(self, prompt_id: str, claim: str) -> bool:
        return "red circle" in claim

    def covered(self, prompt_id: str, claims: list[str]) -> int:
        return int(any("red circle" in claim for claim in claims))

    def exam(self, prompt_id: str) -> list[tuple[str, bool]]:
        return []


def candidates(*ratios: float) -> Candidates:
    """Only the answer with the highest log ratio is true."""
    texts = ["There is a red circle." if ratio == max(ratios) else "There is a blue star." for ratio in ratios]
    responses = tuple(Response(f"p/{k}", "p", text, (1,), True, k) for k, text in enumerate(texts))
    return Candidates(Prompt("p", "What is it?", ()), responses, (1,) * len(ratios), ratios, (0.0,) * len(ratios))


def test_the_curve_by_hand(tmp_path: Path) -> None:
    """One of four is true: found by 1 in 4 tries of one, 1 in 2 tries of two, and the try of all four."""
    curve = best_of_n_curve([candidates(-3.0, -1.0, -5.0, -2.0)], Truth(), RulesDivider())
    assert curve["mean"] == [(1, 0.75, 0.25, 5.0), (2, 0.5, 0.5, 5.0), (4, 0.0, 1.0, 5.0)]
    _write_curve(tmp_path, curve)
    rows = list(csv.DictReader((tmp_path / "curve.csv").read_text().splitlines()))
    assert [row["hallucination/response"] for row in rows if row["form"] == "mean"] == ["0.75", "0.5", "0.0"]
    svg = fromstring((tmp_path / "curve.svg").read_text())
    assert [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")][:1] == ["Best of N"]


def test_answers_to_own_prompts(model_dir: Path, prompts: list[Prompt], tmp_path: Path) -> None:
    images = [shutil.copy(one.image_paths[0], tmp_path) for one in prompts[:2]]
    rows = [
        {"id": one.id, "image": str(image), "question": one.question}
        for one, image in zip(prompts[:2], images, strict=True)
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    places = [f"policy={model_dir}", f"reference={model_dir}", f"prompts={tmp_path / 'prompts.jsonl'}"]
    main([*places, f"out={tmp_path / 'out'}", "n=3", "max_new_tokens=8"])
    written = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in written] == [one.id for one in prompts[:2]]
    assert all(row["response"] and row["scores"] == [0.0] * 3 for row in written)
    assert not (tmp_path / "out" / "curve.csv").exists()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """As much of a finished run of the embedded world as the tool asks for; six prompts are held out."""
    run = tmp_path / "run"
    make_directory(run / "export")
    write_text(run / "export" / "config.json", "{}")
    cfg = composed(f"run_dir={run}", "data.num_held_out=6", "model.dtype=float32")
    OmegaConf.update(cfg, "model.path", "owner/base")
    OmegaConf.update(cfg, "model.revision", "v1.5")
    OmegaConf.save(cfg, run / "config.yaml")
    return run


def test_a_run_says_what_it_was_made_of(run_dir: Path) -> None:
    defaults, prompts, truth, _ = _of_run(run_dir)
    assert {"reference=owner/base", "reference_revision=v1.5", "dtype=float32"} <= {*defaults}
    assert truth is not None
    assert len(prompts or []) == 6


def test_prompts_that_chose_the_weights_are_left_out(run_dir: Path) -> None:
    """As the report, whose half begins with the second."""
    _, everything, _, _ = _of_run(run_dir)
    cfg = OmegaConf.load(run_dir / "config.yaml")
    OmegaConf.update(cfg, "iteration.selection.per_epoch", 2)
    OmegaConf.save(cfg, run_dir / "config.yaml")
    _, prompts, _, _ = _of_run(run_dir)
    assert prompts == (everything or [])[1::2]


def test_models_are_loaded_as_the_run_had_them(run_dir: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And moved to a GPU where there is one. Another reference than the run's has no revision of the run's."""
    loaded: list[Any] = []
    moves: list[Any] = []

    def load(*given: Any) -> Any:
        loaded.append(given)
        model, processor = load_model(str(model_dir))
        monkeypatch.setattr(model, "to", moves.append)
        return model, processor

    monkeypatch.setattr("tools.best_of_n.load_model", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    few = [f"run_dir={run_dir}", "num_prompts=1", "n=1", "max_new_tokens=2"]
    main(few)
    assert loaded == [(str(run_dir / "export"), None, "float32"), ("owner/base", "v1.5", "float32")]
    assert moves == ["cuda", "cuda"]
    main([*few, "reference=owner/other"])
    assert loaded[3] == ("owner/other", None, "float32")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["policy=a", "reference=b", "out=c"], "prompts=… must be given where run_dir is not."),
        (["policy=a", "reference=b", "out=c", "form=best"], "form=best must be one of mean, sum, perplexity."),
        (["run_dir=nowhere"], "run_dir=nowhere holds no finished run: nowhere/export is missing."),
    ],
)
def test_what_cannot_be_done_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert said in capsys.readouterr().out
