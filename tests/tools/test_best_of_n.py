"""The tool on a small model: what it writes, and its curve on candidates made by hand."""

import csv
import json
import shutil
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

from rlaifv.feedback.best_of_n import Candidates
from rlaifv.feedback.divide import RulesDivider
from rlaifv.records import Prompt, Response
from tools.best_of_n import _write_curve, best_of_n_curve, main


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
