"""Measure a labeler on questions with known answers before relying on it in a long run.

    python tools/check_labeler.py labeler=rlaifv/worlds/shapes_llava                    on the embedded world
    python tools/check_labeler.py labeler=llava-hf/llava-v1.6-34b-hf questions=q.jsonl  on your own questions

    labeler=DIR_OR_HUB_ID       the model; revision=COMMIT pins a hub id
    questions=FILE              JSON Lines with image (path or list), question, and answer (yes or no), paths relative to the
                                file; default: scenes of the embedded world
    num_scenes=64 seed=0        number of scenes and their seed
    trust_remote_code=false     run the model's own Python files, from a directory or a hub id with a full commit
    dtype=auto question_suffix=… batch_tokens=32768
    other_forms=[]              further wordings, as labeler.other_forms: '["{question} Please answer no or yes."]'
    out=FILE                    also write the results as JSON

Prints accuracy (mean over true and false statements: 0.5 is chance), bias to yes, calibration error, and seconds per 1,000
questions. The exit status is 1 if the labeler is near chance.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.arguments import parse_options, refuse
from rlaifv.data.images import check_header
from rlaifv.engines.local import LocalEngine
from rlaifv.metrics.labeler_quality import NEAR_CHANCE, labeler_quality
from rlaifv.models.loading import load_model
from rlaifv.models.prompting import Prompter
from rlaifv.records import Prompt
from rlaifv.runtime.console import StageBars, console, set_up_logging
from rlaifv.stages.score import WORDING, Wording, ask
from rlaifv.store.atomic import write_json
from rlaifv.worlds.shapes_source import ShapesSource

Exam = list[tuple[Prompt, list[tuple[str, bool]]]]


@dataclass
class Options:
    """Command-line options; see the module docstring."""

    labeler: str = MISSING
    revision: str | None = None
    questions: str | None = None
    num_scenes: int = 64
    seed: int = 0
    dtype: str = "auto"
    trust_remote_code: bool = False
    question_suffix: str = WORDING.suffix
    other_forms: list[str] = field(default_factory=list)
    batch_tokens: int = 32_768
    out: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the labeler and print the results. Returns 1 if it is near chance, else 0."""
    set_up_logging()
    try:
        options = parse_options(Options, __doc__, sys.argv[1:] if arguments is None else arguments)
        with tempfile.TemporaryDirectory() as directory:
            return _check(options, Path(directory))
    except (ValueError, OSError) as error:
        raise SystemExit(refuse(error)) from error


def _check(options: Options, directory: Path) -> int:
    exam = _drawn(options, directory) if options.questions is None else read_exam(Path(options.questions))
    if wrong := [form for form in options.other_forms if "{question}" not in form]:
        raise ValueError(f"other_forms: {wrong[0]!r} must hold {{question}}.")
    dtype: Any = options.dtype
    model, processor = load_model(options.labeler, options.revision, dtype, "sdpa", options.trust_remote_code)
    if torch.cuda.is_available():
        model.to("cuda")
    engine = LocalEngine(model.requires_grad_(False), Prompter(processor), options.batch_tokens)
    engine.prompter.yes_no_ids()
    asked = [(prompt, [question for question, _ in some]) for prompt, some in exam]
    began = time.perf_counter()
    with StageBars("labeler") as bars, bars.stage("ask", len(asked)) as advance:
        answers = ask(engine, asked, Wording(options.question_suffix, tuple(options.other_forms)), advance)
    seconds = time.perf_counter() - began
    found = labeler_quality(
        [pair for some in answers for pair in some], [truth for _, some in exam for _, truth in some]
    )
    per_thousand = 1000 * seconds / found.num_questions
    table = Table(show_header=False, box=None)
    table.add_row("questions", f"{found.num_questions:,} about {len(exam):,} images")
    table.add_row("accuracy", f"{found.accuracy:.3f}   (chance is 0.5)")
    table.add_row("bias to yes", f"{found.says_yes:+.3f}   (share of yes, less that of true statements)")
    table.add_row("no verdict", f"{found.unknown:.3f}")
    table.add_row("calibration error", f"{found.calibration_error:.3f}")
    table.add_row("seconds per 1,000 questions", f"{per_thousand:.1f}   on {model.device}")
    console.print(table)
    if options.out is not None:
        write_json(Path(options.out), asdict(found) | {"seconds_per_1000": per_thousand, "device": str(model.device)})
    if found.is_near_chance:
        console.print(f"[bold red]Accuracy below {NEAR_CHANCE}: feedback of this labeler would be noise.[/]")
    return int(found.is_near_chance)


def _drawn(options: Options, directory: Path) -> Exam:
    source = ShapesSource(directory, num_held_out=options.num_scenes, seed=options.seed)
    return [(prompt, source.exam(prompt.id)) for prompt in source.held_out()]


def read_exam(path: Path) -> Exam:
    """Read questions with known answers, grouped by image.

    Raises:
        ValueError: the file cannot be read, or a line is invalid; the message names file, line and field.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"questions={path} cannot be read: {error}.") from error
    by_images: dict[tuple[str, ...], list[tuple[str, bool]]] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            images, question, truth = _parse(line, path, f"line {number} of {path}")
            by_images.setdefault(images, []).append((question, truth))
    if not by_images:
        raise ValueError(f"questions={path} has no questions.")
    return [(Prompt(f"{k}", "", images), some) for k, (images, some) in enumerate(by_images.items())]


def _parse(line: str, path: Path, where: str) -> tuple[tuple[str, ...], str, bool]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise ValueError(f"The {where} is not JSON: {error}.") from error
    if not isinstance(fields, dict) or not {"image", "question", "answer"} <= fields.keys():
        raise ValueError(f"The {where} must be an object with image, question and answer.")
    images = fields["image"] if isinstance(fields["image"], list) else [fields["image"]]
    texts = [*images, fields["question"], fields["answer"]]
    if not images or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"Fields image, question and answer in {where} must be texts that are not empty.")
    answer = fields["answer"].strip().lower().rstrip(".")
    if answer not in ("yes", "no"):
        raise ValueError(f"Field 'answer' in {where} must be yes or no, but it is {fields['answer']!r}.")
    paths = tuple(str(path.absolute().parent / image) for image in images)
    for image in paths:
        check_header(image)
    return paths, fields["question"], answer == "yes"


if __name__ == "__main__":
    sys.exit(main())
