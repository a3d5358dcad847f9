"""Answer benchmarks with a model and score the answers.

    python tools/evaluate.py model=outputs/RUN/export benchmark=[pope,amber] data_root=DIR out=DIR
    python tools/evaluate.py model=llava-hf/llava-1.5-7b-hf benchmark=mmhal data_root=DIR out=DIR judge=DIR

    model=DIR_OR_HUB_ID     the model; revision=COMMIT pins a hub id
    benchmark=[NAME,…]      the benchmarks, see tools/score.py
    data_root=DIR           directory with your copy of each benchmark in <name>/, with the official file names;
                            <name>.<field>=PATH sets another file or directory, as in pope.images=coco/val2014
    out=DIR                 results.json and results.md; answers in <name>/
    suffix="…"              appended to every question
    num_items=null          ask a fixed subset of at least this many questions, all those about each image
    max_new_tokens=null     limit for answers, if lower than the benchmark's own
    judge=DIR_OR_URL judge_model=NAME
                            judge for the benchmarks that need one: a model, or an OpenAI-compatible server, whose
                            key is read from RLAIFV_JUDGE_KEY
    judge_template=FILE     the official judge prompt with its placeholders (docs/benchmarks.md), instead of this
                            project's own; [FILE,FILE] for a judge asked in two stages
    logger=csv              additional logger, as for train.py: csv (out/metrics.csv), wandb or none
    invalid_judge=official  score of an unreadable review: official, skip (left out) or raise (an error)
    parser=official rounding=official allow_incomplete=false
                            as for tools/score.py; <name>.parser=… applies to one of several benchmarks
    dtype=auto batch_tokens=32768 shard_items=256 seed=0

All questions about an image share one prefix. Answers are written in shards: an interrupted run continues with the
first missing shard and refuses different weights, questions or decoding. If a benchmark cannot be scored, the others
still are, and the exit status is 2.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import MISSING, OmegaConf
from rich.markup import escape

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.arguments import parse_options, refuse
from rlaifv.app.launch import register_resolvers
from rlaifv.benchmarks.answering import answer, run_benchmark
from rlaifv.benchmarks.judges import KEY_VARIABLE, judge_answers, write_reviews
from rlaifv.benchmarks.outcome import check_given, flat_metrics, is_judged
from rlaifv.benchmarks.places import given_in
from rlaifv.benchmarks.protocol import Benchmark, Given, JudgedBenchmark
from rlaifv.benchmarks.questions import Asking, Questions, questions_of
from rlaifv.benchmarks.registry import benchmark
from rlaifv.benchmarks.templates import check_places
from rlaifv.callbacks.metrics import MetricsLogger
from rlaifv.engines.chat import Chat, LocalChat, ServerChat
from rlaifv.engines.local import LocalEngine
from rlaifv.models.digests import weights_digest
from rlaifv.models.loading import load_model
from rlaifv.models.prompting import Prompter
from rlaifv.runtime.console import StageBars, console, set_up_logging
from rlaifv.store.atomic import make_directory, write_json, write_text
from tools.score import result_table

CONFIGS = Path(__file__).parent.parent / "configs"
LOGGERS = tuple(sorted(path.stem for path in (CONFIGS / "logger").glob("*.yaml")))

# Judge: reply tokens (the largest official limit), concurrent conversations, and timeout and retries for a server.
JUDGE_TOKENS, JUDGE_BATCH, JUDGE_SECONDS, JUDGE_RETRIES = 2048, 8, 300.0, 5


@dataclass
class Options:
    """Command-line options; see the module docstring."""

    model: str = MISSING
    revision: str | None = None
    benchmark: str = MISSING
    data_root: Path = MISSING
    out: Path = MISSING
    suffix: str = ""
    num_items: int | None = None
    max_new_tokens: int | None = None
    judge: str | None = None
    judge_model: str | None = None
    judge_template: str | None = None
    logger: str = "csv"
    invalid_judge: str = "official"
    parser: str = "official"
    rounding: str = "official"
    allow_incomplete: bool = False
    dtype: str = "auto"
    batch_tokens: int = 32_768
    shard_items: int = 256
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer and score the benchmarks, and write and print the results."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    set_up_logging()
    try:
        own = [word for word in words if "." in word.partition("=")[0] and "=" in word]
        options = parse_options(Options, __doc__, [word for word in words if word not in own])
        benchmarks = _benchmarks(options.benchmark)
        _check(options)
        if options.judge is not None and not any(map(is_judged, benchmarks)):
            raise ValueError(f"judge={options.judge} has no effect on benchmark={options.benchmark}.")
        if options.invalid_judge != "official" and not any("invalid_judge" in one.uses for one in benchmarks):
            raise ValueError(f"invalid_judge={options.invalid_judge} has no effect on benchmark={options.benchmark}.")
        given = {one.name: _given(one, options, own) for one in benchmarks}
        if wrong := [word for word in own if word.partition(".")[0] not in given]:
            raise ValueError(f"{wrong[0]} has no effect on benchmark={options.benchmark}.")
        templates = _templates(options, benchmarks)
        results, faults = _evaluate(options, benchmarks, given, templates)
    except (ValueError, OSError) as error:
        raise SystemExit(refuse(error)) from error
    for result in results:
        console.print(result_table(result))
        for warning in result["warnings"]:
            console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True)
    if results:
        console.print(f"results: {options.out / 'results.json'}", soft_wrap=True)
    return max(map(refuse, faults), default=0)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.strip().removeprefix("[").removesuffix("]").split(",")]


def _benchmarks(text: str) -> list[Benchmark]:
    names = _listed(text)
    if len({*names}) < len(names):
        raise ValueError(f"benchmark={text} names one twice.")
    return [benchmark(name) for name in names]


def _check(options: Options) -> None:
    for name in ("num_items", "max_new_tokens", "batch_tokens", "shard_items"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1.")
    if options.logger not in LOGGERS:
        raise ValueError(f"logger={options.logger} must be one of {', '.join(LOGGERS)}.")
    if options.judge_model is not None and options.judge is None:
        raise ValueError(f"judge_model={options.judge_model} has no effect without judge=….")
    if options.judge is not None and options.judge.startswith(("http://", "https://")) and options.judge_model is None:
        raise ValueError(f"judge={options.judge} needs judge_model=…, the model's name on the server.")
    if options.dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ValueError(f"dtype={options.dtype} must be one of auto, float32, bfloat16, float16.")


def _given(one: Benchmark, options: Options, own: Sequence[str]) -> Given:
    """Return a benchmark's files and options, from `data_root` or as given; refuse options that it would ignore."""
    values = {}
    for word in own:
        key, _, value = word.partition("=")
        name, _, field = key.partition(".")
        if name == one.name:
            values[field] = value
    parser = values.pop("parser", options.parser)
    paths = {field: Path(value).expanduser() for field, value in values.items()}
    found = given_in(one, options.data_root.expanduser(), paths)
    rounding: Any = options.rounding
    invalid_judge: Any = options.invalid_judge if "invalid_judge" in one.uses else "official"
    chosen = replace(
        found,
        parser=parser,
        rounding=rounding,
        invalid_judge=invalid_judge,
        allow_incomplete=options.allow_incomplete,
    )
    check_given(one, chosen)
    return chosen


