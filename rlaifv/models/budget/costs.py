"""What each stage of an iteration costs: tokens and FLOPs for average answers, working memory for the longest ones.

On the tree, for N prompts with K answers of R tokens, c claims an answer with questions of q tokens, and E epochs over a
answers in n trees. P is a prompt's length with its image, F the language model, H its head, V an image's encoding:

    generate     N * (V + F(P; K branches of R) + H(K R))
    score        N * (V + F(P'; K c branches of q) + H(K c))                  in the labeler, whose prefix P' differs
    rewards      N * (V + F(P; K branches of R))                              in every reward model
    reference    n * (V + F(P; a/n branches of R) + H(a R / n))               once, whatever E; logps and base alike
    values       n * (V + F(P; a/n branches of R))                            in the policy, if the critic reads its states
    train        E n * (F(P; a/n branches of R) * (1 + backward + recomputed) + H(a R / n) * (2 + backward))

`backward` is 2 where the language model trains, and 1 where gradients only pass through it to adapters or projector. Batches
that hold fewer records than a prompt has make more trees in training. The head is counted as recomputed, which it is where
more than one chunk of tokens is scored; reward models and critics do not use it. A critic with a backbone of its own trains as
the policy does. For LLaVA-1.5-7B with P = 606 and R = 100, F of one pair is 10.6 TFLOP, against 18.5 for two separate
sequences. Dividing answers into claims by rules costs nothing; by a chat model, it is not counted here.
"""

from collections.abc import Sequence
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

    def forward(self, num_trees: int, num_branches: int, branch_tokens: int, num_scored: int) -> tuple[int, int]:
        """Return tokens and FLOPs of a pass over trees with so many branches together, their images' encoding included."""
        tokens = num_trees * self.prefix_tokens + num_branches * branch_tokens
        flops = num_trees * (self.cost.vision_flops + self.cost.projector_flops)
        flops += self.language_flops(num_trees, num_branches, branch_tokens) + self.cost.head_flops(num_scored)
        return tokens, flops + 2 * self.num_adapters * tokens

    def language_flops(self, num_trees: int, num_branches: int, branch_tokens: int) -> int:
        """Return FLOPs of the language model on trees with so many branches together, without its head."""
        prefixes = (num_trees - 1) * self.cost.language_flops(self.prefix_tokens)
        return prefixes + self.cost.language_flops(self.prefix_tokens, num_branches, branch_tokens)


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


def together(costs: Sequence[StageCost]) -> StageCost:
    """Return the cost of passes one after another."""
    tokens, flops = sum(cost.num_tokens for cost in costs), sum(cost.flops for cost in costs)
    return StageCost(tokens, flops, max((cost.working_bytes for cost in costs), default=0))


def generate(worker: Worker, workload: Workload, setup: Setup) -> StageCost:
    """Sample the answers."""
    answers, length = workload.num_answers, workload.average_tokens
    in_flight = prompts_in_flight(worker, workload, setup)
    working = sampling_cache_bytes(worker, workload, setup)
    working += inference_bytes(
        worker.cost, in_flight * worker.prefix_tokens, worker.prefix_tokens, worker.element_bytes
    )
    working += head_bytes(worker.cost, in_flight * workload.num_responses, worker.element_bytes)
    return StageCost(*worker.forward(workload.num_prompts, answers, length, answers * length), working)


