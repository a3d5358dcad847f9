"""Two or three rows of every benchmark in its official forms, and the command line that scores them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlaifv.metrics.mme import TASKS

Words = list[str]


def write(path: Path, content: Any) -> Path:
    """Text as it is, anything else as JSON, or as JSON Lines where the file's name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str):
        is_lines = path.suffix == ".jsonl"
        content = "".join(json.dumps(row) + "\n" for row in content) if is_lines else json.dumps(content)
    path.write_text(content, encoding="utf-8")
    return path


def amber(place: Path) -> Words:
    kinds = ("discriminative-hallucination", "discriminative-attribute-state", "discriminative-relation", "relation")
    annotations: list[dict[str, Any]] = [
        {"id": 1, "type": "generative", "truth": ["harbor", "boat"], "hallu": ["gull"]},
        {"id": 2, "type": "generative", "truth": ["boat"], "hallu": ["gull", "harbor"]},
    ]
    annotations += [{"id": 3 + k, "type": kind, "truth": "yes" if k == 2 else "no"} for k, kind in enumerate(kinds)]
    texts = ("A boat in a harbor.", "A bird and a boat.", "No", "No", "Yes", "No.")
    write(place / "data" / "annotations.json", annotations)
    write(place / "data" / "relation.json", {"harbor": ["pier"], "boat": ["ship"], "gull": ["bird"]})
    write(place / "data" / "safe_words.txt", "light\nsign\n")
    write(place / "answers.json", [{"id": k, "response": text} for k, text in enumerate(texts, start=1)])
    write(place / "nouns.json", {"1": ["boat", "harbor"], "2": ["bird", "boat"]})
    write(place / "pairs.json", {"boat|ship": 0.83})
    return ["annotations=data", "answers=answers.json", "nouns=nouns.json", "similarity=pairs.json"]


def pope(place: Path) -> Words:
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": k, "image": "synthetic_000.png", "text": "Is there a kettle in the image?", "label": label}
            for k, label in enumerate(("yes", "no"), start=1)
        ]
        write(place / "output" / "coco" / f"coco_pope_{split}.json", "".join(json.dumps(row) + "\n" for row in rows))
        write(place / "answers" / f"{split}.jsonl", [{"question_id": k, "answer": "Yes"} for k in (1, 2)])
    return ["questions=output/coco", "answers=answers"]


def mme(place: Path) -> Words:
    for task in TASKS:
        lines = [f"kettle.png\tIs there a {word}?\t{truth}" for word, truth in (("kettle", "Yes"), ("cat", "No"))]
        write(place / "questions" / f"{task}.txt", "".join(f"{line}\n" for line in lines))
        write(place / "answers" / f"{task}.txt", "".join(f"{line}\tYes\n" for line in lines))
    return ["questions=questions", "answers=answers"]


def _coco(place: Path) -> None:
    images = [{"id": 11, "file_name": "COCO_val2014_000000000011.jpg"}, {"id": 12}]
    objects = [{"id": 1, "image_id": 11, "category_id": 18, "segmentation": [[1.0, 2.0]]}]
    categories = [{"id": 18, "name": "dog"}]
    captions = [{"id": 1, "image_id": 12, "caption": "A man."}]
    write(
        place / "coco" / "instances_val2014.json", {"images": images, "annotations": objects, "categories": categories}
    )
    write(place / "coco" / "captions_val2014.json", {"images": images, "annotations": captions})
    write(place / "synonyms.txt", "person, man, woman\ndog, puppy\nboat, ship\nbench\n")


