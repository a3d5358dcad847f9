"""Write the model card of a run: base model, training data, source of the feedback, and measured results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlaifv.report.run import Run
from rlaifv.report.summary import change, headlines, trained_on

TITLES = {
    "hallucination/response": "answers with a false claim",
    "hallucination/mention": "false claims",
    "coverage": "coverage",
    "rejected/response": "answers with a rejected claim",
    "rejected/mention": "rejected claims",
    "length/words": "words per answer",
}


def model_card(run: Run, settings: Mapping[str, Any], license_name: str = "other") -> str:
    """Return a model card in the Hub's format: Markdown with a YAML header.

    Args:
        run: a finished run.
        settings: its configuration as plain values.
        license_name: licence identifier of the weights, which depends on the licences of the base model and the data.
    """
    model = settings["model"]
    base = _place(model["path"])
    metrics = {one.num_iterations: one.metrics for one in run.evaluations}
    rows = [(TITLES.get(name, name), *change(metrics, name)) for name in headlines(metrics)] if metrics else []
    table = [f"| {name} | {before:.3f} | {after:.3f} |" for name, before, after in rows if None not in (before, after)]
    measured = ["", "## Measured on held-out prompts", "", "| | base model | this model |", "|---|---|---|", *table]
    trained_from = f"Trained from `{base}`{_revision(model)}"
    lines = [
        "---",
        f"base_model: {base}",
        f"license: {_plain(license_name)}",
        "library_name: transformers",
        "pipeline_tag: image-text-to-text",
        "tags: [dpo, hallucination]" if _pairs_are_given(settings) else "tags: [rlaif-v, dpo, hallucination]",
        "---",
        "",
        f"# {base.rstrip('/').rpartition('/')[2]}, {_title(settings)}",
        "",
        f"{trained_from} {_how(settings)}",
        "",
        "| | |",
        "|---|---|",
        *_rows(run, settings),
        *(measured if table else []),
        "",
        "Licence: that of the base model, and terms of the prompts and their images, may restrict the use of these weights.",
    ]
    return "\n".join(lines) + "\n"


def _pairs_are_given(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("run") == "train")


def _title(settings: Mapping[str, Any]) -> str:
    if _is_reward_model(settings):
        return "reward model"
    if _is_policy_gradient(settings):
        return f"trained by {_estimator(settings)}"
    if _is_kto(settings):
        return "trained by KTO"
    return "trained on given pairs" if _pairs_are_given(settings) else "aligned with RLAIF-V"


def _how(settings: Mapping[str, Any]) -> str:
    """Return the second half of the sentence that names the base model: how the model was trained."""
    if _pairs_are_given(settings):
        return f"by DPO on the pairs of {_data(settings)}; nothing was sampled or judged."
    if _is_reward_model(settings):
        return (
            "as a reward model: it scores answers, and is no model to ask. `reward_head.json` says what it scores; the labels "
            f"come from {_judge(settings)}."
        )
    if _is_policy_gradient(settings):
        source = (
            "scores of reward models"
            if settings["method"]["reward_models"]
            else f"claims that {_judge(settings)} judges"
        )
        return f"by {_estimator(settings)} on its own answers; the reward is made of {source}."
    other = settings["iteration"].get("chosen_from")
    if _is_kto(settings):
        source = f" and on those of `{_place(other)}`" if other else ""
        return f"by KTO on its own answers{source}, labelled by the claims that {_judge(settings)} judges."
    answers = f"its own answers and those of `{_place(other)}`" if other else "its own answers"
    return (
        f"with feedback on {answers} (RLAIF-V, arXiv 2405.17220): claims are checked by {_judge(settings)}, preferences are "
        "learned by DPO."
    )


def _rows(run: Run, settings: Mapping[str, Any]) -> list[str]:
    """Return the table rows that describe how the model was made; disabled settings are omitted."""
    labeler, learner, iteration = settings["labeler"], settings["learner"], settings["iteration"]
    adapters, other = learner["lora"], iteration.get("chosen_from")
    rows: dict[str, Any] = {}
    if _pairs_are_given(settings):
        rows["data"] = _data(settings)
        rows["iterations"] = iteration["num_iterations"]
    else:
        score, error_rate = iteration["pairing"].get("score", "rejected"), labeler.get("error_rate")
        rows["prompts"] = _data(settings)
        rows["labeler"] = _judge(settings)
        rows["labeler's answers turned around"] = f"{error_rate:.0%}" if error_rate else None
        rows["divider"] = settings["divider"]["_target_"].rpartition(".")[2]
        rows["iterations"] = f"{iteration['num_iterations']}, {iteration['num_responses']} answers a prompt"
        rows["chosen answers from"] = f"`{_place(other)}`" if other else None
        rows["answers scored by"] = (
            score if score != "rejected" and not _is_policy_gradient(settings) and not _is_kto(settings) else None
        )
    kind = "answers" if _is_policy_gradient(settings) else trained_on(run.statistics)[0]
    kind = "labelled answers" if _is_kto(settings) else kind
    rows[kind] = ", ".join(f"{trained_on([numbers])[1]:,}" for numbers in run.statistics)
    rows[f"passes over the {kind}"] = iteration["epochs"]
    rows["trained"] = f"LoRA adapters (rank {adapters['r']})" if adapters else ", ".join(learner["train_parts"])
    if _is_policy_gradient(settings):
        method = settings["method"]
        module, terms = method["learner"]["module"], method["stages"]["reward"]["terms"]
        weights = ", ".join(f"{name} {term.get('weight', 1.0)}" for name, term in terms.items() if term is not None)
        rows["reward"] = f"weights {weights}"
        kl = method["stages"].get("advantages", module)
        rows[_estimator(settings)] = (
            f"clip {module['clip']}, KL weight {kl['kl_weight']}, learning rate {learner['lr']:g}"
        )
    elif _is_reward_model(settings):
        spec = settings["method"]["reward_model"]
        rows["scores"] = ", ".join(spec["heads"]) + (" of segments" if spec["num_classes"] > 1 else "")
        rows["facts"] = f"{spec['facts']!r}" if spec["facts"] else None
        rows["learning rate"] = f"{learner['lr']:g}"
    elif _is_kto(settings):
        label = settings["method"]["stages"]["label"]
        rows["undesirable"] = f"from {label['min_rejected']} rejected claims"
        rows["KTO"] = f"beta {learner['beta']}, learning rate {learner['lr']:g}"
    else:
        rows["loss"] = learner.get("loss")
        rows["DPO"] = f"beta {learner['beta']}, learning rate {learner['lr']:g}, {learner['reduction']} of log-probs"
    rows["seed"] = settings["seed"]
    return [f"| {name} | {value} |" for name, value in rows.items() if value is not None]


def _judge(settings: Mapping[str, Any]) -> str:
    labeler = settings["labeler"]
    return "the policy itself" if labeler["path"] is None else f"`{_place(labeler['path'])}`{_revision(labeler)}"


def _data(settings: Mapping[str, Any]) -> str:
    data = settings["data"]
    return _place(data.get("path") or data["_target_"].rpartition(".")[2]) + _revision(data)


def _place(path: str) -> str:
    """Return a hub id unchanged, and only the last component of an absolute path, to keep local paths private."""
    return _plain(Path(path).name if Path(path).is_absolute() else path)


def _plain(text: str) -> str:
    """Return `text` on one line, without characters that have a meaning in YAML or in a Markdown table."""
    return " ".join(str(text).replace("|", "/").replace("`", "'").replace(": ", " ").split())


def _revision(source: Mapping[str, Any]) -> str:
    return f" (revision `{_plain(source['revision'])}`)" if source.get("revision") else ""


def _is_reward_model(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("method", {}).get("reward_model"))


def _is_policy_gradient(settings: Mapping[str, Any]) -> bool:
    return "reward" in settings.get("method", {}).get("stages", {})


def _is_kto(settings: Mapping[str, Any]) -> bool:
    return "label" in settings.get("method", {}).get("stages", {})


def _estimator(settings: Mapping[str, Any]) -> str:
    """Return the name of a policy gradient's estimator, as in GRPO."""
    name = str(settings["method"]["stages"]["reward"]["estimator"])
    return "PPO" if name == "gae" else name.upper()
