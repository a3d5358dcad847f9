"""Allowed values of the settings, as tables keyed by setting."""

from typing import get_args

from rlaifv.data.rows import FORMATS
from rlaifv.learners.dpo.losses import Loss
from rlaifv.stages.answer_scores import Score

AT_LEAST = {
    "iteration.num_iterations": 1,
    "iteration.num_prompts": 1,
    "iteration.num_responses": 2,
    "iteration.epochs": 1,
    "iteration.min_pairs": 1,
    "iteration.shard_prompts": 1,
    "iteration.decoding.max_new_tokens": 1,
    "iteration.decoding.top_k": 0,
    "iteration.pairing.max_pairs_per_prompt": 1,
    "iteration.selection.per_epoch": 0,
    "learner.batch_size": 1,
    "learner.batch_tokens": 0,
    "learner.row_tokens": 0,
    "learner.lora.r": 1,
    "engine.batch_tokens": 1,
    "engine.feature_store_bytes": 0,
    "divider.max_claims": 1,
    "divider.max_new_tokens": 1,
    "divider.batch_size": 1,
    "divider.num_parallel": 1,
    "divider.num_retries": 0,
    "data.num_held_out": 0,
    "data.num_rows": 1,
    "evaluation.num_examples": 0,
    "min_free_bytes": 0,
    "rank_timeout_seconds": 1,
    "seed": 0,
}
ABOVE_ZERO = (
    "learner.beta",
    "learner.lr",
    "learner.changed_weight",
    "iteration.decoding.repetition_penalty",
    "iteration.pairing.margin",
    "iteration.pairing.score_weight",
)
# Inclusive ranges.
BETWEEN = {
    "iteration.max_drop_rate": (0, 1),
    "iteration.pairing.max_length_gap": (0, 1),
    "iteration.selection.min_claims": (0, 1),
    "labeler.min_canary_accuracy": (0, 1),
    "labeler.error_rate": (0, 1),
    "learner.warmup_ratio": (0, 1),
}
OTHER_NUMBERS = (
    "iteration.decoding.temperature",
    "iteration.decoding.top_p",
    "learner.label_smoothing",
    "learner.nll_weight",
    "learner.weight_decay",
)
USUAL_PARTS = {"projector", "language_model"}  # the default of every learner in configs/
LARGEST_SEED = 2**32 - 1  # NumPy's limit
NULLABLE = ("data.num_rows", "iteration.num_prompts", "labeler.min_canary_accuracy")
SWITCHES = (
    "data.reuse_prompts",
    "data.streaming",
    "divider.truncate",
    "iteration.pairing.keep_accepted",
    "iteration.pairing.length_balance",
    "labeler.trust_remote_code",
    "learner.recompute",
    "learner.normalize_weights",
    "learner.reset_optimizer",
    "model.trust_remote_code",
    "preflight_only",
    "verbose",
)
CHOICES = {
    "run": ("full", "label", "train"),
    "data.form": tuple(FORMATS),
    "data.turns": ("first", "all"),
    "model.dtype": ("float32", "bfloat16", "float16", "auto"),
    "labeler.dtype": ("float32", "bfloat16", "float16", "auto"),
    "model.quantization": ("none", "nf4"),
    "model.attention": ("auto", "sdpa", "eager", "flex_attention"),
    "iteration.pairing.order": ("paper", "reference"),
    "iteration.pairing.score": get_args(Score),
    "iteration.selection.by": ("labeler", "truth", "last"),
    "learner.reduction": ("sum", "mean", "weighted"),
    "learner.loss": get_args(Loss),
    "learner.schedule": ("cosine", "linear", "constant"),
    "trainer.precision": ("32-true", "bf16-mixed", "bf16-true", "16-mixed"),
}
# Trainer arguments that `train.py` always sets itself.
RESERVED = (
    "callbacks",
    "default_root_dir",
    "enable_checkpointing",
    "enable_model_summary",
    "logger",
    "max_epochs",
    "reload_dataloaders_every_n_epochs",
    "use_distributed_sampler",
)
