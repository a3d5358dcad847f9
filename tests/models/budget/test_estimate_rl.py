"""What policy gradients, critics and reward models cost beside the policy: LLaVA-1.5-7B for all of them.

An image and 36 tokens of text are 612 tokens; 4,000 prompts have 10 answers of 110 tokens on average.
"""

from dataclasses import replace

import pytest

from rlaifv.data.training_set import PromptBatchSampler
from rlaifv.models.budget.architecture import architecture_config
from rlaifv.models.budget.estimate import Beside, estimate
from rlaifv.models.budget.workload import Setup, Workload
from rlaifv.records import Rollout

# Parameters of LLaVA-1.5-7B, and those of its vision tower.
ALL, VISION = 7_063_427_072, 303_507_456
# A token's logits: hidden size times vocabulary, multiply and add.
HEAD_FLOPS = 2 * 4096 * 32064
STAGES = ("generate", "rewards", "logps", "values", "base", "train")
PPO = Workload(
    num_prompts=4000,
    num_responses=10,
    num_records=40000,
    records_per_tree=10,
    record="answers",
    stages=STAGES,
    epochs=2,
    max_new_tokens=512,
)
ADAPTERS = Setup(lora_rank=64)


@pytest.fixture(scope="module")
def llava():
    return architecture_config("llava-hf/llava-1.5-7b-hf")


@pytest.fixture(scope="module")
def with_reward_model(llava):
    return estimate(llava, PPO, ADAPTERS, beside=Beside(reward_models=(llava,)))


def stages(budget):
    return {stage.name: stage for stage in budget.stages}


def test_a_reward_model_holds_one_more_copy_of_the_weights(llava, with_reward_model):
    alone = estimate(llava, PPO, ADAPTERS)
    assert with_reward_model.memory.reward_models == 2 * ALL
    assert with_reward_model.memory.held - alone.memory.held == 2 * ALL
    for name in ("generate", "logps", "train"):
        assert stages(with_reward_model)[name].memory_bytes - stages(alone)[name].memory_bytes == 2 * ALL
    wide = estimate(llava, PPO, replace(ADAPTERS, dtype="float32"), beside=Beside(reward_models=(llava, llava)))
    assert wide.memory.reward_models == 2 * 4 * ALL  # loaded as model.dtype says, whatever the training's precision


def test_reward_models_read_every_answer_without_the_vocabulary(llava, with_reward_model):
    found = stages(with_reward_model)
    plain = stages(estimate(llava, PPO, Setup()))["generate"]  # the same trees, with the head and without adapters
    assert found["rewards"].num_tokens == 4000 * (612 + 10 * 110)
    assert found["rewards"].flops == plain.flops - 40000 * 110 * HEAD_FLOPS
    two = stages(estimate(llava, PPO, ADAPTERS, beside=Beside(reward_models=(llava, llava))))["rewards"]
    assert (two.flops, two.num_tokens) == (2 * found["rewards"].flops, 2 * found["rewards"].num_tokens)


def test_base_model_is_a_second_copy_or_the_policy_without_adapters(llava, with_reward_model):
    full = estimate(llava, PPO, Setup())
    assert full.memory.base == 2 * ALL
    assert [(part.name, part.total) for part in full.beside] == [("base model", ALL)]
    memory, found = with_reward_model.memory, stages(with_reward_model)
    assert memory.base == 0
    adapters = with_reward_model.parts[-1].total
    assert memory.weights == 2 * ALL + 4 * adapters
    assert found["logps"].flops - found["base"].flops == 2 * adapters * found["logps"].num_tokens
    without = estimate(llava, replace(PPO, stages=("generate", "logps", "values", "train")), Setup())
    assert without.memory.base == 0
    assert [part.name for part in without.beside] == []


def test_values_are_another_pass_of_the_policy(with_reward_model):
    found = stages(with_reward_model)
    assert found["logps"].flops - found["values"].flops == 40000 * 110 * HEAD_FLOPS
    assert "critic" not in found


def test_a_critic_of_its_own_trains_as_the_policy(llava):
    one, two = (estimate(llava, PPO, Setup(), beside=beside) for beside in (Beside(), Beside(critic=llava)))
    trained = ALL - VISION
    assert two.memory.critic == 2 * ALL
    assert two.memory.gradients == 2 * one.memory.gradients == 2 * 2 * trained
    assert two.memory.optimizer == 2 * one.memory.optimizer == 2 * 12 * trained
    assert two.memory.update == one.memory.update  # a chunk of gradients at a time
    # The chunk of 1,024 tokens has logits of 2 and 4 bytes, and their gradients; the critic has none.
    assert 2 * one.memory.activations - two.memory.activations == 1024 * 32064 * 6 * 2
    found = stages(two)
    # Each of two epochs: forward, recomputed, and a backward pass of two forwards, of the head.
    assert found["train"].flops - found["critic"].flops == 2 * 4 * 40000 * 110 * HEAD_FLOPS
    assert found["train"].memory_bytes == found["critic"].memory_bytes == two.peak_bytes
    assert two.disk.checkpoints == 2 * one.disk.checkpoints
    assert two.disk.export == one.disk.export
    assert (two.beside[-1].total, two.beside[-1].trainable) == (ALL, trained)


