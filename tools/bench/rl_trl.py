"""TRL's GRPOTrainer as a side of the policy-gradient benchmark."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from rlaifv.data.images import load_image
from rlaifv.records import Prompt
from tools.bench.harness import Meter


class _Stopwatch(TrainerCallback):
    """Seconds of the last optimizer step, from rollouts to zeroed gradients; loading the row is left out."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.start, self.seconds = meter, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.start = self.meter.now()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds = self.meter.now() - self.start


class Trl:
    """TRL's trainer on given answers and advantages, with the settings that are fastest for it.

    All answers are one batch, nothing is recomputed in the backward pass, weights have the size's own dtype, and attention
    is the model's (SDPA). A rollout function hands over the answers, and a reward function their advantages. Its reference
    model is the policy itself: the KL penalty is to the policy as the step begins, as on the other sides, so that its pass
    for the reference is the others' pass for old log-probs.

    Args:
        policy: trained in place; shared with the other sides.
        processor: of the model.
        prompt: with one image.
        prompt_ids: of the prompt.
        answers: ids of each.
        advantages: float[N], with a mean of 0.
        kl_weight: of the penalty.
        learning_rate: constant.
        max_norm: gradients are clipped to it.
        meter: of time.
        directory: for what the trainer writes.
    """

    def __init__(
        self,
        policy: Any,
        processor: Any,
        prompt: Prompt,
        prompt_ids: Sequence[int],
        answers: Sequence[Sequence[int]],
        advantages: Tensor,
        kl_weight: float,
        learning_rate: float,
        max_norm: float,
        meter: Meter,
        directory: Path,
    ) -> None:
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer

        num, given = len(answers), advantages.tolist()
        images = [load_image(path) for path in prompt.image_paths]
        self.row = {"images": images, "prompt": [{"role": "user", "content": prompt.question}]}
        self.num_answers, self.watch = num, _Stopwatch(meter)
        config = GRPOConfig(
            output_dir=str(directory),
            per_device_train_batch_size=num,
            num_generations=num,
            max_completion_length=max(map(len, answers)),
            max_steps=1,
            learning_rate=learning_rate,
            max_grad_norm=max_norm,
            optim="adamw_torch_fused",
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            bf16=False,  # the weights themselves have the requested dtype
            loss_type="grpo",
            scale_rewards="none",
            use_bias_correction_kl=False,
            beta=0.0,  # set below; here it would load a second model
            logging_steps=1000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=meter.device.type == "cpu",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rollout functions are called experimental
            self.trainer = GRPOTrainer(
                policy,
                reward_funcs=lambda completions, **_: given,
                args=config,
                train_dataset=Dataset.from_list([self.row]),
                processing_class=processor,
                callbacks=[self.watch],
                rollout_func=lambda prompts, _: {
                    "prompt_ids": [list(prompt_ids)] * num,
                    "completion_ids": [list(ids) for ids in answers],
                    "logprobs": None,
                },
            )
        self.trainer.remove_callback(PrinterCallback)
        self.trainer.beta, self.trainer.ref_model = kl_weight, policy

    def logps(self) -> Tensor:
        """Return the log-probs float[S] that its pass for the reference hands to its loss."""
        found: Any = self.trainer._generate_and_score_completions([self.row] * self.num_answers)
        return found["ref_per_token_logps"][found["completion_mask"].bool()]

    def step(self) -> float:
        """Make old log-probs and one optimizer step, and return the seconds."""
        self.trainer.train()
        return self.watch.seconds
