"""Which twin stands for the model of each experiment, and what is replaced: what this machine lacks, and sizes."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "configs" / "experiment"

MACHINE = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.strategy=auto")
SIZES = (
    "iteration.num_iterations=2",
    "iteration.num_prompts=6",
    "iteration.num_responses=4",
    "iteration.shard_prompts=3",
    "iteration.epochs=2",
    "iteration.min_pairs=2",
    "iteration.decoding.max_new_tokens=40",
    "data.num_held_out=4",
)
# At the published rates a few steps move nothing that could be seen.
FULL_LR, ADAPTER_LR = "learner.lr=2e-4", "learner.lr=2e-3"
NUM_PROMPTS = 16
GIVEN_SIZES = ("data.num_held_out=4",)
WORLD_SIZES = (
    "iteration.num_iterations=2",
    "iteration.num_prompts=16",
    "iteration.num_responses=8",
    "iteration.shard_prompts=8",
    "iteration.min_pairs=1",
    "iteration.decoding.max_new_tokens=60",
    "data.num_held_out=4",
    "learner.batch_size=4",
)


@dataclass(frozen=True)
class Experiment:
    """How an experiment is run on twins.

    Attributes:
        policy: a name of `tests.twins.families.FAMILIES`; None is the embedded model.
        labeler: the same of a labeler that the experiment names by a path of its own.
        lr: a size too.
        is_slow: whether only `make twins` and `make test-all` run it.
    """

    policy: str | None
    labeler: str | None = None
    lr: str = FULL_LR
    is_slow: bool = True


EXPERIMENTS = {
    "llava7b_self": Experiment("llava7b", is_slow=False),
    "llava7b_self_lora": Experiment("llava7b", lr=ADAPTER_LR, is_slow=False),
    "llava7b_self_qlora": Experiment("llava7b", lr=ADAPTER_LR),
    "llava7b_next34b": Experiment("llava7b", "next34b"),
    "llava7b_rlhfv": Experiment("llava7b", is_slow=False),
    "llava13b_rlhfv": Experiment("llava13b"),
    "llava7b_fact_rlhf": Experiment("llava7b", lr=ADAPTER_LR, is_slow=False),
    "llava7b_fgaif": Experiment("llava7b", lr=ADAPTER_LR),
    "llava7b_morlaif": Experiment("llava7b", lr=ADAPTER_LR),
    # Its architecture is not to be had: the experiment's own way out is a converted directory, which LLaVA's twin stands for.
    "omnilmm12b_self": Experiment("llava7b"),
    "qwen25vl7b_self": Experiment("qwen25", lr=ADAPTER_LR, is_slow=False),
    "qwen3vl8b_self": Experiment("qwen3", lr=ADAPTER_LR),
} | {
    f"ablation/{name}": Experiment(None, lr="learner.lr=2e-5")
    for name in (
        "labeler_60",
        "labeler_75",
        "labeler_90",
        "mean_logps",
        "method",
        "no_length_balance",
        "one_iteration",
        "other_model",
        "whole_response",
    )
}
EXPERIMENTS |= {
    name: Experiment(None)
    for name in (
        *(f"rl/{method}" for method in ("fact_rlhf", "fgaif", "grpo_claims", "morlaif", "rloo_claims")),
        *(f"reward_model/{what}" for what in ("facts", "no_facts", "principles", "segments")),
        *(f"flame/{what}" for what in ("dpo", "flame", "plain_sft", "sft")),
    )
}

# Experiments that others name as `before`, and run first.
EARLIER = {f"reward_model/llava7b_{what}" for what in ("facts", "principles", "segments")}


def experiment_files() -> list[str]:
    """Names of all experiments, as they are typed."""
    return sorted(str(path.relative_to(DIRECTORY).with_suffix("")) for path in DIRECTORY.rglob("*.yaml"))


def replaced(name: str) -> list[str]:
    """Overrides of an experiment, besides where models, data and the run lie."""
    experiment = EXPERIMENTS[name]
    if experiment.policy is None:
        is_one = name == "ablation/one_iteration" or name.startswith("reward_model/")
        return [size for size in WORLD_SIZES if not is_one or "num_iterations" not in size]
    sizes = GIVEN_SIZES if name.endswith("rlhfv") else SIZES
    return [*MACHINE, *sizes, experiment.lr]
