"""Preflight screen of a run: what is trained, what it costs, whether it fits this machine, and where it is written."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import constants
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rlaifv.models.budget.architecture import weights_on_disk
from rlaifv.models.budget.estimate import RunBudget

_PART_LABELS = {"vision": "vision tower", "language_model": "language model", "adapters": "LoRA adapters"}
_SIZES = (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


@dataclass(frozen=True, slots=True)
class Volume:
    """One destination of the run's files, with its needed and free bytes. `filesystem` identifies the disk."""

    label: str
    path: Path
    needed_bytes: int
    free_bytes: int
    filesystem: int


@dataclass(frozen=True, slots=True)
class Place:
    """Machine and destinations of a run. `labeler` names the model that judges claims; None means the policy itself."""

    policy: str
    labeler: str | None
    device: str
    device_bytes: int
    volumes: tuple[Volume, ...]


def look_around(
    budget: RunBudget,
    *,
    policy: str,
    labeler: str | None,
    run_dir: Path,
    device: torch.device,
    revision: str | None = None,
    labeler_revision: str | None = None,
) -> Place:
    """Inspect this machine: its device, its disks, and which weights are already on them.

    Args:
        budget: the estimate of the run.
        policy: directory or hub id of the model to train.
        labeler: directory or hub id of the labeler, or a name for the server that runs it; None for the policy itself.
        run_dir: run directory; need not exist yet.
        device: the first device that the run will use.
        revision: revision of the policy's hub id.
        labeler_revision: revision of the labeler's hub id.
    """
    wanted = [("download policy", budget.disk.policy_weights, policy, revision)]
    if labeler and budget.num_labeler_parameters:
        wanted.append(("download labeler", budget.disk.labeler_weights, labeler, labeler_revision))
    volumes = [
        _volume(label, Path(constants.HF_HUB_CACHE), size)
        for label, size, path, commit in wanted
        if not weights_on_disk(path, commit)
    ]
    volumes.append(_volume("run directory", run_dir.absolute(), budget.disk.run_dir))
    name, device_bytes = _describe(device)
    return Place(policy, labeler, name, device_bytes, tuple(volumes))


def shortfalls(budget: RunBudget, place: Place) -> list[str]:
    """Return one sentence per resource that does not suffice; empty if everything fits."""
    sentences = []
    if budget.peak_bytes > place.device_bytes:
        worst = max(budget.stages, key=lambda stage: stage.memory_bytes)
        needs, has = format_size(worst.memory_bytes), format_size(place.device_bytes)
        sentences.append(
            f"The stage {worst.name!r} needs about {needs}B of memory, but {place.device} has {has}B; lower the batch, "
            "train adapters only (LoRA), or shard over more devices."
        )
    for filesystem in dict.fromkeys(volume.filesystem for volume in place.volumes):
        here = [volume for volume in place.volumes if volume.filesystem == filesystem]
        needed, free = sum(volume.needed_bytes for volume in here), min(volume.free_bytes for volume in here)
        if needed > free:
            sentences.append(
                f"The run writes about {format_size(needed)}B to the disk of {here[0].path}, where only "
                f"{format_size(free)}B are free; free some, or choose another disk (run directory, HF_HOME)."
            )
    return sentences


def preflight_table(budget: RunBudget, place: Place, name: str = "") -> RenderableType:
    """Return the preflight screen for `console.print`: about 35 lines of at most 100 characters.

    Args:
        budget: the estimate.
        place: the machine.
        name: of a run that comes before another one, whose screen follows.
    """
    missing = [Text(f"! {sentence}", style="bold red") for sentence in shortfalls(budget, place)]
    sides = Table.grid(padding=(0, 4))
    sides.add_row(_parts_table(budget), _tokens_table(budget))
    return Group(
        Rule(f"{name and f'first {name}: '}policy {place.policy}, labeler {place.labeler or 'the same'}", align="left"),
        sides,
        "",
        _stages_table(budget),
        "",
        _memory_text(budget, place),
        "",
        _disk_table(place),
        *missing,
        *([""] if name else []),
    )


def format_size(number: float) -> str:
    """Format a number with three significant digits and a decimal prefix, to be followed by its unit.

    >>> format_size(7_063_427_072) + "B", format_size(950), format_size(1.2e18) + "FLOP"
    ('7.06 GB', '950 ', '1.20 EFLOP')
    """
    for prefix, unit in _SIZES:
        if number >= unit * 0.9995:
            return f"{number / unit:#.3g}".rstrip(".") + f" {prefix}"
    return f"{number:.0f} "


def _count(number: int) -> str:
    """Format a number of parameters, with B instead of G for billions."""
    return format_size(number).replace("G", "B").strip()


def _table(title: str, *columns: str) -> Table:
    """Create a table; the first column and those named "where" or "of" are left-aligned, all others right-aligned."""
    table = Table(
        title=title, title_justify="left", title_style="bold italic", box=None, pad_edge=True, header_style="dim"
    )
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k == 0 or column in ("where", "of") else "right", overflow="fold")
    return table


