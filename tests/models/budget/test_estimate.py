"""Reference figures: LLaVA-1.5-7B, 10 answers of 100 tokens with 10 claims each, 2 pairs, 4 epochs, for one image.

They were worked out by hand from the published sizes (prompt 576 + 30 tokens, question 576 + 35 + 40) and count the
work of a scheme that runs every shared prefix and every image once.
"""

from dataclasses import replace

import pytest

from rlaifv.models.budget.architecture import architecture_config
from rlaifv.models.budget.estimate import estimate
from rlaifv.models.budget.workload import Setup, Workload

TERA, EXA, GIGA = 1e12, 1e18, 1e9
ONE_IMAGE = Workload(
    num_prompts=1,
    num_responses=10,
    num_records=2,
    epochs=4,
    max_new_tokens=100,
    response_tokens=100,
    prompt_tokens=30,
    claims_per_response=10,
    question_prefix_tokens=35,
    question_tokens=40,
)
# One iteration of the paper: 4,000 instructions, 5,342 pairs.
PAPER = Workload(num_prompts=4000, num_responses=10, num_records=5342, epochs=4, max_new_tokens=512)


@pytest.fixture(scope="module")
def llava():
    return architecture_config("llava-hf/llava-1.5-7b-hf")


def stages(budget):
    return {stage.name: stage for stage in budget.stages}


def teraflops(budget, *names):
    return sum(stages(budget)[name].flops for name in names) / TERA


def test_sampling_and_scoring(llava):
    budget = estimate(llava, ONE_IMAGE, Setup())
    assert teraflops(budget, "generate") == pytest.approx(21.9, rel=0.02)
    assert teraflops(budget, "score") == pytest.approx(61.6, rel=0.02)
    assert budget.prefix_tokens == 606
    assert budget.labeler_prefix_tokens == 611
    assert stages(budget)["generate"].num_tokens == 606 + 1000
    assert stages(budget)["score"].num_tokens == 611 + 100 * 40


@pytest.mark.parametrize(
    ("setup", "epochs", "expected"),
    [
        (Setup(), 4, 34.8),
        (Setup(), 1, 43.1),
        (Setup(recompute=True), 4, 45.4),
        (Setup(recompute=True), 1, 53.7),
        (Setup(lora_rank=8), 4, 24.1),
        (Setup(lora_rank=8, recompute=True), 4, 34.7),
    ],
)
def test_one_step_of_a_pair_with_its_share_of_the_reference(llava, setup, epochs, expected):
    budget = estimate(llava, replace(ONE_IMAGE, epochs=epochs), setup)
    assert teraflops(budget, "reference", "train") / (2 * epochs) == pytest.approx(expected, rel=0.02)


def test_iteration_of_an_image_with_pairs_apart_and_together(llava):
    assert estimate(llava, ONE_IMAGE, Setup()).flops / TERA == pytest.approx(362, rel=0.02)
    together = replace(ONE_IMAGE, records_per_tree=2)
    assert estimate(llava, together, Setup()).flops / TERA == pytest.approx(258, rel=0.02)


def test_34b_labeler(llava):
    labeler = architecture_config("llava-hf/llava-v1.6-34b-hf")
    budget = estimate(llava, ONE_IMAGE, Setup(), labeler)
    assert teraflops(budget, "score") == pytest.approx(492.7, rel=0.02)
    assert budget.num_labeler_parameters / GIGA == pytest.approx(34.75, rel=1e-3)
    assert budget.memory.labeler == 2 * budget.num_labeler_parameters


def test_iteration_of_the_paper(llava):
    budget = estimate(llava, PAPER, Setup())
    expected = {"generate": 0.096, "score": 0.116, "reference": 0.064}
    for name, exaflops in expected.items():
        assert stages(budget)[name].flops / EXA == pytest.approx(exaflops, rel=0.05)


def test_iterations_multiply_flops_and_shards_only(llava):
    one, four = (estimate(llava, replace(PAPER, num_iterations=n), Setup()) for n in (1, 4))
    assert four.flops == 4 * one.flops
    assert four.disk.shards == 4 * one.disk.shards
    assert (four.stages, four.disk.checkpoints) == (one.stages, one.disk.checkpoints)


def test_memory_of_full_training_in_16_bits(llava):
    budget = estimate(llava, PAPER, Setup())
    trained = sum(part.trainable for part in budget.parts)
    assert trained == sum(part.total for part in budget.parts) - 303_507_456  # all but the vision tower
    memory = budget.memory
    assert memory.weights == 2 * sum(part.total for part in budget.parts)
    assert (memory.gradients, memory.optimizer) == (2 * trained, 12 * trained)  # moments and masters in float32
    assert stages(budget)["train"].memory_bytes == memory.held + memory.training == budget.peak_bytes
    # A prompt of 612 tokens is reckoned at 612 + 10 * 256, so 5 fit; if all ran to the bound, at 512 KiB a token:
    assert memory.kv_cache == 5 * (612 + 10 * 512) * 512 * 2**10
    assert stages(budget)["generate"].memory_bytes > memory.held + memory.kv_cache


def test_shards_divide_what_is_held_but_not_activations(llava):
    whole, eighth = (estimate(llava, PAPER, Setup(num_shards=n)).memory for n in (1, 8))
    assert eighth.held == pytest.approx(whole.held / 8, abs=8)
    assert eighth.gradients == whole.gradients // 8
    assert eighth.activations == whole.activations