def chair(place: Path) -> Words:
    _coco(place)
    others = dict.fromkeys(("Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "METEOR", "CIDEr", "SPICE", "ROUGE_L"), 0.0)
    captions = {"11": "Two dogs rest on a boat.", "12": "A man."}
    rows = {one: {"image_id": int(one), "caption": text, **others} for one, text in captions.items()}
    write(place / "captions.json", {"overall": others, "imgToEval": rows})
    return ["annotations=coco", "answers=captions.json", "synonyms=synonyms.txt"]


def object_halbench(place: Path) -> Words:
    _coco(place)
    texts = {11: "Two dogs on a boat.", 12: "A man stands up."}
    prompt = "Describe the image in detail."
    questions = [{"image_id": one, "question": prompt, "image": "cGljdHVyZQ=="} for one in texts]
    answers = [
        {"question_id": k, "image_id": one, "prompt": prompt, "text": text, "model_id": "m"}
        for k, (one, text) in enumerate(texts.items())
    ]
    write(place / "questions.jsonl", questions)
    write(place / "answers.jsonl", answers)
    write(place / "objects.json", {"11": ["dog", "boat"], "12": ["man"]})
    files = ("questions=questions.jsonl", "annotations=coco", "answers=answers.jsonl", "objects=objects.json")
    return [*files, "synonyms=synonyms.txt"]


def mmhal(place: Path) -> Words:
    rows = [
        {
            "question_type": kind,
            "question_topic": "outdoor",
            "image_id": f"x{k}",
            "image_src": "",
            "image_content": ["Kettle"],
            "question": f"Which colour is kettle {k}?",
            "gt_answer": "It is red.",
            "model_answer": "The kettle is red.",
        }
        for k, kind in enumerate(("attribute", "adversarial"))
    ]
    write(place / "answers.json", rows)
    write(place / "questions.json", [{**row, "model_answer": ""} for row in rows])
    write(place / "reviews.json", ["Fine. Rating: 4", "Rating: **5**"])
    return ["questions=questions.json", "answers=answers.json", "reviews=reviews.json"]


def refomb(place: Path) -> Words:
    asked = [{"id": str(k), "image_url": f"img://{k}", "question": "What is on the table?"} for k in range(2)]
    about = {"description": "A table with a red kettle.", "type": "OCR", "split": "dev", "answer": "A kettle."}
    write(place / "RefoMB_dev.jsonl", [row | about for row in asked])
    write(place / "answers.jsonl", [row | {"answer": "A kettle."} for row in asked])
    replies = {"overall": "[[B]], not [[A]]", "hallucination": "[[C]]"}
    write(place / "reviews.jsonl", [{"id": row["id"], **replies} for row in asked])
    return ["questions=RefoMB_dev.jsonl", "answers=answers.jsonl", "reviews=reviews.jsonl"]


def llava_bench(place: Path) -> Words:
    kinds = ("conv", "detail", "complex")
    questions = [
        {"question_id": k, "image": "001.jpg", "category": kind, "text": "What is shown?"}
        for k, kind in enumerate(kinds)
    ]
    write(place / "questions.jsonl", questions)
    write(place / "answers.jsonl", [{"question_id": k, "text": "A cat.", "answer_id": f"a{k}"} for k in range(3)])
    write(place / "reviews.json", ["10 8\nThe second one …", "8 8", "10 5"])
    return ["questions=questions.jsonl", "answers=answers.jsonl", "reviews=reviews.json"]


def hallusionbench(place: Path) -> Words:
    rows = [
        {
            "category": "VD",
            "subcategory": "shape",
            "visual_input": "1",
            "set_id": "0",
            "figure_id": "0",
            "question_id": str(k),
            "sample_note": "bars",
            "question": f"Is the {side} bar longer?",
            "gt_answer": gt,
            "gt_answer_details": "The left bar is longer.",
            "filename": "0.png",
            "model_prediction": "Yes",
        }
        for k, (side, gt) in enumerate((("left", "1"), ("right", "0")))
    ]
    write(place / "answers.json", rows)
    write(place / "reviews.json", ["correct", "incorrect"])
    return ["answers=answers.json", "reviews=reviews.json"]


def mmstar(place: Path) -> Words:
    about = {"question": "How many? A: 1, B: 2", "answer": "B", "category": "math", "l2_category": "geometry"}
    write(place / "questions.json", [{"index": k, **about} for k in range(2)])
    rows = [{"index": k, "prediction": text} for k, text in enumerate(("Because A", "**B**"))]
    write(place / "answers.jsonl", rows)
    return ["questions=questions.json", "answers=answers.jsonl"]


def faithscore(place: Path) -> Words:
    write(place / "answers.jsonl", [{"id": k, "answer": "A cat.", "image": "a.jpg"} for k in range(2)])
    fact = {"fact": "There is a cat.", "reply": "Yes."}
    write(place / "reviews.jsonl", [{"id": k, "facts": [fact], "sentences": [[0]]} for k in range(2)])
    return ["answers=answers.jsonl", "reviews=reviews.jsonl"]


def mhumaneval(place: Path) -> Words:
    write(place / "answers.jsonl", [{"question_id": k, "prompt": "Describe.", "text": "A cat."} for k in range(2)])
    marks = {"object": True, "position": False, "number": 0, "other": 0}
    write(place / "reviews.jsonl", [{"question_id": k, **marks} for k in range(2)])
    return ["answers=answers.jsonl", "reviews=reviews.jsonl"]


WRITERS: tuple[Callable[[Path], Words], ...] = (
    amber,
    pope,
    mme,
    chair,
    object_halbench,
    mmhal,
    refomb,
    llava_bench,
    hallusionbench,
    mmstar,
    faithscore,
    mhumaneval,
)