def test_a_critic_is_never_in_four_bits(llava):
    quantized = estimate(llava, PPO, replace(ADAPTERS, is_quantized=True), beside=Beside(critic=llava))
    assert quantized.memory.critic == 2 * ALL + 4 * quantized.parts[-1].total


def test_reward_model_trains_without_the_vocabulary(llava):
    """Eight comparisons of ten answers share them all: ten branches."""
    work = replace(
        PPO,
        stages=("generate", "score", "train"),
        record="comparisons",
        num_records=32000,
        records_per_tree=8,
        reads_words=False,
    )
    found, ppo = estimate(llava, work, Setup()), estimate(llava, PPO, Setup())
    assert list(stages(found)) == ["generate", "score", "train"]
    assert work.answers_per_tree == 10
    assert stages(found)["train"].num_tokens == stages(ppo)["train"].num_tokens == 2 * 4000 * (612 + 10 * 110)
    difference = stages(ppo)["train"].flops - stages(found)["train"].flops
    assert difference == 2 * 4 * 40000 * 110 * HEAD_FLOPS


@pytest.mark.parametrize(("size", "trees"), [(1, 40000), (5, 8000), (10, 4000), (15, 5333)])
def test_small_batches_run_a_prompt_once_for_each(llava, size, trees):
    """In fifteens, every 30 answers are two batches that part one of three prompts: 1,333 times four trees, and one."""
    found = stages(estimate(llava, PPO, Setup(train_records=size)))["train"]
    assert found.num_tokens == 2 * (trees * 612 + 40000 * 110)


@pytest.mark.parametrize(("per_prompt", "size"), [(3, 2), (4, 6), (5, 5), (2, 7), (10, 8)])
def test_trees_are_those_of_the_batches_that_are_made(per_prompt, size):
    records = [Rollout(f"{k}", f"{k // per_prompt}", (5,), True, 0, 0, 0.0, 0.0) for k in range(13 * per_prompt)]
    batches = PromptBatchSampler(records, size, seed=0)
    made = sum(len({records[index].prompt_id for index in batch}) for batch in batches)
    work = replace(PPO, num_prompts=13, num_records=len(records), records_per_tree=per_prompt)
    assert work.num_batch_trees(size) == made


def test_a_batch_by_tokens_parts_what_does_not_fit(llava):
    """Beside 612 tokens of prompt, 1,000 have room for three answers of 110, so ten make four trees."""
    found = stages(estimate(llava, PPO, Setup(train_tokens=1000)))["train"]
    assert found.num_tokens == 2 * (4 * 4000 * 612 + 40000 * 110)


def test_longest_batch_takes_as_much_as_its_rows(llava):
    work = replace(PPO, reads_words=False)
    one, two = (estimate(llava, work, Setup(train_records=size)).memory.activations for size in (10, 20))
    assert two == 2 * one
    five = estimate(llava, replace(work, max_new_tokens=256), Setup(train_records=10)).memory.activations
    assert five == estimate(llava, work, Setup(train_records=5)).memory.activations  # 2,560 tokens after the prompt


def test_what_only_samples_trains_nothing(llava):
    found = estimate(llava, replace(PPO, stages=("generate", "score")), Setup(candidates_per_epoch=4))
    assert (found.memory.optimizer, found.memory.training) == (0, 0)
    assert found.disk.run_dir == found.disk.shards
    trained_on = estimate(llava, replace(PPO, stages=("logps", "train")), Setup())
    assert trained_on.memory.kv_cache == 0


def test_tables_of_a_critic_hold_twelve_numbers_a_token(llava):
    """Five in one table, seven in the other: 12 * 8 * 110 bytes and 200 of an answer; GRPO has ids and log-probs."""
    ppo, grpo = (
        estimate(llava, replace(PPO, stages=names), Setup()).disk.shards
        for names in (("generate", "logps", "values", "train"), ("generate", "logps", "train"))
    )
    assert ppo - grpo == 40000 * 10 * 8 * 110
    scored = estimate(
        llava, replace(PPO, stages=("generate", "logps", "train")), Setup(), beside=Beside(reward_models=(llava,))
    )
    assert scored.disk.shards - grpo == 40000 * 200