@pytest.mark.parametrize(
    ("setup", "weight", "trained", "element"),
    [
        (Setup(), 2, 2, 2),  # the checkpoint's float16
        (Setup(dtype="float32"), 2, 2, 2),  # converted
        (Setup(dtype="float32", precision="bf16-mixed"), 4, 4, 2),
        (Setup(dtype="float32", precision="32-true"), 4, 4, 4),
        (Setup(precision="32-true"), 2, 2, 2),
        (Setup(precision="bf16-mixed", lora_rank=8), 2, 4, 2),
        (Setup(precision="bf16-mixed"), 2, 4, 2),
        (Setup(lora_rank=8), 2, 4, 2),  # adapters are float32 in every format
    ],
)
def test_bytes_follow_precision(llava, setup, weight, trained, element):
    assert setup.weight_bytes(llava) == weight
    assert setup.trained_bytes(llava) == trained
    assert setup.element_bytes(llava) == element


def test_autocast_keeps_16_bit_copies(llava):
    mixed = estimate(llava, PAPER, Setup(dtype="float32", precision="bf16-mixed"))
    true = estimate(llava, PAPER, Setup(precision="bf16-true"))
    trained = sum(part.trainable for part in mixed.parts)
    assert mixed.memory.activations == true.memory.activations + 2 * trained
    assert mixed.memory.optimizer == 8 * trained


def test_adapters_train_alone(llava):
    budget = estimate(llava, PAPER, Setup(lora_rank=64))
    assert [part.name for part in budget.parts if part.trainable] == ["adapters"]
    # 64 * (inputs + outputs) of q, k, v, o and of gate, up and down, in 32 layers
    assert budget.parts[-1].total == 32 * 64 * (4 * (4096 + 4096) + 3 * (4096 + 11008))


def test_weights_in_four_bits(llava):
    """Only the language model's 6.7 billion shrink, from 2 bytes to half of one."""
    whole = estimate(llava, PAPER, Setup(lora_rank=64))
    quantized = estimate(llava, PAPER, Setup(lora_rank=64, is_quantized=True))
    assert whole.memory.weights - quantized.memory.weights == pytest.approx(6.61e9 * (2 - 0.516), rel=0.01)
    assert quantized.memory.weights < 5e9
    assert quantized.disk.export == whole.disk.export


def test_what_trains_changes_the_backward_pass(llava):
    projector = estimate(llava, PAPER, Setup(train_parts=("projector",)))
    full = estimate(llava, PAPER, Setup())
    everything = estimate(llava, PAPER, Setup(train_parts=("vision", "projector", "language_model")))
    assert 0.6 < teraflops(projector, "train") / teraflops(full, "train") < 0.7
    assert teraflops(everything, "train") - teraflops(full, "train") == pytest.approx(3 * 0.382 * 4 * 5342, rel=0.01)
    assert all(part.trainable == part.total for part in everything.parts)
    assert everything.memory.activations > full.memory.activations
    uncached = estimate(llava, PAPER, Setup(features_are_cached=False))
    assert teraflops(uncached, "train") - teraflops(full, "train") == pytest.approx(0.382 * 4 * 5342, rel=0.01)


def test_larger_training_batch_and_recompute(llava):
    small, large, recomputed = (
        estimate(llava, PAPER, setup).memory.activations
        for setup in (Setup(), Setup(train_tokens=8192), Setup(train_tokens=8192, recompute=True))
    )
    assert large > 4 * small
    assert recomputed < large / 10


def test_labeler_is_whole_on_every_device(llava):
    """It is no part of the module whose states are sharded."""
    labeler = architecture_config("llava-hf/llava-v1.6-34b-hf")
    whole, eighth = (estimate(llava, PAPER, Setup(num_shards=n), labeler).memory.labeler for n in (1, 8))
    assert whole == eighth > 69e9


def test_disk(llava):
    budget = estimate(llava, PAPER, Setup(kept_checkpoints=2))
    total = sum(part.total for part in budget.parts)
    trained = sum(part.trainable for part in budget.parts)
    assert budget.disk.policy_weights == budget.disk.export == 2 * total
    assert budget.disk.checkpoints == 3 * (2 * trained + 12 * trained)
    assert 50e6 < budget.disk.shards < 500e6
    assert budget.disk.run_dir == budget.disk.checkpoints + budget.disk.export + budget.disk.shards
    chosen_from = estimate(llava, PAPER, Setup(kept_checkpoints=2, candidates_per_epoch=4)).disk
    assert chosen_from.candidates == 8 * 4 * trained  # masters
    assert chosen_from.run_dir == budget.disk.run_dir + chosen_from.candidates


def test_smaller_images_shorten_the_prefix(llava):
    labeler = architecture_config("Qwen/Qwen3-VL-8B-Instruct")
    largest = estimate(llava, ONE_IMAGE, Setup(), labeler)
    typical = estimate(llava, ONE_IMAGE, Setup(), labeler, image_px=(480, 640))
    assert largest.labeler_prefix_tokens == 16384 + 35
    assert typical.labeler_prefix_tokens == 300 + 35
    assert teraflops(typical, "score") < teraflops(largest, "score") / 3


def test_answers_are_no_longer_than_they_may_be(llava):
    budget = estimate(llava, replace(PAPER, max_new_tokens=20), Setup())
    assert stages(budget)["generate"].num_tokens == 4000 * (612 + 10 * 20)


@pytest.mark.parametrize("field", ["num_prompts", "epochs", "records_per_tree"])
def test_workload_without_work_is_refused(field):
    with pytest.raises(ValueError, match=f"workload's {field} is 0, but must be at least 1"):
        replace(PAPER, **{field: 0})
