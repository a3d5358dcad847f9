"""Read reviews: a judge's raw replies.

A file of reviews is a JSON list or JSON Lines. Each review is a reply as a string, or an object with the reply in one of
`NAMES` or as an API's whole answer (`choices`); in the order of the answers, or with their ids, or in one object by id. Where
a benchmark asks more than once about an answer, a review is a list of that many replies, or an object with a field for each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.files import match_ids, read_values
from rlaifv.benchmarks.protocol import Given

NAMES = ("reply", "review", "content")
IDS = ("question_id", "id")  # where both are there, the second counts the rows


@dataclass(frozen=True, slots=True)
class Review:
    """The review of one answer.

    Attributes:
        id: of the answer.
        replies: one for each stage of the benchmark.
        row: the whole object, empty where the reply stood alone.
    """

    id: str
    replies: tuple[str, ...]
    row: dict[str, Any]


def read_reviews(
    path: Path,
    ids: Sequence[str] | None,
    allow_incomplete: bool,
    stages: Sequence[Sequence[str]] = (NAMES,),
    id_of: Callable[[dict[str, Any]], str | None] | None = None,
) -> list[Review]:
    """Return the reviews of a file, in the order of `ids`.

    Args:
        path: of the file.
        ids: of the answers; None where they are not given, and the file alone says what there is.
        allow_incomplete: whether answers may have no review; reviews without ids are those of the first answers then.
        stages: for each stage, the fields that may hold its reply.
        id_of: the id that an object has in other fields than `IDS`, None where it has none.

    Raises:
        ValueError: there is no review, or one cannot be read; only some have an id; they are not as many as the answers, or
            of others.
    """
    values = review_values(path, stages)
    replies = [_replies(value, number, path, stages) for number, value in enumerate(values, start=1)]
    rows = [value if isinstance(value, dict) else {} for value in values]
    own = [(id_of(row) if id_of else None) or _id_of(row) for row in rows]
    found = [one for one in own if one is not None]
    if found and len(found) < len(own):
        raise ValueError(f"Row {own.index(None) + 1} of {path} has no id, but {len(found)} other reviews have one.")
    if not found:
        if ids is not None and (len(values) > len(ids) or (len(values) < len(ids) and not allow_incomplete)):
            raise ValueError(f"{path} has {len(values)} reviews without ids, but there are {len(ids)} answers.")
        found = list(ids[: len(values)]) if ids is not None else [str(k) for k in range(len(values))]
    kept = match_ids(ids if ids is not None else found, found, path, allow_incomplete, "answer of the judge")
    if not kept and ids != []:
        raise ValueError(f"{path} has no reviews.")
    place = {one: k for k, one in enumerate(found)}
    return [Review(one, replies[place[one]], rows[place[one]]) for one in kept]


def review_values(path: Path, stages: Sequence[Sequence[str]] = (NAMES,)) -> list[Any]:
    """Return the reviews of a file as they stand there; those of one object by id as rows with an `id`.

    Raises:
        ValueError: the file is no JSON.
    """
    values = read_values(path)
    fields = {*IDS, "choices", *(name for names in stages for name in names)}
    if len(values) != 1 or not isinstance(values[0], dict) or not fields.isdisjoint(values[0]):
        return values
    rows = []
    for one, value in values[0].items():
        if not isinstance(value, dict):
            replies = value if isinstance(value, list) else [value]
            value = {names[0]: reply for names, reply in zip(stages, replies, strict=False)}
        rows.append({"id": one, **value})
    return rows


def protocol_of(given: Given, reviews: Sequence[Review], is_incomplete: bool) -> dict[str, Any]:
    """Return what a comparison of judged scores depends on.

    The judge, and the template that it was asked with, are told by the reviews if this project's runner wrote them.

    Raises:
        ValueError: the reviews are of several judges or templates, or of another judge than `given.judge`.
    """
    known = {}
    for name in ("judge", "template"):
        values = sorted({str(review.row[name]) for review in reviews if name in review.row})
        if len(values) > 1:
            raise ValueError(f"{given.reviews} has reviews of more than one {name}: {', '.join(values[:5])}.")
        if values:
            known[name] = values[0]
    if given.judge and known.setdefault("judge", given.judge) != given.judge:
        raise ValueError(f"judge={given.judge}, but {given.reviews} has reviews of {known['judge']}.")
    choices = {name: getattr(given, name) for name in ("parser", "invalid_judge", "rounding")}
    return {**choices, "judge": "unknown", "incomplete": is_incomplete} | known


def _replies(value: Any, number: int, path: Path, stages: Sequence[Sequence[str]]) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, dict):
        found = [_reply_of(value, names) for names in stages]
        if None not in found and all(isinstance(one, str) for one in found):
            return tuple(found)
        wanted = " and ".join(" or ".join(map(repr, names)) for names in stages)
        raise ValueError(f"Row {number} of {path} has to hold a judge's reply as text in {wanted}.")
    if not isinstance(value, list) or len(value) != len(stages) or not all(isinstance(one, str) for one in value):
        wanted = "a reply" if len(stages) == 1 else f"a list of {len(stages)} replies"
        raise ValueError(f"Row {number} of {path} has to be {wanted}, or an object that holds it: {str(value)[:60]!r}.")
    return tuple(value)


def _id_of(row: dict[str, Any]) -> str | None:
    # An API's answer has an id of its own, which says nothing about the question.
    names = IDS[:1] if "choices" in row else IDS
    return next((str(row[name]) for name in names if name in row), None)


def _reply_of(row: dict[str, Any], names: Sequence[str]) -> Any:
    if "choices" in row and not any(name in row for name in names):
        try:
            return row["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            return None
    return next((row[name] for name in names if name in row), None)
