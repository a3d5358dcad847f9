"""Implementations compared by the DPO step benchmark: ours, TRL's DPOTrainer, and a conventional DPO step.

All train copies of the same weights on the same pairs with a frozen vision tower, load and preprocess the images, clip
gradients, and update with fused AdamW. Our reference forward runs once per iteration, so every step includes
1 / EPOCHS of its time.
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from rlaifv.data.images import load_image
from rlaifv.data.training_set import PromptBatchSampler, TrainingSet
from rlaifv.engines.local import LocalEngine
from rlaifv.learners.dpo.batch import PreferenceCollator
from rlaifv.learners.dpo.module import DPOModule
from rlaifv.learners.optimizer import MasterAdamW
from rlaifv.learners.precision import WeightsAsLoaded
from rlaifv.models.loading import backbone, select_trainable
from rlaifv.models.prompting import Prompter
from rlaifv.records import Pair, Prompt
from tools.bench.harness import EPOCHS, Meter, Size

BETA, LEARNING_RATE, MAX_NORM = 0.1, 1e-6, 1.0
LORA = {"r": 64, "lora_alpha": 16, "lora_dropout": 0.0}


@dataclass(frozen=True, slots=True)
class Task:
    """Inputs shared by all sides."""

    size: Size
    model: nn.Module
    prompter: Prompter
    prompts: list[Prompt]
    pairs: list[Pair]
    pairs_per_prompt: int
    batch_size: int
    lora: bool
    recompute: bool
    meter: Meter
    directory: Path

    def policy(self) -> Any:
        """Return a trainable copy of the model: projector and language model, or LoRA adapters."""
        model = copy.deepcopy(self.model).train()
        if self.recompute:
            model.gradient_checkpointing_enable()  # type: ignore[operator]
        return select_trainable(model, ["projector", "language_model"], LORA if self.lora else None)

    @property
    def num_steps(self) -> int:
        return len(self.pairs) // self.batch_size


class _Ticks:
    """End times of optimizer steps; the difference of two includes the data loading of the later step."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.times: list[float] = []

    def between(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.times)]


class _LightningTicks(_Ticks, Callback):
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.times.append(self.meter.now())


