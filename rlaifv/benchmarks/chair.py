"""CHAIR on captions of COCO images, from its official files (arXiv 1809.02156)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.coco import image_id_of, image_ids, read_objects, read_truth
from rlaifv.benchmarks.files import field_of, match_ids, read_json, read_rows, required
from rlaifv.benchmarks.protocol import Benchmark, Given, Item, Result
from rlaifv.metrics.chair import CHAIR
from rlaifv.models.sampling import Decoding

USUAL = 500


class Chair:
    """CHAIR: any images of COCO 2014, usually 500 of val2014, and one caption of each.

    Without questions, all given answers are scored. Answers are the script's caption file
    (`imgToEval`; the caption metrics beside it, which the script prints, are not needed), or JSON Lines with `image_id` and
    `caption`. The script prints percent with one decimal, which `rounding` follows.
    """

    name = "chair"
    uses: tuple[str, ...] = ("questions", "annotations", "images", "synonyms")
    parsers: tuple[str, ...] = ("official",)
    decoding = Decoding(temperature=0.0, max_new_tokens=512)

    def items(self, given: Given) -> list[Item]:
        path = required(given.questions, "questions", self.name)
        items = []
        for number, row in enumerate(read_rows(path), start=1):
            image_id = image_id_of(row, number, path)
            question = field_of(row, ("question", "text", "prompt"), str, number, path)
            image = row.get("image", f"COCO_val2014_{image_id:012d}.jpg")
            if not isinstance(image, str):
                raise ValueError(f"Field 'image' in row {number} of {path} has to be a file name: {image!r:.60}.")
            items.append(Item(str(image_id), question, (image,)))
        match_ids((item.id for item in items), [item.id for item in items], path, what="question")
        return items

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        return [{"image_id": int(item.id), "caption": text} for item, text in zip(items, texts, strict=True)]

    def score(self, given: Given) -> Result:
        answers = required(given.answers, "answers", self.name)
        annotations = required(given.annotations, "annotations", self.name)
        objects, list_name, warnings = read_objects(given.synonyms, "chair")
        captions = _read_captions(answers)
        ids = list(captions)
        missing = 0
        if given.questions is not None:
            questions = required(given.questions, "questions", self.name)
            wanted = image_ids(read_rows(questions), questions)
            ids = match_ids(wanted, ids, answers, given.allow_incomplete)
            missing = len(wanted) - len(ids)
        if not ids:
            raise ValueError(f"{answers} has no caption, so nothing can be scored.")
        truth = read_truth(annotations, {int(one) for one in ids}, objects)
        metric = CHAIR(len(ids), objects)
        metric.update([captions[one] for one in ids], [truth.classes[int(one)] for one in ids])
        metrics = {name: value.item() for name, value in metric.compute().items()}
        if given.rounding == "official":
            metrics = {name: round(value, 1) for name, value in metrics.items()}
        if len(ids) != USUAL:
            warnings += (
                f"There are {len(ids)} captions; published numbers are mostly of {USUAL}, and depend on which.",
            )
        return Result(
            metrics=metrics,
            counts=metric.sums() | {"missing": missing},
            num_invalid=0,
            version=f"COCO 2014, {len(ids)} images",
            protocol={
                "parser": given.parser,
                "synonyms": list_name,
                "singular": "closed table",
                "truth": list(truth.files),
                "rounding": given.rounding,
                "incomplete": missing > 0,
            },
            warnings=warnings + truth.warnings,
        )


def _read_captions(path: Path) -> dict[str, str]:
    """Return captions by image id, from the script's caption file or from rows.

    Raises:
        ValueError: the file is neither, or an image has two captions.
    """
    rows = _caption_rows(path)
    ids = image_ids(rows, path)
    match_ids(dict.fromkeys(ids), ids, path)
    texts = [field_of(row, ("caption", "text", "answer"), str, n, path) for n, row in enumerate(rows, start=1)]
    return dict(zip(ids, texts, strict=True))


def _caption_rows(path: Path) -> list[dict[str, Any]]:
    try:
        content = read_json(path)
    except ValueError:
        return read_rows(path)  # JSON Lines, or an error that names the line
    if not isinstance(content, dict) or "imgToEval" not in content:
        return read_rows(path)
    rows = content["imgToEval"]
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise ValueError(f"Field 'imgToEval' of {path} has to hold one object per image.")
    return [{"image_id": image_id} | row for image_id, row in rows.items()]


BENCHMARK: Benchmark = Chair()
