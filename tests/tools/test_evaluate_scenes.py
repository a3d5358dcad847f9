"""The shipped model on official files of three benchmarks: asked, scored, asked no more, scored again, compared.

Scenes are drawn, so that what is true about them is known without the benchmarks' code.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rlaifv.engines.local import LocalEngine
from rlaifv.worlds.shapes import SHAPES, Scene
from rlaifv.worlds.shapes_model import WEIGHTS_DIR
from tests.tools.scene_files import shapes_of, write_scene_files
from tools import compare, evaluate, score

NUM_SCENES = 6
PARSERS = {"pope": "official", "amber": "contains_yes", "object_halbench": "official"}
NAMES = tuple(PARSERS)
WORDS = [
    f"model={WEIGHTS_DIR}",
    f"benchmark=[{','.join(NAMES)}]",
    "amber.parser=contains_yes",
    "max_new_tokens=60",
    "shard_items=24",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The official files below data/, and what the command made of them in out/."""
    root = tmp_path_factory.mktemp("scenes")
    write_scene_files(root / "data", NUM_SCENES)
    assert evaluate.main([*WORDS, f"data_root={root / 'data'}", f"out={root / 'out'}"]) == 0
    return root


@pytest.fixture(scope="module")
def results(root: Path) -> dict[str, dict[str, Any]]:
    return {one["benchmark"]: one for one in json.loads((root / "out" / "results.json").read_text())}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Scene]:
    return write_scene_files(tmp_path_factory.mktemp("same"), NUM_SCENES)