class _TransformersTicks(_Ticks, TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.times.append(self.meter.now())


class Ours:
    """This package's DPO step, run by its own trainer."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.policy = task.policy()
        engine = LocalEngine(self.policy, task.prompter)
        by_prompt = {prompt.id: [pair for pair in task.pairs if pair.prompt_id == prompt.id] for prompt in task.prompts}
        asked = [
            (prompt, [ids for pair in by_prompt[prompt.id] for ids in (pair.chosen_token_ids, pair.rejected_token_ids)])
            for prompt in task.prompts
        ]
        found: list[list[list[float]]] = []

        def refer() -> None:
            found[:] = engine.completion_logps(asked)

        engine.completion_logps(asked[:1])
        self.reference_seconds = task.meter.seconds(refer) / task.num_steps
        logps = iter(one for of_prompt in found for one in of_prompt)
        self.pairs = [
            replace(pair, chosen_reference_logps=tuple(next(logps)), rejected_reference_logps=tuple(next(logps)))
            for prompt in task.prompts
            for pair in by_prompt[prompt.id]
        ]

    def run(self) -> list[float]:
        """Return the seconds of each step, including its share of the reference forward."""
        task = self.task
        optimizer = partial(MasterAdamW, lr=LEARNING_RATE)
        ticks = _LightningTicks(task.meter)
        loader = DataLoader(
            TrainingSet(task.prompts, self.pairs),
            batch_sampler=PromptBatchSampler(self.pairs, task.batch_size, seed=0),
            collate_fn=PreferenceCollator(LocalEngine(self.policy, task.prompter)),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on loader workers and devices
            Trainer(
                accelerator="gpu" if task.meter.device.type == "cuda" else "cpu",
                devices=1,
                plugins=[WeightsAsLoaded()] if task.size.dtype == "bfloat16" else None,  # as in train.py
                max_epochs=1,
                gradient_clip_val=MAX_NORM,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                callbacks=[ticks],
            ).fit(DPOModule(self.policy, optimizer, BETA, schedule="constant", warmup_ratio=0.0), loader)
        return [seconds + self.reference_seconds / EPOCHS for seconds in ticks.between()]


class Trl:
    """TRL's trainer with its best settings for images: frozen tower, no truncation, recomputation only on request."""

    def __init__(self, task: Task) -> None:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        self.task = task
        self.ticks = _TransformersTicks(task.meter)
        prompts = {prompt.id: prompt for prompt in task.prompts}
        rows = [
            {
                "images": [load_image(path) for path in prompts[pair.prompt_id].image_paths],
                "prompt": [{"role": "user", "content": prompts[pair.prompt_id].question}],
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
            }
            for pair in task.pairs
        ]
        model = copy.deepcopy(task.model).train()
        if not task.lora:
            select_trainable(model, ["projector", "language_model"])
        config = DPOConfig(
            output_dir=str(task.directory),
            per_device_train_batch_size=task.batch_size,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            max_grad_norm=MAX_NORM,
            beta=BETA,
            optim="adamw_torch_fused",
            lr_scheduler_type="constant",
            gradient_checkpointing=task.recompute,
            bf16=False,  # the weights themselves have the requested dtype
            max_length=None,
            logging_steps=1000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=task.meter.device.type == "cpu",
        )
        self.trainer = DPOTrainer(
            model,  # type: ignore[arg-type]
            ref_model=None if task.lora else copy.deepcopy(task.model),  # type: ignore[arg-type]
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=copy.deepcopy(task.prompter.processor),
            peft_config=LoraConfig(target_modules=_language_linears(model), **LORA) if task.lora else None,  # type: ignore[arg-type]
            callbacks=[self.ticks],
        )

    def run(self) -> list[float]:
        self.ticks.times.clear()
        self.trainer.train()
        return self.ticks.between()


class Conventional:
    """Conventional DPO: chosen and rejected are full sequences with an image each; the reference runs in every step."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.policy = task.policy()
        self.reference = copy.deepcopy(task.model)

    def run(self) -> list[float]:
        task, times = self.task, []
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        optimizer = MasterAdamW(parameters, lr=LEARNING_RATE)
        for batch in self._batches():
            policy = conventional_logps(backbone(self.policy), batch)
            with torch.no_grad():
                reference = conventional_logps(self.reference, batch)
            chosen, rejected = (policy - reference).chunk(2)
            (-logsigmoid(BETA * (chosen - rejected))).mean().backward()
            nn.utils.clip_grad_norm_(parameters, MAX_NORM)
            optimizer.step()
            optimizer.zero_grad()
            times.append(task.meter.now())
        return [later - earlier for earlier, later in pairwise(times)]

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        task = self.task
        prompts = {prompt.id: prompt for prompt in task.prompts}
        for start in range(0, len(task.pairs), task.batch_size):
            pairs = task.pairs[start : start + task.batch_size]
            encoded = [task.prompter.encode(prompts[pair.prompt_id]) for pair in pairs] * 2
            answers = [pair.chosen_token_ids for pair in pairs] + [pair.rejected_token_ids for pair in pairs]
            longest = max(len(one.ids) + len(ids) for one, ids in zip(encoded, answers, strict=True))
            padding = [longest - len(one.ids) - len(ids) for one, ids in zip(encoded, answers, strict=True)]
            couples = list(zip(encoded, answers, padding, strict=True))
            batch = {
                "input_ids": torch.tensor([[*one.ids, *ids, *[0] * pad] for one, ids, pad in couples]),
                "attention_mask": torch.tensor([[1] * (longest - pad) + [0] * pad for _, _, pad in couples]),
                "completion_mask": torch.tensor(
                    [[0] * len(one.ids) + [1] * len(ids) + [0] * pad for one, ids, pad in couples]
                ),
                "pixel_values": torch.cat([one.images["pixel_values"] for one in encoded]),
            }
            yield {name: tensor.to(task.meter.device) for name, tensor in batch.items()}


def conventional_logps(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the completion log-prob of each sequence, float[2 * pairs]; only completion tokens go through the head."""
    scored = batch["completion_mask"][:, 1:].bool()
    hidden = model.base_model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        pixel_values=batch["pixel_values"].to(model.dtype),
        use_cache=False,
    ).last_hidden_state[:, :-1][scored]
    logits = model.get_output_embeddings()(hidden).float()
    targets = batch["input_ids"][:, 1:][scored]
    logps = -nn.functional.cross_entropy(logits, targets, reduction="none")
    return torch.stack([part.sum() for part in logps.split(scored.sum(1).tolist())])


def _language_linears(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("model.language_model.")
    ]
