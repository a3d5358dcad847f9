"""Object HalBench from its official files (arXiv 2312.00849; question file of RLAIF-V, arXiv 2405.17220)."""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.coco import image_id_of, image_ids, read_objects, read_truth
from rlaifv.benchmarks.files import field_of, match_ids, read_lists, read_rows, required
from rlaifv.benchmarks.protocol import Given, Item, JudgedBenchmark, Result, Stage
from rlaifv.benchmarks.reviews import protocol_of, read_reviews, review_values
from rlaifv.benchmarks.templates import fill
from rlaifv.metrics.object_halbench import ObjectHalBench, answer_text, has_name, is_asked, is_readable, objects_of
from rlaifv.models.sampling import Decoding

OFFICIAL_IMAGES = 300
TEMPLATE = """You list the objects that an answer about an image mentions.

Take the answer for true. List every object that it names and that could be seen in the image: people, animals, vehicles, \
furniture, food and other things. Write each as a short name, without colour, size, material or number, and leave out what \
the answer says is absent. Reply with one JSON list of strings on one line and nothing else; with [] if there is no object.

Question: {question:json}
Answer: {answer:json}
"""


class ObjectHalBench300:
    """Object HalBench: 300 images of COCO 2014, one detailed description of each.

    The objects of an answer come from a language model, as `objects` or as its raw replies in `reviews`; without either the
    answer is read as CHAIR reads captions (mode "plain"), which gives other numbers. Rows of answers without `image_id` are
    those of the question file, in its order. The script prints percent with two decimals, which `rounding` follows.

    Published answers were made with three beams (length at most 1024 tokens); `decoding` is greedy.
    """

    name = "object_halbench"
    uses: tuple[str, ...] = ("questions", "annotations", "objects", "synonyms", "reviews", "judge", "invalid_judge")
    parsers: tuple[str, ...] = ("official",)
    decoding = Decoding(temperature=0.0, max_new_tokens=1024)
    stages: tuple[Stage, ...] = (Stage("reply", TEMPLATE, is_readable),)

    def items(self, given: Given) -> list[Item]:
        path = required(given.questions, "questions", self.name)
        items = []
        for number, row in enumerate(read_rows(path), start=1):
            text = field_of(row, "question", str, number, path)
            picture = field_of(row, "image", str, number, path)
            try:
                image = base64.b64decode(picture, validate=True)
            except binascii.Error as error:
                raise ValueError(f"Field 'image' in row {number} of {path} is not base64: {error}.") from error
            items.append(Item(str(image_id_of(row, number, path)), text, (image,)))
        match_ids(dict.fromkeys(item.id for item in items), [item.id for item in items], path, what="question")
        return items

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"question_id": k, "image_id": int(item.id), "prompt": item.question, "text": text, "model_id": "rlaifv"}
            for k, (item, text) in enumerate(zip(items, texts, strict=True))
        ]

    def conversations(self, given: Given, template: str | None = None) -> list[tuple[str, str]]:
        """Return what the extractor is told about each answer that it is asked about: those of more than three words."""
        asked = [(one, row) for one, row in self._answers(given)[0].items() if is_asked(row[1])]
        return [
            (one, fill(TEMPLATE if template is None else template, {"question": prompt, "answer": answer_text(text)}))
            for one, (prompt, text) in asked
        ]

    def score(self, given: Given) -> Result:
        annotations = required(given.annotations, "annotations", self.name)
        objects, list_name, warnings = read_objects(given.synonyms, "object_halbench")
        answers, missing = self._answers(given)
        texts = {one: text for one, (_, text) in answers.items()}
        phrases, unreadable, source = self._phrases(given, texts)
        ids = [one for one in texts if phrases is None or one in phrases or not is_asked(texts[one])]
        missing += len(texts) - len(ids) - len(unreadable)
        truth = read_truth(annotations, {int(one) for one in ids}, objects)
        metric = ObjectHalBench(len(ids), "plain" if phrases is None else "extracted", objects)
        metric.update(
            [texts[one] for one in ids],
            [truth.classes[int(one)] for one in ids],
            None if phrases is None else [phrases.get(one, []) for one in ids],
        )
        metrics = {name: value.item() for name, value in metric.compute().items()}
        if given.rounding == "official":
            metrics = {name: round(value, 2) for name, value in metrics.items()}
        if len(ids) != OFFICIAL_IMAGES:
            warnings += (f"There are {len(ids)} answers; the benchmark has {OFFICIAL_IMAGES} images.",)
        if phrases is None:
            warnings += (
                "Without objects or reviews, answers are read as CHAIR reads captions, not as the benchmark does.",
            )
        elif names := sum(has_name(phrase) for one in ids for phrase in phrases.get(one, [])):
            warnings += (
                f"{names} phrases have capitals within; those words are taken for names, which match nothing.",
            )
        return Result(
            metrics=metrics,
            counts=metric.sums() | {"missing": missing},
            num_invalid=len(unreadable),
            version=f"{len(ids)} images",
            protocol={
                **source,
                "parser": given.parser,
                "mode": metric.mode,
                "synonyms": list_name,
                "singular": "closed table",
                "truth": list(truth.files),
                "rounding": given.rounding,
                "incomplete": missing > 0,
            },
            warnings=warnings + truth.warnings,
        )

    def _answers(self, given: Given) -> tuple[dict[str, tuple[str, str]], int]:
        """Return question and answer by image id, in the order of the answers, and how many are missing."""
        path = required(given.answers, "answers", self.name)
        rows = read_rows(path)
        wanted = self._wanted(given)
        ids = _ids(rows, path, wanted)
        found = {}
        for number, (one, row) in enumerate(zip(ids, rows, strict=True), start=1):
            prompt = str(row.get("prompt", row.get("question", "")))  # only an extractor wants it
            found[one] = prompt, field_of(row, ("text", "answer"), str, number, path)
        kept = match_ids(dict.fromkeys(ids) if wanted is None else wanted, ids, path, given.allow_incomplete)
        if not kept:
            raise ValueError(f"{path} has no answer, so nothing can be scored.")
        return found, len(wanted or kept) - len(kept)

    def _wanted(self, given: Given) -> list[str] | None:
        """Return image ids of the questions, where they are given."""
        if given.questions is None:
            return None
        questions = required(given.questions, "questions", self.name)
        return image_ids(read_rows(questions), questions)

    def _phrases(
        self, given: Given, texts: dict[str, str]
    ) -> tuple[dict[str, list[str]] | None, list[str], dict[str, Any]]:
        """Return phrases by image id, or None in mode "plain"; ids of unreadable replies; and who listed them."""
        asked = [one for one, text in texts.items() if is_asked(text)]
        if given.objects is not None and given.reviews is not None:
            raise ValueError("objects=… and reviews=… both say what the answers mention; give one of them.")
        if given.reviews is not None:
            path = required(given.reviews, "reviews", self.name)
            # Who asked about short answers as well has as many replies as answers.
            ids = list(texts) if len(review_values(path)) == len(texts) else asked
            reviews = [one for one in read_reviews(path, ids, given.allow_incomplete) if one.id in asked]
            phrases, unreadable = objects_of({review.id: review.replies[0] for review in reviews})
            if unreadable and given.invalid_judge != "skip":
                raise ValueError(
                    f"{path} has {len(unreadable)} replies that are no JSON list of phrases, the first for image "
                    f"{unreadable[0]}; the official script asks again until there is one. invalid_judge=skip leaves them out."
                )
            return phrases, unreadable, protocol_of(given, reviews, False)
        if given.objects is None:
            return None, [], {}
        path = required(given.objects, "objects", self.name)
        listed: dict[str, list[str]] = {}
        for one, some in read_lists(path, "phrases", "image id").items():
            if listed.setdefault(_plain(one), some) is not some:
                raise ValueError(f"{path} has two lists of phrases for image {_plain(one)}.")
        # Lists of short answers, and of questions that have no answer, are not wrong, only of no use.
        unused = {*texts, *(self._wanted(given) or ())}.difference(asked)
        match_ids(asked, [one for one in listed if one not in unused], path, given.allow_incomplete, "object list")
        return listed, [], {"judge": given.judge or "unknown"}


def _ids(rows: Sequence[dict[str, Any]], path: Path, wanted: Sequence[str] | None) -> list[str]:
    """Return image ids of the rows of answers; of the question file's rows, in its order, where none has its own."""
    if any("image_id" in row for row in rows):
        return image_ids(rows, path)
    if wanted is None:
        raise ValueError(f"{path} has no image_id, so questions=… must be given, whose rows are in the same order.")
    if len(rows) != len(wanted):
        raise ValueError(
            f"{path} has no image_id, so its {len(rows)} rows have to be those of the {len(wanted)} questions, in order."
        )
    return list(wanted)


def _plain(image_id: str) -> str:
    """Return an image id without the zeros that names of files have in front."""
    return str(int(image_id)) if image_id.isdecimal() else image_id


BENCHMARK: JudgedBenchmark = ObjectHalBench300()