def _parts_table(budget: RunBudget) -> Table:
    table = _table("model", "part", "parameters", "trains")
    for part in budget.parts:
        trains = _count(part.trainable) if part.trainable else "frozen"
        table.add_row(_PART_LABELS.get(part.name, part.name), _count(part.total) if part.total else "tied", trains)
    table.add_row(
        "policy",
        _count(sum(p.total for p in budget.parts)),
        _count(sum(p.trainable for p in budget.parts)),
        style="bold",
    )
    if budget.num_labeler_parameters:
        table.add_row("labeler", _count(budget.num_labeler_parameters), "frozen")
    for part in budget.beside:
        table.add_row(part.name, _count(part.total), _count(part.trainable) if part.trainable else "frozen")
    return table


def _tokens_table(budget: RunBudget) -> Table:
    work = budget.workload
    longest = budget.prefix_tokens + work.answers_per_tree * work.max_new_tokens
    table = _table("tokens", "what", "number", "of")
    table.add_row(
        "prompt", f"{budget.prefix_tokens:,}", f"image {budget.image.num_tokens:,}, text {work.prompt_tokens}"
    )
    table.add_row("answer", f"{work.average_tokens:,}", f"on average; at most {work.max_new_tokens:,}")
    if "score" in work.stages:
        table.add_row("question", f"{work.question_tokens:,}", f"after {budget.labeler_prefix_tokens:,} shared ones")
    table.add_row("tree", f"{longest:,}", f"at most: a prompt, {work.answers_per_tree} answers")
    return table


def _stages_table(budget: RunBudget) -> Table:
    work = budget.workload
    answers, records = f"{work.num_answers:,} answers", f"{work.num_records:,} {work.record}"
    num_models = len([part for part in budget.beside if part.name == "reward model"])
    trained = f"{records} × {work.epochs} epoch{'s' if work.epochs > 1 else ''}"
    labels = {
        "generate": ("generate", f"{work.num_prompts:,} prompts × {work.num_responses} answers"),
        "score": ("score", f"{work.num_prompts * work.questions_per_prompt:,} questions"),
        "rewards": ("reward models", f"{answers} × {num_models} models")
        if num_models > 1
        else ("reward model", answers),
        "reference": ("reference log-probs", records),
        "logps": ("log-probs", records),
        "values": ("critic's values", records),
        "base": ("base model's log-probs", records),
        "train": ("train", trained),
        "critic": ("train critic", trained),
    }
    table = _table("one iteration", "stage", "of", "tokens", "FLOP", "share", "memory/device")
    total = sum(stage.flops for stage in budget.stages)
    for stage in budget.stages:
        share, memory = f"{stage.flops / total:.0%}", f"{format_size(stage.memory_bytes)}B"
        table.add_row(*labels[stage.name], format_size(stage.num_tokens), format_size(stage.flops), share, memory)
    peak = f"{format_size(budget.peak_bytes)}B"
    tokens = format_size(sum(stage.num_tokens for stage in budget.stages))
    table.add_row("all", "", tokens, format_size(total), "", peak, style="bold")
    if work.num_iterations > 1:
        table.add_row(f"{work.num_iterations} iterations", "", "", format_size(budget.flops), "", peak, style="bold")
    return table


def _memory_text(budget: RunBudget, place: Place) -> Text:
    memory = budget.memory
    num_trained = sum(part.trainable for part in (*budget.parts, *budget.beside)) // budget.setup.num_shards
    has_masters = memory.optimizer > 10 * num_trained  # 12 bytes per parameter instead of 8
    weights = {
        "policy": memory.weights,
        "labeler": memory.labeler,
        "chosen answers": memory.chosen_from,
        "reward models": memory.reward_models,
        "base model": memory.base,
        "critic": memory.critic,
    }
    training = {
        "AdamW with float32 masters" if has_masters else "AdamW": memory.optimizer,
        "gradients": memory.gradients,
        "AdamW's update" if memory.update > memory.activations else "activations": max(
            memory.update, memory.activations
        ),
    }
    lines = {"weights": weights, "training": training, "sampling": {"key-value cache": memory.kv_cache}}
    text = Text.assemble(("memory\n", "bold italic"))
    for name, terms in lines.items():
        if found := ", ".join(f"{term} {format_size(size)}B" for term, size in terms.items() if size):
            shards = budget.setup.num_shards if name == "training" else 1
            text.append(f" {name + ':':9} {found}" + (f" (split over {shards} devices)" if shards > 1 else "") + "\n")
    return text.append(f" device:   {place.device}, {format_size(place.device_bytes)}B")


def _disk_table(place: Place) -> Table:
    table = _table("disk", "what", "where", "needed", "free")
    for volume in place.volumes:
        table.add_row(
            volume.label, str(volume.path), f"{format_size(volume.needed_bytes)}B", f"{format_size(volume.free_bytes)}B"
        )
    return table


def _volume(label: str, path: Path, needed_bytes: int) -> Volume:
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return Volume(label, path, needed_bytes, shutil.disk_usage(existing).free, existing.stat().st_dev)


def _describe(device: torch.device) -> tuple[str, int]:
    """Return the name and memory in bytes of a device; for the CPU, the memory of the machine."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} ({properties.name})", properties.total_memory
    return "this machine (CPU)", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
