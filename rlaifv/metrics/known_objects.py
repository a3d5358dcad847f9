"""The formulas of the field's benchmarks on images whose objects are known: descriptions by CHAIR and AMBER, answers to yes/no
questions by AMBER and POPE.

Yes/no questions are answered twice. Asked, the model says one token, greedily; told, its description says yes where it names
the object, as in offline POPE (arXiv 2403.00425, section 5.2). What it knows when asked and does not say untold is the room
that feedback from itself has.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from rlaifv.engines.protocol import Advance, Sampler, ignore_progress
from rlaifv.metrics.amber_discriminative import AMBERDiscriminative, Kind, amber_score
from rlaifv.metrics.amber_generative import AMBERGenerative, Lexicon
from rlaifv.metrics.chair import COLUMNS, count_mentions
from rlaifv.metrics.pope import pope_scores, read_answer
from rlaifv.metrics.truth import BenchmarkQuestion, KnownObjects
from rlaifv.models.sampling import Decoding
from rlaifv.records import Prompt, Response
from rlaifv.stages.generate import generate
from rlaifv.stages.score import WORDING

SPLITS = ("random", "popular", "adversarial")
# Colour is the one attribute of these worlds; AMBER counts it among the states.
KINDS: dict[str, Kind] = {"existence": "existence", "attribute": "state", "relation": "relation"}


def benchmark_rates(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    policy: Sampler,
    truth: KnownObjects,
    question_suffix: str = WORDING.suffix,
    advance: Advance = ignore_progress,
) -> dict[str, float]:
    """Return the benchmarks' numbers, as shares in [0, 1]; one that is undefined, because nothing was said, is absent.

    - `chair/chair_s`, `chair/chair_i`, `chair/recall`: of kinds of objects, the last words of their names
    - `amber/chair`, `amber/cover`, `amber/hal`, `amber/cog`: of objects
    - `amber/existence`, `amber/attribute`, `amber/relation`: accuracy; `amber/f1` and `amber/score`: over all three
    - `pope/{random,popular,adversarial}/accuracy`, and means of the three: `pope/f1`, `pope/yes_ratio`
    - `pope_told/…`: the same, read off descriptions

    Args:
        prompts: those that were answered.
        responses: one answer to each, which describes its image.
        policy: answers the questions.
        truth: knows the objects, and asks.
        question_suffix: asks for yes or no, and is appended to every question.
        advance: called with 0 before the policy is asked, so that a run can be stopped there.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    texts = {response.prompt_id: response.text for response in responses}
    questions = [question for question in truth.benchmark_questions() if question.prompt_id in texts]
    answers = _ask(questions, by_id, policy, question_suffix, advance)
    told = [
        "Yes" if question.object_name in truth.objects_named(texts[question.prompt_id]) else "No"
        for question in questions
    ]
    return (
        _chair(texts, truth)
        | _amber(texts, truth, questions, answers)
        | _pope("pope", questions, answers)
        | _pope("pope_told", questions, told)
    )


def _ask(
    questions: Sequence[BenchmarkQuestion],
    prompts: dict[str, Prompt],
    policy: Sampler,
    suffix: str,
    advance: Advance,
) -> list[str]:
    """Return one greedy token each; a question that comes again, in another split, is asked once."""
    distinct = {(question.prompt_id, question.text): k for k, question in enumerate(questions)}
    asked = [
        replace(prompts[prompt_id], id=f"{prompt_id}/{k}", question=text + suffix)
        for (prompt_id, text), k in distinct.items()
    ]
    said = generate(asked, policy, Decoding(temperature=0, max_new_tokens=1), 1, 0, lambda _: advance(0))
    answers = dict(zip(distinct, (response.text for response in said), strict=True))
    return [answers[question.prompt_id, question.text] for question in questions]


def _chair(texts: dict[str, str], truth: KnownObjects) -> dict[str, float]:
    counts = dict.fromkeys(COLUMNS, 0)
    for prompt_id, text in texts.items():
        mentions = [(name, _kind(name)) for name in truth.objects_named(text)]
        found = count_mentions(mentions, {_kind(name) for name in truth.objects(prompt_id)}, text)
        counts = {name: counts[name] + value for name, value in zip(COLUMNS, found, strict=True)}
    shares = {
        "chair/chair_s": ("hallucinating", "texts"),
        "chair/chair_i": ("hallucinated", "mentions"),
        "chair/recall": ("correct_classes", "truth_classes"),
    }
    return {name: counts[part] / counts[whole] for name, (part, whole) in shares.items() if counts[whole]}


def _kind(name: str) -> str:
    return name.rpartition(" ")[2]


def _amber(
    texts: dict[str, str], truth: KnownObjects, questions: Sequence[BenchmarkQuestion], answers: Sequence[str]
) -> dict[str, float]:
    # One rank measures alone while the others wait, so the metrics must not wait for them.
    objects = {prompt_id: truth.objects(prompt_id) for prompt_id in texts}
    likely = {prompt_id: truth.likely_objects(prompt_id) for prompt_id in texts}
    named = {prompt_id: truth.objects_named(text) for prompt_id, text in texts.items()}
    words = {name for of_images in (objects, likely, named) for names in of_images.values() for name in names}
    lexicon = Lexicon({word: () for word in words})
    described = AMBERGenerative(len(texts), lexicon, rounded=False, sync_on_compute=False)
    described.update(list(named.values()), list(objects.values()), list(likely.values()))
    scores = {name: value.item() for name, value in described.compute().items()}
    asked = [
        (KINDS[question.kind.removeprefix("amber/")], answer, "yes" if question.is_true else "no")
        for question, answer in zip(questions, answers, strict=True)
        if question.kind.startswith("amber/")
    ]
    if asked:
        kinds, replies, truths = zip(*asked, strict=True)
        yes_no = AMBERDiscriminative(len(asked), rounded=False, sync_on_compute=False)
        yes_no.update(replies, truths, cast(Sequence[Kind], kinds))
        found = {name: value.item() for name, value in yes_no.compute().items()}
        scores |= {name: found[f"{name}/accuracy"] for name in KINDS}
        scores |= {"f1": found["f1"], "score": amber_score(scores["chair"], found["f1"])}
    return {f"amber/{name}": value / 100 for name, value in scores.items()}


def _pope(group: str, questions: Sequence[BenchmarkQuestion], answers: Sequence[str]) -> dict[str, float]:
    found = {}
    for split in SPLITS:
        mine = [
            (read_answer(answer), "yes" if question.is_true else "no")
            for question, answer in zip(questions, answers, strict=True)
            if question.kind == f"pope/{split}"
        ]
        if mine:
            replies, truths = zip(*mine, strict=True)
            # Where the script would divide by zero, since a model never says yes, F1 is 0, as two evaluation suites have it.
            found[split] = pope_scores(replies, truths, parser="vlmevalkit")
    rates = {f"{group}/{split}/accuracy": scores["accuracy"] for split, scores in found.items()}
    for name in ("f1", "yes_ratio") if found else ():
        rates[f"{group}/{name}"] = sum(scores[name] for scores in found.values()) / len(found)
    return rates
