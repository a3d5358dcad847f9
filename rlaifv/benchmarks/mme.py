"""MME's subset on hallucination (arXiv 2306.13394): one table for each of existence, count, position and color."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaifv.benchmarks.files import field_of, read_rows, read_text, required
from rlaifv.benchmarks.protocol import Given, Item, Result
from rlaifv.metrics.mme import MME, PARSERS, TASKS
from rlaifv.models.sampling import Decoding

OFFICIAL_SIZE = 60  # questions in each of the four tasks: two about each of 30 images
COLUMNS = ("image", "question", "answer", "response")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a task's table. `truth` is "yes" or "no"; `response` is empty in tables of questions."""

    image: str
    question: str
    truth: str
    response: str = ""


class MMEBenchmark:
    """MME with its official tables and its script's numbers.

    Questions are a directory with the official table of each task (image, question, answer; tab-separated). Answers are a
    directory of the same tables with the response as a fourth column, the table of one task, which its name tells and which is
    scored alone, or rows as `answer_rows` makes them.
    """

    name = "mme"
    uses = ("questions", "images", "parser")
    parsers = PARSERS
    decoding = Decoding(temperature=0.0, max_new_tokens=16)

    def items(self, given: Given) -> list[Item]:
        """Return the questions of the four tasks; images are below a directory for each. See `Benchmark.items`."""
        tables = _read_questions(given)
        return [
            Item(f"{task}/{number}", line.question, (f"{task}/{line.image}",))
            for task, lines in tables.items()
            for number, line in enumerate(lines, start=1)
        ]

    def answer_rows(self, given: Given, items: Sequence[Item], texts: Sequence[str]) -> list[dict[str, Any]]:
        """Return rows {task, image, question, answer, response}: the official columns. See `Benchmark.answer_rows`."""
        tables = _read_questions(given)
        rows = []
        for item, text in zip(items, texts, strict=True):
            task, _, number = item.id.partition("/")
            line = tables[task][int(number) - 1]
            row = {"task": task, "image": line.image, "question": line.question}
            rows.append(row | {"answer": line.truth.capitalize(), "response": text})
        return rows

    def score(self, given: Given) -> Result:
        """Return MME's numbers. See `Benchmark.score`."""
        path = required(given.answers, "answers", self.name)
        is_one_task = path.is_file() and not _is_json(path)
        if is_one_task:
            tables = {_task_of(path): _read_table(path, (len(COLUMNS),))}
        else:
            tables = _read_tables(path, (len(COLUMNS),)) if path.is_dir() else _read_answer_rows(path)
        missing = [task for task in TASKS if task not in tables]
        if missing and not given.allow_incomplete and not is_one_task:
            raise ValueError(
                f"{path} has no answers to {', '.join(missing)}; allow_incomplete=true scores the other tasks, and says so."
            )
        num_left_out = 0
        if given.questions is not None:
            questions = _read_questions(given)
            for task, lines in tables.items():
                asked = questions.get(task, [])
                if given.allow_incomplete:  # of some images, both questions about each
                    answered = {line.image for line in lines}
                    asked = [line for line in asked if line.image in answered]
                _check_same(task, asked, lines, path)
            num_left_out = sum(map(len, questions.values())) - sum(map(len, tables.values()))
        rows = [(task, line // 2, table[line]) for task, table in tables.items() for line in range(len(table))]
        metric = MME(len(rows), given.parser)
        metric.update(
            [line.response for _, _, line in rows],
            [line.truth for _, _, line in rows],
            [task for task, _, _ in rows],
            [image for _, image, _ in rows],
        )
        return Result(
            metrics=_metrics({name: value.item() for name, value in metric.compute().items()}),
            counts={f"{task}_questions": len(lines) for task, lines in tables.items()}
            | {"missing": len(missing)}
            | ({"left_out": num_left_out} if num_left_out else {}),
            num_invalid=metric.num_invalid,
            version="v1" if all(len(tables.get(task, ())) == OFFICIAL_SIZE for task in TASKS) else "unknown",
            protocol={"parser": given.parser, "complete": not missing and not num_left_out},
            warnings=tuple(
                f"MME has {OFFICIAL_SIZE} questions on {task}, but {path} has {len(lines)}."
                for task, lines in tables.items()
                if len(lines) != OFFICIAL_SIZE
            ),
        )


def _metrics(scores: dict[str, float]) -> dict[str, Any]:
    """Return the tasks' scores and their sums, and what the scores are made of."""
    metrics: dict[str, Any] = {name: score for name, score in scores.items() if "/" not in name}
    for name, pair in (("object_level", TASKS[:2]), ("attribute_level", TASKS[2:])):
        if all(task in scores for task in pair):
            metrics[name] = sum(scores[task] for task in pair)
    for part in ("accuracy", "accuracy_plus"):
        metrics[part] = {task: scores[f"{task}/{part}"] for task in TASKS if task in scores}
    return metrics


def _read_questions(given: Given) -> dict[str, list[Line]]:
    """Return tables of questions, ignoring their responses."""
    return _read_tables(required(given.questions, "questions", "mme"), (len(COLUMNS) - 1, len(COLUMNS)))


def _read_tables(folder: Path, sizes: Sequence[int]) -> dict[str, list[Line]]:
    """Return the tables of those of the four tasks that a directory has, of as many columns as one of `sizes`."""
    names = ", ".join(f"{task}.txt" for task in TASKS)
    if not folder.is_dir():
        raise ValueError(f"{folder} has to be a directory with {names}.")
    paths = {task: folder / f"{task}.txt" for task in TASKS}
    tables = {task: _read_table(path, sizes) for task, path in paths.items() if path.exists()}
    if not tables:
        raise ValueError(f"{folder} has none of {names}.")
    return tables


def _read_table(path: Path, sizes: Sequence[int]) -> list[Line]:
    rows = read_text(path).split("\n")
    if not rows[-1]:
        rows.pop()
    lines = []
    for number, row in enumerate(rows, start=1):
        cells = row.rstrip("\r").split("\t")
        if len(cells) not in sizes:
            raise ValueError(
                f"Line {number} of {path} has {len(cells)} columns in place of {sizes[0]} "
                f"({', '.join(COLUMNS[: sizes[0]])}); tabs and line breaks in responses have to be replaced by spaces."
            )
        lines.append(Line(cells[0], cells[1], _truth(cells[2], number, path), *cells[3:]))
    _check_pairs(lines, path)
    return lines


def _task_of(path: Path) -> str:
    """Return the task that the name of a table's file tells."""
    found = [task for task in TASKS if task in path.stem.lower()]
    if len(found) != 1:
        raise ValueError(f"The name of {path} has to tell which task its answers are to: {', '.join(TASKS)}.")
    return found[0]


def _is_json(path: Path) -> bool:
    return read_text(path).lstrip()[:1] in ("[", "{")


def _read_answer_rows(path: Path) -> dict[str, list[Line]]:
    tables: dict[str, list[Line]] = {}
    for number, row in enumerate(read_rows(path), start=1):
        task = field_of(row, "task", str, number, path)
        if task not in TASKS:
            raise ValueError(f"Field 'task' in row {number} of {path} is {task!r}; the tasks are {', '.join(TASKS)}.")
        image, question, truth, response = (field_of(row, name, str, number, path) for name in COLUMNS)
        tables.setdefault(task, []).append(Line(image, question, _truth(truth, number, path), response))
    for lines in tables.values():
        _check_pairs(lines, path)
    return tables


def _truth(text: str, number: int, path: Path) -> str:
    if text.lower() not in ("yes", "no"):
        raise ValueError(f"The answer in line {number} of {path} has to be Yes or No, but it is {text!r}.")
    return text.lower()


def _check_pairs(lines: Sequence[Line], path: Path) -> None:
    """Refuse tables in which two successive lines are not about the same image; the script does not check it."""
    if len(lines) % 2:
        raise ValueError(f"{path} has {len(lines)} lines on one task; there are two for each image.")
    for number in range(0, len(lines), 2):
        one, other = lines[number].image, lines[number + 1].image
        if one != other:
            raise ValueError(
                f"Lines {number + 1} and {number + 2} of {path} have to be about one image, but are on {one} and {other}."
            )


def _check_same(task: str, questions: Sequence[Line], answers: Sequence[Line], path: Path) -> None:
    if len(questions) != len(answers):
        raise ValueError(f"{path} has {len(answers)} answers to the {len(questions)} questions on {task}.")
    for number, (asked, line) in enumerate(zip(questions, answers, strict=True), start=1):
        if (asked.image, asked.question, asked.truth) != (line.image, line.question, line.truth):
            raise ValueError(
                f"Line {number} on {task} of {path} is {line.question!r} about {line.image}, but question {number} is "
                f"{asked.question!r} about {asked.image}, or their right answers differ."
            )


BENCHMARK = MMEBenchmark()