def _templates(options: Options, benchmarks: Sequence[Benchmark]) -> list[str]:
    """Return the user's judge templates, one per stage; empty if this project's own are used.

    Raises:
        ValueError: no judge is asked, several benchmarks need one (their placeholders differ), or a file is missing or
            lacks the placeholders of its stage.
    """
    if options.judge_template is None:
        return []
    said = f"judge_template={options.judge_template}"
    judged = [one for one in benchmarks if is_judged(one)]
    if not judged:
        raise ValueError(f"{said} has no effect on benchmark={options.benchmark}, whose answers no judge reads.")
    if options.judge is None:
        raise ValueError(f"{said} has no effect without judge=….")
    if len(judged) > 1:
        names = ", ".join(one.name for one in judged)
        raise ValueError(f"{said} is for one judged benchmark, but benchmark={options.benchmark} has {names}.")
    paths = [Path(name).expanduser() for name in _listed(options.judge_template)]
    if len(paths) > len(judged[0].stages):
        raise ValueError(f"{said} names {len(paths)} files; {judged[0].name} asks in {len(judged[0].stages)} stages.")
    templates = []
    for path, stage in zip(paths, judged[0].stages, strict=False):
        if not path.is_file():
            raise ValueError(f"judge_template={path} does not exist.")
        try:
            templates.append(path.read_text(encoding="utf-8-sig"))
            check_places(templates[-1], stage.template)
        except ValueError as error:
            raise ValueError(f"judge_template={path}: {error}") from error
    return templates


