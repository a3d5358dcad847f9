"""What each stage of an iteration costs: tokens and FLOPs for average answers, working memory for the longest ones.

On the tree, for N prompts with K answers of R tokens, c claims an answer with questions of q tokens, n pairs in trees
of m, and E epochs. P is a prompt's length with its image, F the language model, H its head, V an image's encoding:

    generate     N * (V + F(P; K branches of R) + H(K R))
    score        N * (V + F(P'; K c branches of q) + H(K c))                  in the labeler, whose prefix P' differs
    reference    n/m * (V + F(P; 2m branches of R) + H(2m R))                 once, whatever E
    train        E n/m * (F(P; 2m branches of R) * (1 + backward + recomputed) + H(2m R) * (2 + backward))

`backward` is 2 where the language model trains, and 1 where gradients only pass through it to adapters or projector.
The head is counted as recomputed, which it is where more than one chunk of tokens is scored. For LLaVA-1.5-7B with P = 606
and R = 100, F of one pair is 10.6 TFLOP, against 18.5 for two separate sequences. Dividing answers into claims by rules
costs nothing; by a chat model, it is not counted here.
"""

from dataclasses import dataclass

from rlaifv.models.budget.flops import ModelCost
from rlaifv.models.budget.memory import (
    head_bytes,
    inference_bytes,
    kv_cache_bytes,
    training_activation_bytes,
    vision_activation_bytes,
)
from rlaifv.models.budget.workload import Setup, Workload
from rlaifv.models.tree.decoder import expected_slots
from rlaifv.models.tree.packing import HEAD_CHUNK_TOKENS


@dataclass(frozen=True, slots=True)
class Worker:
    """A model at work: its cost, its trees' prefix (image included), bytes of an activation, adapter weights."""

    cost: ModelCost
    prefix_tokens: int
    element_bytes: int
    num_adapters: int = 0

    def tree(self, num_branches: int, branch_tokens: int, num_scored: int, *, adapters: bool = True) -> tuple[int, int]:
        """Return tokens and FLOPs of one forward pass over a tree, its image's encoding included."""
        tokens = self.prefix_tokens + num_branches * branch_tokens
        flops = self.cost.vision_flops + self.cost.projector_flops
        flops += self.cost.language_flops(self.prefix_tokens, num_branches, branch_tokens)
        flops += self.cost.head_flops(num_scored)
        return tokens, flops + 2 * self.num_adapters * tokens * adapters


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage of an iteration: tokens through the language model, FLOPs, and bytes beside what is always held."""

    num_tokens: int
    flops: int
    working_bytes: int


def prompts_in_flight(worker: Worker, workload: Workload, setup: Setup) -> int:
    """Return prompts sampled at a time: those that the local engine reckons to fit, as most answers end early."""
    slots = expected_slots(worker.prefix_tokens, workload.num_responses, workload.max_new_tokens)
    return min(workload.num_prompts, max(1, setup.batch_tokens // slots))


def sampling_cache_bytes(worker: Worker, workload: Workload, setup: Setup) -> int:
    """Return keys and values while sampling, if no answer ends early; a prompt's are held once for all its answers."""
    slots = worker.prefix_tokens + workload.num_responses * workload.max_new_tokens
    return kv_cache_bytes(worker.cost, prompts_in_flight(worker, workload, setup) * slots, worker.element_bytes)


def generate(worker: Worker, workload: Workload, setup: Setup) -> StageCost:
    """Sample the answers."""
    answers, length = workload.num_responses, workload.average_tokens
    tokens, flops = worker.tree(answers, length, answers * length)
    in_flight = prompts_in_flight(worker, workload, setup)
    working = sampling_cache_bytes(worker, workload, setup)
    working += inference_bytes(
        worker.cost, in_flight * worker.prefix_tokens, worker.prefix_tokens, worker.element_bytes
    )
    working += head_bytes(worker.cost, in_flight * answers, worker.element_bytes)
    return StageCost(workload.num_prompts * tokens, workload.num_prompts * flops, working)


def score(worker: Worker, workload: Workload, setup: Setup) -> StageCost:
    """Put the questions to the labeler; only the token after each is looked at."""
    questions = workload.questions_per_prompt
    tokens, flops = worker.tree(questions, workload.question_tokens, questions)
    at_once = min(workload.num_prompts, max(1, setup.batch_tokens // tokens))
    working = inference_bytes(worker.cost, at_once * tokens, tokens, worker.element_bytes)
    working += head_bytes(worker.cost, at_once * questions, worker.element_bytes)
    return StageCost(workload.num_prompts * tokens, workload.num_prompts * flops, working)


def reference(worker: Worker, workload: Workload, setup: Setup) -> StageCost:
    """Return log-probs of all pairs before training starts, adapters switched off."""
    answers, length = workload.answers_per_tree, workload.average_tokens
    tokens, flops = worker.tree(answers, length, answers * length, adapters=False)
    longest = worker.prefix_tokens + answers * workload.max_new_tokens
    at_once = min(workload.num_trees, max(1, setup.batch_tokens // longest))
    working = inference_bytes(worker.cost, at_once * longest, longest, worker.element_bytes)
    working += head_bytes(worker.cost, HEAD_CHUNK_TOKENS, worker.element_bytes)
    return StageCost(workload.num_trees * tokens, workload.num_trees * flops, working)


def train(worker: Worker, workload: Workload, setup: Setup, trained_bytes: int) -> StageCost:
    """Train on the pairs; `working_bytes` are activations, without gradients."""
    cost, answers, length = worker.cost, workload.answers_per_tree, workload.average_tokens
    tokens = worker.prefix_tokens + answers * length
    backward = 2 if setup.trains("language_model") else 1
    flops = cost.language_flops(worker.prefix_tokens, answers, length) * (1 + backward + setup.recompute)
    flops += cost.head_flops(answers * length) * (2 + backward)
    flops += cost.projector_flops * (3 if setup.trains("projector") else 1)
    flops += worker.num_adapters * tokens * (6 + 2 * setup.recompute)
    if setup.trains("vision"):
        flops += 3 * cost.vision_flops
    elif not setup.features_are_cached:
        flops += cost.vision_flops
    passes = workload.epochs * workload.num_trees
    return StageCost(passes * tokens, passes * flops, _activation_bytes(worker, workload, setup, trained_bytes))


def _activation_bytes(worker: Worker, workload: Workload, setup: Setup, trained_bytes: int) -> int:
    scored = workload.answers_per_tree * workload.max_new_tokens
    activations = training_activation_bytes(
        worker.cost,
        max(worker.prefix_tokens + scored, setup.train_tokens),
        worker.element_bytes,
        trains=setup.trains("language_model"),
        adapter_bytes=trained_bytes if setup.lora_rank else 0,
        recompute=setup.recompute,
    )
    chunk = min(scored, HEAD_CHUNK_TOKENS)
    activations += head_bytes(worker.cost, chunk, worker.element_bytes, with_gradients=True)
    return activations + setup.trains("vision") * vision_activation_bytes(worker.cost, worker.element_bytes)
