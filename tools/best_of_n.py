"""Answer prompts with the best of N samples, ranked by the implicit DPO reward of the aligned model.

    python tools/best_of_n.py run_dir=RUN                     held-out prompts of a run, its result against its base model
    python tools/best_of_n.py policy=DIR reference=DIR_OR_ID prompts=prompts.jsonl out=DIR

    run_dir=RUN         takes policy, reference, prompts and the truth, if known, from a finished run; uses only
                        held-out prompts that did not select its weights
    policy=DIR          aligned model; it also samples the answers unless source=DIR is given
    reference=DIR       the base model of the policy; reference_revision=COMMIT pins a hub id
    prompts=FILE        JSON Lines with id, image and question
    out=DIR             answers.jsonl, and curve.csv and curve.svg if the truth is known; default RUN/best_of_n
    n=16                candidates per prompt
    form=mean           score: mean, sum or perplexity
    num_prompts=null    use only the first num_prompts prompts
    dtype=auto          data type of all weights; with run_dir, the one of the run
    temperature=1.0 top_p=1.0 max_new_tokens=null seed=0 batch_tokens=32768

Writes the best answer and all scores of each prompt. If the truth is known, prints and plots hallucination and length
over N = 1, 2, 4, … for each form of the score, averaged over consecutive groups of N of the n candidates.
"""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import MISSING, OmegaConf
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from rlaifv.app.arguments import parse_options, refuse
from rlaifv.app.launch import CONFIG_NAME, register_resolvers
from rlaifv.data.sources import read_prompts
from rlaifv.engines.local import LocalEngine
from rlaifv.learners.dpo.best_of_n import Candidates, Form, sample_candidates
from rlaifv.metrics.hallucination import HallucinationRate
from rlaifv.metrics.truth import Truth
from rlaifv.models.loading import load_model
from rlaifv.models.prompting import Prompter
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt
from rlaifv.report.plots import LineChart, Series, standalone_svg
from rlaifv.runtime.console import StageBars, console, set_up_logging
from rlaifv.stages.dividers.protocol import BatchDivider, Divider, NotDivided, divide_all
from rlaifv.stages.dividers.rules import RulesDivider
from rlaifv.store.atomic import make_directory, write_text

FORMS: tuple[Form, ...] = ("mean", "sum", "perplexity")


@dataclass
class Options:
    """Command-line options; see the module docstring."""

    run_dir: str | None = None
    policy: str = MISSING
    reference: str = MISSING
    reference_revision: str | None = None
    source: str | None = None
    prompts: str | None = None
    out: str = MISSING
    n: int = 16
    form: str = "mean"
    num_prompts: int | None = None
    dtype: str = "auto"
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    seed: int = 0
    batch_tokens: int = 32_768


