"""A transformers model in this process, run on prefix trees: sampling, claim checking and reference log-probs."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from rlaifv.engines.protocol import Advance, ignore_progress
from rlaifv.models.families import FAMILIES
from rlaifv.models.loading import backbone
from rlaifv.models.prompting import EncodedPrompt, Prompter, Sizes, stack_images
from rlaifv.models.sampling import Decoding, Sampled
from rlaifv.models.tree.decoder import sample_branches
from rlaifv.models.tree.packing import (
    Branch,
    PackedTrees,
    Packer,
    Tree,
    batches_by_tokens,
    branch_logps,
    next_token_logps,
    separate,
)
from rlaifv.records import Prompt
from rlaifv.runtime.phases import timed

# A tree with more question tokens than this is split, so that one image with hundreds of claims still fits.
MAX_TREE_TOKENS = 8192
# The most that log-probs of a tree may differ from those of separate sequences before its family is run separately. Rounding
# alone was seen to move them by 8e-6 in float32, 0.02 in float16 and 0.1 in bfloat16, where logits above 16 lie 0.125 apart;
# a mask that is ignored, or positions that are counted wrongly, move them by 1 and more.
MOST_DIFFERENCE = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.05}

# How often the bound of tokens is halved before memory is said to be too small.
MOST_HALVINGS = 6

T = TypeVar("T")
logger = logging.getLogger(__name__)


class LocalEngine:
    """Runs a model, as a policy or a labeler, on its own device.

    Args:
        model: Hugging Face image-text-to-text model, or a PEFT model around one. Its train/eval mode is restored
            after every call.
        prompter: encodes prompts with the model's processor.
        batch_tokens: upper bound of the tokens run at a time, padding included. When memory runs out, it is halved and
            the call starts over; results do not depend on it.
        autocast: run under `torch.autocast` to this type, as the model trains; None computes in the type of its weights.
        without_adapters: run a PEFT model as the model that its adapters were put on.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        prompter: Prompter,
        batch_tokens: int = 16_384,
        autocast: torch.dtype | None = None,
        without_adapters: bool = False,
    ) -> None:
        self.model = model
        self.without_adapters = without_adapters
        self.autocast = autocast
        self.prompter = prompter
        self.batch_tokens = batch_tokens
        is_known = backbone(model).config.model_type in FAMILIES
        self.packer = Packer(prompter.tokenizer.pad_token_id or 0, separately=not is_known)
        self._is_checked = not is_known

    def check(self, prompt: Prompt) -> None:
        """Compare a tree with separate sequences, once per engine, before it first uses trees.

        If they differ by more than rounding, a warning is logged and the packer takes the slow path from then on. The engine
        does this by itself; call it before something else uses the packer. A prompt without an image does not test images,
        so the first one with images is compared again.
        """
        if not self._is_checked:
            self._check(prompt)

    @timed("check")
    def _check(self, prompt: Prompt) -> None:
        encoded = self.prompter.encode(prompt)
        words = [token for token in encoded.ids if token != self.prompter.image_token_id]
        tree = Tree(encoded.ids, (Branch(words[:5]), Branch(words[-4:], context=1), Branch(words[:3])))
        with self.borrowed() as model:
            logps = []
            for packed in (self.packer([tree]), separate([tree], self.packer.pad_id)):
                images = stack_images([encoded for _ in packed.tree_order])
                logps.append(branch_logps(model, packed.to(model.device), _on(model.device, images)))
            dtype = self.autocast or model.dtype
        self._is_checked = bool(prompt.image_paths)
        difference = float((logps[0] - logps[1]).abs().max())
        if not difference <= MOST_DIFFERENCE[dtype]:  # not a number either
            self.packer.separately = self._is_checked = True
            logger.warning(
                "Log-probs of trees differ by %.2g from those of separate sequences in this %r model (%s); it is run on "
                "separate sequences, which takes several times as long.",
                difference,
                model.config.model_type,
                str(dtype).removeprefix("torch."),
            )

    def num_tokens(self, prompt: Prompt, sizes: Sizes | None = None) -> int:
        """Length of an encoded prompt, its images included; they are decoded only where their `sizes` are not given."""
        return len(self.prompter.encode(prompt).ids) if sizes is None else self.prompter.num_tokens(prompt, sizes)

    @property
    def max_positions(self) -> int | None:
        """Maximum tokens of prompt, images and answer together; None if unlimited."""
        text: Any = backbone(self.model).config.get_text_config()
        found: int | None = getattr(text, "max_position_embeddings", None)
        return found or None

    def check_lengths(self, prompts: Sequence[Prompt], num_new_tokens: int, sizes: Sizes | None = None) -> None:
        """Refuse prompts that leave no room for an answer; nothing is ever truncated.

        Args:
            prompts: to be answered.
            num_new_tokens: of the longest answer.
            sizes: (width, height) in pixels of the prompts' images by path, where they are known, see `check_images`.

        Raises:
            ValueError: a prompt with an answer of `num_new_tokens` exceeds the positions that the model was made for.
        """
        for prompt in prompts:
            needed, limit = self.num_tokens(prompt, sizes), self.max_positions
            if limit is not None and needed + num_new_tokens > limit:
                raise ValueError(
                    f"Prompt {prompt.id!r} needs {needed} tokens with its images, and up to {num_new_tokens} for an answer, "
                    f"but the model has {limit} positions; lower iteration.decoding.max_new_tokens, or give it fewer or "
                    "smaller images."
                )

    def within_memory(self, work: Callable[[Advance], T], advance: Advance) -> T:
        """Run `work`, and retry with half as many tokens per batch when memory runs out; progress is reset then.

        Raises:
            ValueError: memory is too small even for the smallest batches.
        """
        allowed = self.batch_tokens
        for halvings in range(MOST_HALVINGS + 1):
            finished: list[int] = []

            def count(num_finished: int, finished: list[int] = finished) -> None:
                finished.append(num_finished)
                advance(num_finished)

            try:
                return work(count)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            # Outside the except clause, whose traceback keeps the tensors alive.
            advance(-sum(finished))
            torch.cuda.empty_cache()
            if halvings < MOST_HALVINGS and self.batch_tokens > 1:
                self.batch_tokens //= 2
                logger.warning("Out of memory (%s): engine.batch_tokens is %d from now on.", reason, self.batch_tokens)
        raise ValueError(
            f"Memory ran out with engine.batch_tokens={allowed}, and still does with {self.batch_tokens} ({reason}); lower "
            "iteration.num_responses or iteration.decoding.max_new_tokens, or take a smaller model."
        )

    @contextmanager
    def borrowed(self) -> Iterator[Any]:
        """Give the backbone in eval mode, without gradients and under `autocast`; restore its modes afterwards."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            model = backbone(self.model)
            is_cast = self.autocast is not None
            peft: Any = self.model
            disabled = peft.disable_adapter() if self.without_adapters else nullcontext()
            with torch.no_grad(), disabled, torch.autocast(model.device.type, self.autocast, enabled=is_cast):
                yield model
        finally:
            for module, was_training in modes:
                module.training = was_training

    def decode(self, token_ids: Sequence[int]) -> str:
        """See `protocol.Sampler`."""
        return self.prompter.decode(token_ids)

    def sample(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        decoding: Decoding,
        advance: Advance = ignore_progress,
    ) -> list[list[Sampled]]:
        """See `protocol.Sampler`."""
        return self.within_memory(partial(self._sample, prompts, seeds, decoding), advance)

    def _sample(
        self, prompts: Sequence[Prompt], seeds: Sequence[Sequence[int]], decoding: Decoding, advance: Advance
    ) -> list[list[Sampled]]:
        if prompts:
            self.check(prompts[0])
        results: dict[int, list[Sampled]] = {}
        with self.borrowed() as model:
            encoded = [self.prompter.encode(prompt) for prompt in prompts]
            for k, answers in self._branches(model, encoded, seeds, decoding):
                results[k] = answers
                advance(1)
        return [results[k] for k in range(len(prompts))]

    def sample_questions(
        self,
        asked: Sequence[tuple[Prompt, Sequence[str]]],
        seeds: Sequence[Sequence[int]],
        decoding: Decoding,
        advance: Advance = ignore_progress,
    ) -> list[list[Sampled]]:
        """Return an answer to each question about each prompt's images; `advance` counts answers.

        Each question is its own conversation, with the same answer as `sample` gives for such a prompt and seed. Questions
        run separately if branches do, or if the chat template puts text before the images.
        """
        return self.within_memory(partial(self._sample_questions, asked, seeds, decoding), advance)

    def _sample_questions(
        self,
        asked: Sequence[tuple[Prompt, Sequence[str]]],
        seeds: Sequence[Sequence[int]],
        decoding: Decoding,
        advance: Advance,
    ) -> list[list[Sampled]]:
        if not asked:
            return []
        self.check(asked[0][0])
        trees = None if self.packer.separately else self._question_trees(asked)
        if trees is None:
            flat = [
                replace(prompt, question=question, system="", history=()) for prompt, some in asked for question in some
            ]
            answers = iter(self._sample(flat, [[seed] for some in seeds for seed in some], decoding, advance))
            return [[answer for (answer,) in islice(answers, len(some))] for _, some in asked]
        images = [self.prompter.encode(prompt).images for prompt, _ in asked]
        encoded = [EncodedPrompt(tuple(tree.prefix), images[owner]) for owner, tree in trees]
        drawn = [iter(some) for some in seeds]
        of_trees = [list(islice(drawn[owner], len(tree.branches))) for owner, tree in trees]
        rests = [[branch.ids for branch in tree.branches] for _, tree in trees]
        found: dict[int, list[Sampled]] = {}
        with self.borrowed() as model:
            for k, answers_of_tree in self._branches(model, encoded, of_trees, decoding, rests):
                found[k] = answers_of_tree
                advance(len(answers_of_tree))
        results: list[list[Sampled]] = [[] for _ in asked]
        for k, (owner, _) in enumerate(trees):
            results[owner] += found[k]
        return results

    def _question_trees(self, asked: Sequence[tuple[Prompt, Sequence[str]]]) -> list[tuple[int, Tree]] | None:
        """Return trees with the index of their prompt, or None if images come after the questions' first difference."""
        trees = []
        for k, (prompt, questions) in enumerate(asked):
            sequences = [self.prompter.question_ids(prompt, question) for question in questions]
            try:
                whole = Tree.from_sequences(sequences, self.prompter.image_token_id)
            except ValueError:
                return None
            trees += [(k, tree) for tree in whole.split(MAX_TREE_TOKENS)]
        return trees

    def _branches(
        self,
        model: Any,
        encoded: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        decoding: Decoding,
        questions: Sequence[Sequence[Sequence[int]]] | None = None,
    ) -> Iterator[tuple[int, list[Sampled]]]:
        tokenizer = self.prompter.tokenizer
        ends = _end_ids(model, tokenizer)
        return sample_branches(
            model,
            encoded,
            seeds,
            decoding,
            end_ids=ends,
            suppressed_ids=sorted({*tokenizer.all_special_ids, *self.prompter.quote.special_ids} - set(ends)),
            batch_tokens=self.batch_tokens,
            separately=self.packer.separately,
            decode=partial(tokenizer.decode, skip_special_tokens=True),
            questions=questions,
        )

    def answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance = ignore_progress
    ) -> list[list[tuple[float, float]]]:
        """See `protocol.Labeler`. All questions about a prompt's images share one prefix."""
        return self.within_memory(partial(self._answer_probabilities, asked), advance)

    def _answer_probabilities(
        self, asked: Sequence[tuple[Prompt, Sequence[str]]], advance: Advance
    ) -> list[list[tuple[float, float]]]:
        yes, no = self.prompter.yes_no_ids()
        token_ids = torch.tensor(yes + no)
        if asked:
            self.check(asked[0][0])
        trees, owners = [], []
        for k, (prompt, questions) in enumerate(asked):
            sequences = [self.prompter.question_ids(prompt, question) for question in questions]
            whole = Tree.from_sequences(sequences, self.prompter.image_token_id)
            for tree in self.packer.split(whole, MAX_TREE_TOKENS):
                trees.append(tree)
                owners.append(k)
        results: list[list[tuple[float, float]]] = [[] for _ in asked]
        with self.borrowed() as model:
            for batch, packed, images in self.batches(model, trees, [asked[k][0] for k in owners]):
                logps = next_token_logps(model, packed, images, token_ids.to(model.device))
                p_yes, p_no = logps[:, : len(yes)].exp().sum(1), logps[:, len(yes) :].exp().sum(1)
                pairs = iter(zip(p_yes.tolist(), p_no.tolist(), strict=True))
                for k in batch:
                    results[owners[k]] += islice(pairs, len(trees[k].branches))
                # A prompt is finished when the last of its trees is.
                advance(sum(k + 1 == len(trees) or owners[k + 1] != owners[k] for k in batch))
        return results

    def completion_logps(
        self, completions: Sequence[tuple[Prompt, Sequence[Sequence[int]]]], advance: Advance = ignore_progress
    ) -> list[list[list[float]]]:
        """Return the log-prob of every token of every completion of each prompt: the reference's side of the DPO ratio."""
        return self.within_memory(partial(self._completion_logps, completions), advance)

    def _completion_logps(
        self, completions: Sequence[tuple[Prompt, Sequence[Sequence[int]]]], advance: Advance
    ) -> list[list[list[float]]]:
        if completions:
            self.check(next((prompt for prompt, _ in completions if prompt.image_paths), completions[0][0]))
        trees = [
            Tree(self.prompter.encode(prompt).ids, tuple(Branch(ids) for ids in answers))
            for prompt, answers in completions
        ]
        results: list[list[list[float]]] = []
        with self.borrowed() as model:
            for batch, packed, images in self.batches(model, trees, [prompt for prompt, _ in completions]):
                branches = iter(packed.split(branch_logps(model, packed, images).cpu()))
                for k in batch:
                    results.append([branch.tolist() for branch in islice(branches, len(trees[k].branches))])
                advance(len(batch))
        return results

    def batches(
        self, model: Any, trees: Sequence[Tree], prompts: Sequence[Prompt]
    ) -> Iterator[tuple[list[int], PackedTrees, dict[str, Any]]]:
        """Yield batches of trees within `batch_tokens`: their numbers, and the packed rows and images on the device."""
        for batch in batches_by_tokens([self.packer.num_tokens(tree) for tree in trees], self.batch_tokens):
            packed = self.packer([trees[k] for k in batch])
            images = stack_images([self.prompter.encode(prompts[batch[k]]) for k in packed.tree_order])
            yield batch, packed.to(model.device), _on(model.device, images)


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory: its own type on a GPU, a RuntimeError known by its words on a CPU."""
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        "not enough memory" in words or "can't allocate memory" in words or "out of memory" in words
    )


def _on(device: torch.device, images: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in images.items()}


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Return tokens that end an answer: the generation config's, and the tokenizer's own."""
    configured = model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None})