def answers_of(root: Path, name: str) -> list[dict[str, Any]]:
    text = (root / "out" / name / "answers.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def made_up(texts: dict[int, str], scenes: dict[int, Scene]) -> tuple[int, int, int]:
    """Mentions of shapes, those of them that are not there, and how many texts have one of those."""
    named = {one: re.findall("|".join(SHAPES), text) for one, text in texts.items()}
    wrong = {one: [shape for shape in found if shape not in shapes_of(scenes[one])] for one, found in named.items()}
    return sum(map(len, named.values())), sum(map(len, wrong.values())), sum(map(bool, wrong.values()))


def test_pope_is_what_counting_by_hand_says(root: Path, results: dict[str, Any]) -> None:
    found = results["pope"]
    assert found["counts"]["missing"] == 0
    answers = {(row["category"], row["question_id"]): row["answer"] for row in answers_of(root, "pope")}
    for split in ("random", "popular", "adversarial"):
        rows = lines_of(root / "data" / "pope" / "output" / "coco" / f"coco_pope_{split}.json")
        # "No" as a word before the first full stop is no, anything else yes.
        said = ["no" if "No" in answers[split, row["question_id"]].split(".")[0].split() else "yes" for row in rows]
        right = sum(word == row["label"] for word, row in zip(said, rows, strict=True))
        assert found["metrics"][split]["accuracy"] == pytest.approx(right / len(rows))


def test_amber_is_what_counting_by_hand_says(root: Path, results: dict[str, Any], scenes: dict[int, Scene]) -> None:
    found = results["amber"]
    answers = {row["id"]: row["response"] for row in answers_of(root, "amber")}
    annotations = json.loads((root / "data" / "amber" / "data" / "annotations.json").read_text())
    assert len(answers) == len(annotations) == found["counts"]["descriptions"] + found["counts"]["questions"]
    mentions, wrong, texts = made_up({one: answers[one] for one in scenes}, scenes)
    assert wrong > 0  # it describes worse than it checks
    assert found["chair"] == round(100 * wrong / (mentions + 0.001), 1)
    assert found["hal"] == round(100 - 100 * (NUM_SCENES - texts) / (NUM_SCENES + 0.001), 1)
    asked = [row for row in annotations if row["type"] != "generative"]
    right = sum(("yes" in answers[row["id"]].lower()) == (row["truth"] == "yes") for row in asked)
    assert found["accuracy"] == round(100 * right / (len(asked) + 0.001), 1)
    assert found["amber_score"] == pytest.approx((100 - found["chair"] + found["f1"]) / 2)


def test_object_halbench_is_what_counting_by_hand_says(
    root: Path, results: dict[str, Any], scenes: dict[int, Scene]
) -> None:
    found = results["object_halbench"]
    assert found["protocol"]["mode"] == "plain"
    mentions, wrong, texts = made_up(
        {row["image_id"]: row["text"] for row in answers_of(root, "object_halbench")}, scenes
    )
    assert (found["resp"], found["ment"]) == (round(100 * texts / NUM_SCENES, 2), round(100 * wrong / mentions, 2))


def test_the_page_has_every_number(root: Path, results: dict[str, Any]) -> None:
    page = (root / "out" / "results.md").read_text()
    assert f"| pope | mean/f1 | {results['pope']['mean']['f1']:.2f} |" in page
    assert f"| amber | chair | {results['amber']['chair']:.2f} |" in page
    assert f"| object_halbench | resp | {results['object_halbench']['resp']:.2f} |" in page
    for name in NAMES:
        assert f"## {name}\n\nProtocol `{results[name]['fingerprint']}`" in page


def test_a_second_call_asks_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in (root / "out").rglob("*") if path.is_file()}
    monkeypatch.setattr(LocalEngine, "sample_questions", lambda *_, **__: pytest.fail("it asked again"))
    evaluate.main([*WORDS, f"data_root={root / 'data'}", f"out={root / 'out'}"])
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("pope", ["questions=pope/output/coco"]),
        ("amber", ["annotations=amber/data", "questions=amber/data/query/query_all.json"]),
        (
            "object_halbench",
            [
                "questions=object_halbench/obj_halbench_300_with_image.jsonl",
                "annotations=object_halbench",
                "synonyms=object_halbench/synonyms_refine.txt",
            ],
        ),
    ],
)
def test_the_answers_score_the_same_alone(
    name: str, files: list[str], root: Path, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [word.replace("=", f"={root / 'data'}/") for word in files]
    assert (
        score.main(
            [f"benchmark={name}", *paths, f"answers={root / 'out' / name / 'answers.jsonl'}", f"parser={PARSERS[name]}"]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    for field in ("metrics", "counts", "version", "files", "warnings"):
        assert found[field] == results[name][field], field
    # The same but for what answers from elsewhere do not tell, so the two are not compared unasked.
    assert {**results[name]["protocol"], "prompt": None, "decoding": None} == found["protocol"]
    assert found["fingerprint"] != results[name]["fingerprint"]


def test_a_part_is_another_protocol_beside_the_whole(
    root: Path, results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in WORDS if not word.startswith("benchmark=")]
    where = ["benchmark=[object_halbench,amber]", f"data_root={root / 'data'}", f"out={tmp_path / 'part'}"]
    assert evaluate.main([*words, *where, "num_items=5"]) == 0
    halbench, amber = json.loads((tmp_path / "part" / "results.json").read_text())
    assert (halbench["counts"]["missing"], halbench["protocol"]["incomplete"]) == (1, True)
    assert 0 < amber["counts"]["missing"] < 36
    both = [str(root / "out" / "results.json"), str(tmp_path / "part" / "results.json"), f"out={tmp_path / 'compared'}"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        compare.main(both)
    assert "were scored on object_halbench under different protocols" in capsys.readouterr().out
    compare.main([*both, "split=true", "anchors=false"])
    page = (tmp_path / "compared" / "comparison.md").read_text()
    for name in ("pope", "amber (a)", "amber (b)", "object_halbench (a)", "object_halbench (b)"):
        assert name in page
    assert f"{results['amber']['chair']:.1f}" in page
    assert (tmp_path / "compared" / "comparison.svg").read_text().startswith("<svg")
