"""Small files in the forms in which benchmarks, and those who ran their scripts, leave them: all are scored."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlaifv.benchmarks import amber, chair, hallusionbench, llava_bench, mme, mmhal, mmstar, object_halbench, refomb
from rlaifv.benchmarks.protocol import Given


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def lines(path: Path, rows: list[Any]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("as_text", [False, True])
def test_amber_with_two_dimensions_has_overall_numbers(tmp_path: Path, as_text: bool) -> None:
    """The script prints them whenever it is not asked for one dimension alone. 2 of 3 right: 2 / 3.001."""
    annotations = [
        {"id": 1, "type": "discriminative-hallucination", "truth": "no"},
        {"id": 2, "type": "discriminative-attribute-state", "truth": "yes"},
        {"id": 3, "type": "discriminative-attribute-number", "truth": "no"},
    ]
    answers = [{"id": str(k) if as_text else k, "response": text} for k, text in ((3, "Yes"), (1, "No"), (2, "Yes"))]
    write(tmp_path / "annotations.json", [{**row, "id": str(row["id"])} if as_text else row for row in annotations])
    write(tmp_path / "relation.json", {})
    write(tmp_path / "safe_words.txt", "")
    given = Given(annotations=tmp_path, answers=lines(tmp_path / "answers.jsonl", answers))
    metrics = amber.BENCHMARK.score(given).metrics
    assert (metrics["accuracy"], metrics["attribute"]["accuracy"], "relation" in metrics) == (66.6, 49.9, False)
    lines(tmp_path / "answers.jsonl", answers[1:2])
    assert "accuracy" not in amber.BENCHMARK.score(given).metrics


MME_LINES = "kettle.png\tIs there a kettle?\tYes\tYes\nkettle.png\tIs there a cat?\tNo\tYes\n"


def test_mme_s_table_of_one_task_is_scored_alone(tmp_path: Path) -> None:
    table = write(tmp_path / "mme_existence.txt", MME_LINES)
    result = mme.BENCHMARK.score(Given(answers=table))
    assert (result.metrics["existence"], "total" in result.metrics) == (50.0, False)
    assert (result.counts["missing"], result.protocol["complete"]) == (3, False)
    with pytest.raises(ValueError, match=r"The name of .*posters\.txt has to tell which task its answers are to"):
        mme.BENCHMARK.score(Given(answers=write(tmp_path / "posters.txt", MME_LINES)))


def test_mme_s_tables_of_answers_may_stand_for_the_questions(tmp_path: Path) -> None:
    for task in mme.TASKS:
        write(tmp_path / "mme" / f"{task}.txt", MME_LINES)
    given = Given(questions=tmp_path / "mme", answers=tmp_path / "mme")
    assert mme.BENCHMARK.score(given).metrics["total"] == 200.0
    assert len(mme.BENCHMARK.items(given)) == 8


def coco(folder: Path) -> Path:
    """A dog in image 11, a cat in 12; a class that is in no image."""
    write(
        folder / "instances_val2014.json",
        {
            "images": [{"id": 11}, {"id": 12}],
            "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}, {"id": 9, "name": "boat"}],
            "annotations": [{"image_id": 11, "category_id": 18}, {"image_id": 12, "category_id": 17}],
        },
    )
    return folder


def test_chair_s_caption_file_may_name_images_by_its_keys_alone(tmp_path: Path) -> None:
    captions = {"11": {"caption": "A dog and a puppy."}, "12": {"caption": "A dog."}}
    answers = write(tmp_path / "captions.json", {"overall": {}, "imgToEval": captions})
    synonyms = write(tmp_path / "synonyms.txt", "dog, puppy\ncat, kitten\n")
    result = chair.BENCHMARK.score(Given(answers=answers, annotations=coco(tmp_path), synonyms=synonyms))
    assert (result.metrics["chair_s"], result.metrics["chair_i"]) == (50.0, 33.3)
    write(tmp_path / "synonyms.txt", "dog, puppy\n")
    with pytest.raises(ValueError, match=r"Category 'cat' of row 2 of .* is in no row of the synonyms"):
        chair.BENCHMARK.score(Given(answers=answers, annotations=tmp_path, synonyms=synonyms))


def test_object_halbench_takes_answers_without_prompts_and_ids_as_in_file_names(tmp_path: Path) -> None:
    answers = lines(
        tmp_path / "answers.jsonl",
        [{"image_id": 12, "text": "A dog rests here."}, {"image_id": "11", "text": "A cat."}],
    )
    given = Given(annotations=coco(tmp_path), answers=answers)
    objects = write(tmp_path / "objects.json", {"000000000012": ["dog"], "000000000011": ["cat"]})
    listed = object_halbench.BENCHMARK.score(Given(annotations=tmp_path, answers=answers, objects=objects))
    assert (listed.metrics["resp"], listed.counts["mentions"]) == (
        100.0,
        1,
    )  # three words are too few to be asked about
    # Replies may be those to all answers, in their order, or to those that are asked about.
    for replies in (['["dog"]', "()"], ['["dog"]']):
        reviews = lines(tmp_path / "reviews.jsonl", replies)
        found = object_halbench.BENCHMARK.score(Given(annotations=tmp_path, answers=answers, reviews=reviews))
        assert (found.metrics, found.num_invalid) == (listed.metrics, 0)
    assert [one for one, _ in object_halbench.BENCHMARK.conversations(given)] == ["12"]


def template(number: int, answer: str) -> dict[str, Any]:
    return {
        "question_type": ("attribute", "adversarial")[number],
        "image_content": ["Kettle"],
        "image_src": "",
        "question": f"Which {number}?",
        "gt_answer": "Red.",
        "model_answer": answer,
    }


def test_mmhal_s_template_with_answers_and_the_api_s_own_replies(tmp_path: Path) -> None:
    """The official script stores what the API sends, whose id is that of a chat."""
    replies = [
        {"id": f"chatcmpl-{k}", "choices": [{"message": {"role": "assistant", "content": f"So.\nRating: {rating}"}}]}
        for k, rating in enumerate((6, 1))
    ]
    reviews = write(tmp_path / "reviews.json", replies)
    filled = write(tmp_path / "filled.json", [template(0, "It is red."), template(1, "Blue.")])
    for given in (Given(questions=filled, reviews=reviews), Given(answers=filled, reviews=reviews)):
        assert mmhal.BENCHMARK.score(given).metrics["score"] == 3.5
        assert mmhal.BENCHMARK.conversations(given, "{contents} {question} {human_answer} {answer}") == [
            ("0", "Kettle Which 0? Red. It is red."),
            ("1", "Kettle Which 1? Red. Blue."),
        ]
    answers = lines(tmp_path / "answers.jsonl", [{"question": f"Which {k}?", "text": "Tea."} for k in range(2)])
    asked = mmhal.BENCHMARK.conversations(Given(questions=filled, answers=answers))
    assert ["Tea." in text and "It is red." not in text for _, text in asked] == [True, True]


def test_refomb_s_answers_without_an_image_are_found_by_id(tmp_path: Path) -> None:
    questions = [
        {
            "id": k,
            "image_url": f"img://{k}",
            "question": "What?",
            "description": "A table.",
            "type": "OCR",
            "answer": "x",
        }
        for k in range(2)
    ]
    given = Given(
        questions=lines(tmp_path / "RefoMB_dev.jsonl", questions),
        answers=lines(tmp_path / "answers.jsonl", [{"id": "1", "text": "b"}, {"id": "0", "text": "a"}]),
        reviews=lines(tmp_path / "reviews.jsonl", [{"id": k, "win": "[[A]]", "trust": "[[C]]"} for k in range(2)]),
    )
    assert [
        text for _, text in refomb.BENCHMARK.conversations(given, "{description}{question}{reference}{answer}")
    ] == [
        "A table.What?xb",
        "A table.What?xa",
    ]
    metrics = refomb.BENCHMARK.score(given).metrics
    assert (metrics["trust"], metrics["win"]) == (0.5, 0.0)


def test_llava_bench_s_reviews_are_in_the_order_of_the_answers(tmp_path: Path) -> None:
    questions = [{"question_id": k, "image": "1.jpg", "category": ("conv", "detail")[k], "text": "?"} for k in range(2)]
    given = Given(
        questions=lines(tmp_path / "questions.jsonl", questions),
        answers=lines(tmp_path / "answers.jsonl", [{"question_id": k, "text": "."} for k in (1, 0)]),
        reviews=write(tmp_path / "reviews.json", ["10 5", "10 9"]),
    )
    assert llava_bench.BENCHMARK.score(given).metrics == {"all": 70.0, "conv": 90.0, "detail": 50.0}


def test_hallusionbench_s_own_file_may_hold_the_answers(tmp_path: Path) -> None:
    rows = [
        {
            "category": "VD",
            "subcategory": "shape",
            "visual_input": str(k + 1),
            "set_id": "0",
            "figure_id": str(k),
            "question_id": "0",
            "question": "Is the left bar longer?",
            "gt_answer": "1",
            "gt_answer_details": "It is.",
            "filename": None,
            "model_prediction": ("Yes", "No")[k],
        }
        for k in range(2)
    ]
    whole = write(tmp_path / "HallusionBench.json", rows)
    for given in (Given(questions=whole), Given(answers=whole)):
        assert hallusionbench.BENCHMARK.score(given).metrics["a_acc"] == 50.0
        assert len(hallusionbench.BENCHMARK.conversations(given)) == 2
    # Reviews in another order, known by the official fields.
    reviews = write(tmp_path / "reviews.json", [{**rows[k], "reply": ("correct", "incorrect")[k]} for k in (1, 0)])
    result = hallusionbench.BENCHMARK.score(Given(questions=whole, reviews=reviews))
    assert (result.metrics["easy_acc"], result.metrics["hard_acc"]) == (100.0, 0.0)
    empty = write(tmp_path / "questions.json", [{**row, "model_prediction": ""} for row in rows])
    assert hallusionbench.BENCHMARK.score(Given(questions=empty, answers=whole)).metrics["a_acc"] == 50.0


def test_mmstar_s_own_table_may_hold_the_predictions(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            "index": k,
            "question": "How many? A: 1, B: 2",
            "image": {"bytes": b"picture", "path": None},
            "answer": "B",
            "category": "math",
            "l2_category": "geometry",
            "prediction": "AB"[k],
        }
        for k in range(2)
    ]
    table = tmp_path / "mmstar.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    assert mmstar.BENCHMARK.score(Given(questions=table)).metrics["subcategories"] == {"math": {"geometry": 0.5}}
    assert mmstar.BENCHMARK.items(Given(questions=table))[1].images == (b"picture",)
    listed = write(tmp_path / "mmstar.json", [{**row, "image": ""} for row in rows])
    assert mmstar.BENCHMARK.score(Given(answers=listed)).metrics["math"] == 1 / 250
    with pytest.raises(ValueError, match=r"broken\.parquet is not valid Parquet"):
        mmstar.BENCHMARK.score(Given(answers=write(tmp_path / "broken.parquet", "no table")))
