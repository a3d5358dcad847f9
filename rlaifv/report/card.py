"""The model card of a run: what was trained from what, on which data, with which feedback, and what was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaifv.report.run import Run
from rlaifv.report.summary import change, headlines

TITLES = {
    "hallucination/response": "answers with a false claim",
    "hallucination/mention": "false claims",
    "coverage": "coverage",
    "rejected/response": "answers with a rejected claim",
    "rejected/mention": "rejected claims",
    "length/words": "words per answer",
}


def model_card(run: Run, settings: Mapping[str, Any], license_name: str = "other") -> str:
    """A card in the hub's form, Markdown under a YAML header.

    Args:
        run: a finished run.
        settings: its configuration as plain values.
        license_name: identifier of the weights' licence, which follows from the base model's and the data's.
    """
    model, labeler, data = settings["model"], settings["labeler"], settings["data"]
    learner, iteration = settings["learner"], settings["iteration"]
    base = _place(model["path"])
    judge = "the policy itself" if labeler["path"] is None else f"`{_place(labeler['path'])}`"
    prompts = _place(data.get("path") or data["_target_"].rpartition(".")[2])
    metrics = {one.num_iterations: one.metrics for one in run.evaluations}
    rows = [(TITLES.get(name, name), *change(metrics, name)) for name in headlines(metrics)] if metrics else []
    table = [f"| {name} | {before:.3f} | {after:.3f} |" for name, before, after in rows if None not in (before, after)]
    measured = ["", "## Measured on held-out prompts", "", "| | base model | this model |", "|---|---|---|", *table]
    adapters = learner["lora"]
    trained = f"LoRA adapters (rank {adapters['r']})" if adapters else ", ".join(learner["train_parts"])
    lines = [
        "---",
        f"base_model: {base}",
        f"license: {_plain(license_name)}",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "tags: [rlaif-v, dpo, hallucination]",
        "---",
        "",
        f"# {base.rstrip('/').rpartition('/')[2]}, aligned with RLAIF-V",
        "",
        f"Trained from `{base}`{_revision(model)} with feedback on its own answers (RLAIF-V, arXiv 2405.17220): claims are "
        f"checked by {judge}, preferences are learned by DPO.",
        "",
        "| | |",
        "|---|---|",
        f"| prompts | {prompts} |",
        f"| labeler | {judge} |",
        f"| iterations | {iteration['num_iterations']}, {iteration['num_responses']} answers a prompt |",
        f"| pairs | {', '.join(f'{_pairs(numbers):,}' for numbers in run.statistics)} |",
        f"| trained | {trained} |",
        f"| DPO | beta {learner['beta']}, learning rate {learner['lr']:g}, {learner['reduction']} of log-probs |",
        f"| seed | {settings['seed']} |",
        *(measured if table else []),
        "",
        "Licence: that of the base model, and terms of the prompts and their images, may restrict the use of these weights.",
    ]
    return "\n".join(lines) + "\n"


def _place(path: str) -> str:
    """A hub id as it is; of a place on somebody's disk, which is nobody else's business, its name."""
    return _plain(Path(path).name if Path(path).is_absolute() else path)


def _plain(text: str) -> str:
    """One line that neither the header nor a table can take for more than text."""
    return " ".join(str(text).replace("|", "/").replace("`", "'").replace(": ", " ").split())


def _revision(model: Mapping[str, Any]) -> str:
    return f" (revision `{_plain(model['revision'])}`)" if model.get("revision") else ""


def _pairs(numbers: Mapping[str, float]) -> int:
    return int(numbers.get("pairs_kept", 0))