def score(worker: Worker, workload: Workload, setup: Setup) -> StageCost:
    """Put the questions to the labeler; only the token after each is looked at."""
    questions, length = workload.questions_per_prompt, workload.question_tokens
    of_tree = worker.prefix_tokens + questions * length
    at_once = min(workload.num_prompts, max(1, setup.batch_tokens // of_tree))
    working = inference_bytes(worker.cost, at_once * of_tree, of_tree, worker.element_bytes)
    working += head_bytes(worker.cost, at_once * questions, worker.element_bytes)
    questions *= workload.num_prompts
    return StageCost(*worker.forward(workload.num_prompts, questions, length, questions), working)


def rewards(worker: Worker, workload: Workload, setup: Setup) -> StageCost:
    """Let a reward model score all answers."""
    return _read(worker, workload, setup, workload.num_prompts, workload.num_answers, reads_words=False)


def logps(worker: Worker, workload: Workload, setup: Setup) -> StageCost:
    """Return log-probs of all answers that train, before training starts."""
    trees = workload.num_trees
    return _read(worker, workload, setup, trees, workload.answers_of(workload.num_records, trees), reads_words=True)


def values(worker: Worker, workload: Workload, setup: Setup) -> StageCost:
    """Return what the critic expects before each token."""
    trees = workload.num_trees
    return _read(worker, workload, setup, trees, workload.answers_of(workload.num_records, trees), reads_words=False)


def _read(
    worker: Worker, workload: Workload, setup: Setup, trees: int, answers: int, *, reads_words: bool
) -> StageCost:
    """Run so many answers in so many trees, with the vocabulary or without."""
    length = workload.average_tokens
    longest = worker.prefix_tokens + -(-answers // trees) * workload.max_new_tokens
    at_once = min(trees, max(1, setup.batch_tokens // longest))
    working = inference_bytes(worker.cost, at_once * longest, longest, worker.element_bytes)
    working += reads_words * head_bytes(worker.cost, HEAD_CHUNK_TOKENS, worker.element_bytes)
    return StageCost(*worker.forward(trees, answers, length, reads_words * answers * length), working)


def train(worker: Worker, workload: Workload, setup: Setup, trained_bytes: int) -> StageCost:
    """Train on the records; `working_bytes` are activations, without gradients."""
    cost, trees = worker.cost, _training_trees(worker, workload, setup)
    branches, length = workload.answers_of(workload.num_records, trees), workload.average_tokens
    tokens = trees * worker.prefix_tokens + branches * length
    backward = 2 if setup.trains("language_model") else 1
    flops = worker.language_flops(trees, branches, length) * (1 + backward + setup.recompute)
    flops += workload.reads_words * cost.head_flops(branches * length) * (2 + backward)
    flops += trees * cost.projector_flops * (3 if setup.trains("projector") else 1)
    flops += worker.num_adapters * tokens * (6 + 2 * setup.recompute)
    if setup.trains("vision"):
        flops += trees * 3 * cost.vision_flops
    elif not setup.features_are_cached:
        flops += trees * cost.vision_flops
    working = _activation_bytes(worker, workload, setup, trained_bytes)
    return StageCost(workload.epochs * tokens, workload.epochs * flops, working)


def _training_trees(worker: Worker, workload: Workload, setup: Setup) -> int:
    """Return trees of an epoch."""
    if not setup.train_tokens:
        return workload.num_batch_trees(setup.train_records)
    of_record = workload.answers_of(1) * workload.average_tokens
    fit = max(1, (setup.train_tokens - worker.prefix_tokens) // of_record)
    return workload.num_trees * -(-workload.records_per_tree // fit)


def _longest_batch(worker: Worker, workload: Workload, setup: Setup) -> tuple[int, int, int]:
    """Return rows of the longest training batch, tokens of a row, and tokens that are scored in it."""
    if setup.train_tokens:
        scored = workload.answers_of(1) * workload.max_new_tokens
        longest = max(worker.prefix_tokens + scored, setup.train_tokens)
        return 1, longest, longest - worker.prefix_tokens
    records = min(setup.train_records or workload.records_per_tree, workload.num_records)
    of_row = min(records, workload.records_per_tree)
    scored = workload.answers_of(of_row) * workload.max_new_tokens
    rows = -(-records // of_row)
    return rows, worker.prefix_tokens + scored, rows * scored


def _activation_bytes(worker: Worker, workload: Workload, setup: Setup, trained_bytes: int) -> int:
    rows, row_tokens, scored = _longest_batch(worker, workload, setup)
    activations = rows * training_activation_bytes(
        worker.cost,
        row_tokens,
        worker.element_bytes,
        trains=setup.trains("language_model"),
        adapter_bytes=trained_bytes if setup.lora_rank else 0,
        recompute=setup.recompute,
    )
    chunk = workload.reads_words * min(scored, HEAD_CHUNK_TOKENS)
    activations += head_bytes(worker.cost, chunk, worker.element_bytes, with_gradients=True)
    return activations + setup.trains("vision") * rows * vision_activation_bytes(worker.cost, worker.element_bytes)