def main(arguments: Sequence[str] | None = None) -> None:
    """Sample and score candidates, write the answers, and print the curve."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    set_up_logging()
    register_resolvers()
    run_dir = next((word.partition("=")[2] for word in words if word.startswith("run_dir=")), None)
    try:
        defaults: list[str] = []
        prompts: list[Prompt] | None = None
        truth: Truth | None = None
        divider: Divider | BatchDivider = RulesDivider()
        if run_dir is not None:
            defaults, prompts, truth, divider = _of_run(Path(run_dir))
        given = {word.partition("=")[0] for word in words}
        if "reference" in given:  # the run's revision belongs to its own reference
            given.add("reference_revision")
        defaults = [word for word in defaults if word.partition("=")[0] not in given]
        options = parse_options(Options, __doc__, [*defaults, *words])
        if options.form not in FORMS:
            raise ValueError(f"form={options.form} must be one of {', '.join(FORMS)}.")
        if options.n < 1:
            raise ValueError(f"n={options.n} must be at least 1.")
        if prompts is None and options.prompts is None:
            raise ValueError("prompts=… must be given where run_dir is not.")
        chosen = (prompts if prompts is not None else read_prompts(str(options.prompts)))[: options.num_prompts]
        candidates = _candidates(options, chosen)
        _write(options, candidates, truth, divider)
    except (ValueError, OSError) as error:
        raise SystemExit(refuse(error)) from error


def _of_run(run_dir: Path) -> tuple[list[str], list[Prompt], Truth | None, Divider | BatchDivider]:
    """Return default options, held-out prompts, truth (if known) and divider of a finished run."""
    stored = run_dir / CONFIG_NAME
    if not (run_dir / "export" / "config.json").exists():
        raise ValueError(f"run_dir={run_dir} holds no finished run: {run_dir / 'export'} is missing.")
    cfg = OmegaConf.load(stored)
    cfg.run_dir = str(run_dir.absolute())
    source = instantiate(cfg.data)
    defaults = [
        f"policy={run_dir / 'export'}",
        f"reference={cfg.model.path}",
        f"dtype={cfg.model.dtype}",
        f"out={run_dir / 'best_of_n'}",
        f"max_new_tokens={cfg.iteration.decoding.max_new_tokens}",
    ]
    if cfg.model.revision is not None:
        defaults.append(f"reference_revision={cfg.model.revision}")
    prompts = source.held_out()
    if OmegaConf.select(cfg, "iteration.selection.per_epoch"):
        prompts = prompts[1::2]  # the others selected the candidates; see `FeedbackLoop.held_out`
    if not prompts:
        raise ValueError(f"run_dir={run_dir} held out no prompts; give prompts=… with policy=… and reference=….")
    return defaults, prompts, source if isinstance(source, Truth) else None, instantiate(cfg.divider)


def _candidates(options: Options, prompts: Sequence[Prompt]) -> list[Candidates]:
    dtype: Any = options.dtype

    def engine(path: str, revision: str | None = None) -> LocalEngine:
        model, processor = load_model(path, revision, dtype)
        if torch.cuda.is_available():
            model.to("cuda")
        return LocalEngine(model.requires_grad_(False), Prompter(processor), options.batch_tokens)

    policy, reference = engine(options.policy), engine(options.reference, options.reference_revision)
    source = policy if options.source is None else engine(options.source)
    decoding = Decoding(options.temperature, options.top_p, max_new_tokens=options.max_new_tokens or 512)
    with StageBars("best of n") as bars, bars.stage("sample", len(prompts)) as advance:
        return sample_candidates(prompts, source, policy, reference, decoding, options.n, options.seed, advance)


def _write(
    options: Options, candidates: Sequence[Candidates], truth: Truth | None, divider: Divider | BatchDivider
) -> None:
    out = Path(options.out)
    make_directory(out.absolute())
    form: Form = options.form  # type: ignore[assignment]
    rows = []
    for one in candidates:
        best = one.responses[one.best(form)]
        scores = [round(score, 6) for score in one.scores(form)]
        rows.append({"id": one.prompt.id, "question": one.prompt.question, "response": best.text, "scores": scores})
    write_text(out / "answers.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    console.print(f"answers: {out / 'answers.jsonl'}", soft_wrap=True)
    if truth is not None:
        curve = best_of_n_curve(candidates, truth, divider)
        _write_curve(out, curve)


def best_of_n_curve(
    candidates: Sequence[Candidates], truth: Truth, divider: Divider | BatchDivider
) -> dict[Form, list[tuple[int, float, float, float]]]:
    """Return (N, response hallucination, coverage, words) for N = 1, 2, 4, … for each form of the score."""
    answered = [(one.prompt, response) for one in candidates for response in one.responses]
    claims = {
        response.id: [] if isinstance(some, NotDivided) else [claim.text for claim in some]
        for (_, response), some in zip(answered, divide_all(divider, answered), strict=True)
    }
    most = min(len(one.responses) for one in candidates)
    sizes = [size for size in (2**k for k in range(most.bit_length())) if size <= most]
    return {form: [(size, *_rates(candidates, claims, truth, form, size)) for size in sizes] for form in FORMS}


def _rates(
    candidates: Sequence[Candidates], claims: dict[str, list[str]], truth: Truth, form: Form, size: int
) -> tuple[float, float, float]:
    metric = HallucinationRate()
    for one in candidates:
        for start in range(0, len(one.responses) - size + 1, size):
            best = one.responses[one.best(form, slice(start, start + size))]
            said = claims[best.id]
            metric.update(
                claim_truths=[[truth.holds(one.prompt.id, text) for text in said]],
                covered=[truth.covered(one.prompt.id, said)],
                present=[len(truth.facts(one.prompt.id))],
                words=[len(best.text.split())],
            )
    found = metric.compute()
    return float(found["hallucination/response"]), float(found["coverage"]), float(found["length/words"])


def _write_curve(out: Path, curve: dict[Form, list[tuple[int, float, float, float]]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["form", "n", "hallucination/response", "coverage", "length/words"])
    table = Table("score", "N", "response hallucination", "coverage", "words", box=None)
    for form, points in curve.items():
        for size, *values in points:
            writer.writerow([form, size, *(round(value, 6) for value in values)])
            table.add_row(form, str(size), *(f"{value:.3f}" for value in values[:2]), f"{values[2]:.1f}")
    write_text(out / "curve.csv", text.getvalue())
    lines = tuple(
        Series(form, tuple((k, point[1]) for k, point in enumerate(points))) for form, points in curve.items()
    )
    names = {float(k): str(point[0]) for k, point in enumerate(curve["mean"])}
    chart = LineChart("Best of N", "response hallucination", "N candidates", lines, x_names=names)
    write_text(out / "curve.svg", standalone_svg(chart))
    console.print(table)
    console.print(f"curve: {out / 'curve.svg'}", soft_wrap=True)


if __name__ == "__main__":
    main()