def _evaluate(
    options: Options, benchmarks: Sequence[Benchmark], given: Mapping[str, Given], templates: Sequence[str]
) -> tuple[list[dict[str, Any]], list[Exception]]:
    """Return the results, which are also written, and the errors of benchmarks without a result."""
    out = options.out.expanduser()
    how = Asking(options.suffix, options.num_items, options.max_new_tokens, options.shard_items, options.seed)
    questions = {
        one.name: questions_of(one, given[one.name], how, out / one.name / "images") for one in benchmarks
    }  # before any weights are loaded
    engine = _engine(options)
    digest = weights_digest(engine.model)
    make_directory(out.absolute())
    with StageBars("answer") as bars:
        for one in benchmarks:
            asked: Questions = questions[one.name]
            with bars.stage(one.name, len(asked.items)) as advance:
                answer(asked, engine, digest, out / one.name, how, how.decoding(one), advance)
    engine.model.to("cpu")  # free GPU memory for a judge
    results: list[dict[str, Any]] = []
    faults: list[Exception] = []
    for one in benchmarks:
        review = None
        if options.judge is not None and is_judged(one):
            review = partial(_review, one, options, templates, out / one.name)
        try:
            found = run_benchmark(
                one, given[one.name], questions[one.name], engine, digest, out / one.name, how, review=review
            )
        except (ValueError, OSError) as error:  # keep its answers and the other results
            faults.append(ValueError(f"benchmark={one.name} has no result: {error}"))
            continue
        results.append({"model": options.model, "revision": options.revision, "model_sha256": digest, **found})
    if results:
        write_json(out / "results.json", results)
        write_text(out / "results.md", results_text(results))
        _log(options.logger, out, results)
    return results, faults


def _log(name: str, out: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Log the metrics under the names that a training run uses for its benchmarks."""
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(f"logger/{name}")
    OmegaConf.set_struct(cfg, False)
    cfg.run_dir = str(out.absolute())
    metrics = {
        f"benchmark/{result['benchmark']}/{metric}": value
        for result in results
        for metric, value in flat_metrics(result["metrics"])
        if value is not None
    }
    for logger in instantiate(cfg.get("logger", {})).values():
        if isinstance(logger, MetricsLogger):
            logger.go_on_from(0)
        logger.log_metrics(metrics, step=0)
        logger.finalize("success")


def _engine(options: Options) -> LocalEngine:
    dtype: Any = options.dtype
    model, processor = load_model(options.model, options.revision, dtype)
    model.requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
    return LocalEngine(model, Prompter(processor), options.batch_tokens)


def _review(one: JudgedBenchmark, options: Options, templates: Sequence[str], directory: Path, given: Given) -> Given:
    """Return `given` with the judge's reviews added; answers that were already reviewed are not sent again."""
    chat = _chat(options)
    name = options.judge_model or str(options.judge)
    num_stages = len(one.stages)
    with StageBars("judge") as bars, bars.stage(one.name, len(one.conversations(given)) * num_stages) as advance:
        judged = judge_answers(one, given, chat, name, directory / "judge.jsonl", templates, advance)
    reviews = directory / "reviews.jsonl"
    write_reviews(reviews, judged)
    for answered, reason in list(judged.silent.items())[:1]:
        console.print(
            f"[yellow]warning:[/] {len(judged.silent)} answers to {one.name} have no review, {escape(answered)} among them: "
            f"{escape(reason)}.",
            soft_wrap=True,
        )
    return replace(given, reviews=reviews, judge=name)


def _chat(options: Options) -> Chat:
    """Return the judge: a server, or a local model that is loaded on first use."""
    judge = str(options.judge)
    if not judge.startswith(("http://", "https://")):
        return LocalChat(judge, None, "auto", JUDGE_BATCH, JUDGE_TOKENS)
    assert options.judge_model is not None
    return ServerChat(judge, options.judge_model, JUDGE_TOKENS, JUDGE_BATCH, JUDGE_SECONDS, JUDGE_RETRIES, KEY_VARIABLE)


def results_text(results: Sequence[Mapping[str, Any]]) -> str:
    """Return all metrics as a Markdown table, with version, counts and protocol of each result."""
    lines = [f"# {results[0]['model']}", "", "| benchmark | metric | value |", "|---|---|---:|"]
    for result in results:
        for name, value in flat_metrics(result["metrics"]):
            shown = "–" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
            lines.append(f"| {result['benchmark']} | {name} | {shown} |")
    for result in results:
        about = {"version": result["version"], "counts": result["counts"], "invalid answers": result["invalid_answers"]}
        lines += ["", f"## {result['benchmark']}", "", f"Protocol `{result['fingerprint']}`:", ""]
        lines += [f"- {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in about.items()]
        lines += [f"- {name}: {json.dumps(value, ensure_ascii=False)}" for name, value in result["protocol"].items()]
        lines += [f"- warning: {warning}" for warning in result["warnings"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
