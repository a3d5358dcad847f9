"""Glossary of the metrics in a report: name in the files, label, unit and definition."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from rlaifv.report.benchmarks import TABLES

Unit = Literal["share", "count", "mean", "seconds"]
MISSING = "–"


@dataclass(frozen=True, slots=True)
class Entry:
    """A metric. `better` is the direction of improvement, or None if neither direction is better."""

    label: str
    unit: Unit
    definition: str
    better: Literal["lower", "higher"] | None = None


ENTRIES = {
    "hallucination/response": Entry(
        "Response hallucination",
        "share",
        "Answers that state at least one false claim, out of all answers.",
        "lower",
    ),
    "hallucination/mention": Entry(
        "Mention hallucination", "share", "False claims, out of all claims in all answers.", "lower"
    ),
    "coverage": Entry(
        "Coverage",
        "share",
        "Objects of the image that its answer names correctly, out of all objects. It guards against a model that "
        "avoids mistakes by saying less.",
        "higher",
    ),
    "rejected/response": Entry(
        "Answers with a rejected claim",
        "share",
        "Answers of the evaluation with at least one claim that the labeler rejects, out of all answers. It is the "
        "labeler's opinion, which can be wrong, not the truth.",
        "lower",
    ),
    "rejected/mention": Entry(
        "Rejected claims",
        "share",
        "Claims of the evaluation's answers that the labeler rejects, out of all claims.",
        "lower",
    ),
    "length/words": Entry("Words per answer", "mean", "Mean number of words in an answer of the evaluation."),
    "claims_per_response": Entry(
        "Claims per answer", "mean", "Mean number of atomic claims that an answer divides into."
    ),
    "labeler/accuracy": Entry(
        "Labeler accuracy",
        "share",
        "Yes/no questions with a known answer that the labeler answers right. A coin reaches 50%.",
        "higher",
    ),
    "labeler/agreement": Entry(
        "Labeler agreement",
        "share",
        "Verdicts on the sampled answers' claims that equal the truth, where it is known, unknown verdicts left out. "
        "It is for measuring only: no label is made from it.",
        "higher",
    ),
    "labeler/canary_accuracy": Entry(
        "Canaries right",
        "share",
        "Questions with known answers, asked beside every shard of claims, that the labeler answers right. Some come with an "
        "order to answer otherwise, in the image or in the question.",
        "higher",
    ),
    "labeler/flagged_shards": Entry(
        "Shards flagged",
        "count",
        "Shards of claims beside which the labeler answered too few canaries right; its verdicts there are in doubt.",
        "lower",
    ),
    "responses": Entry("Answers", "count", "Answers sampled from the policy in the iteration."),
    "claims": Entry("Claims", "count", "Atomic claims in those answers."),
    "claims_repeated": Entry(
        "Claims repeated",
        "count",
        "Claims that their answer had made before. Each counts, but is asked about once.",
        "lower",
    ),
    "rejection_rate": Entry(
        "Claims rejected", "share", "Claims of the sampled answers that the labeler rejected (p_yes not above p_no)."
    ),
    "unknown_rate": Entry(
        "Claims unknown",
        "share",
        "Claims of the sampled answers without a verdict, because neither yes nor no had a usable probability.",
    ),
    "questions_asked": Entry(
        "Questions asked",
        "count",
        "Yes/no questions put to the labeler; the same question about the same image is asked once.",
    ),
    "pairs_kept": Entry("Pairs kept", "count", "Preference pairs that the policy was trained on in the iteration."),
    "pairs_possible": Entry(
        "Pairs possible",
        "count",
        "Pairs that differ in text and, by the margin, in score: before the cap per prompt and the length balance.",
    ),
    "rollouts_kept": Entry(
        "Answers kept", "count", "Rewarded answers that the policy was trained on in the iteration."
    ),
    "targets": Entry("Targets", "count", "Answers that the policy was fine-tuned on in the iteration."),
    "targets/person": Entry("Targets by people", "count", "Those of them that a person wrote."),
    "targets/policy": Entry(
        "Targets of its own", "count", "Those that the policy itself gave, and the labeler accepted."
    ),
    "length/target_tokens": Entry("Tokens per target", "mean", "Mean number of tokens of the targets."),
    "prompts/fact": Entry("Prompts about facts", "count", "Prompts that ask for facts of their image."),
    "prompts/other": Entry("Other prompts", "count", "Prompts that ask for something else."),
    "prompts/unknown": Entry(
        "Prompts of no kind", "count", "Prompts that were routed nowhere; nothing is made of them."
    ),
    "answers_kept": Entry(
        "Answers labelled", "count", "Answers with a label that the policy was trained on in the iteration."
    ),
    "answers/desirable": Entry("Answers, desirable", "count", "Labelled answers whose claims were all accepted."),
    "answers/undesirable": Entry("Answers, undesirable", "count", "Labelled answers with rejected claims."),
    "answers/desirable_weight": Entry("Weight, desirable", "mean", "Weight of a desirable answer in the loss."),
    "answers/undesirable_weight": Entry("Weight, undesirable", "mean", "Weight of an undesirable answer in the loss."),
    "reward/mean": Entry("Reward", "mean", "Mean reward of the answers that were kept."),
    "reward/std": Entry("Reward, spread", "mean", "Standard deviation of the rewards of the answers that were kept."),
    "length/answer_tokens": Entry("Tokens per answer", "mean", "Mean number of tokens of the answers that were kept."),
    "kl/weight": Entry("KL weight", "mean", "Weight of the KL penalty in the reward."),
    "kl/per_answer": Entry("KL", "mean", "KL divergence of the policy from its reference, per answer, in nats."),
    "policy/entropy": Entry("Entropy", "mean", "Entropy of the policy per token, in nats, estimated from its answers."),
    "length/chosen_words": Entry(
        "Words, chosen", "mean", "Mean number of words in the chosen answers of the kept pairs."
    ),
    "length/rejected_words": Entry(
        "Words, rejected", "mean", "Mean number of words in the rejected answers of the kept pairs."
    ),
    "rewards/chosen": Entry(
        "Reward, chosen",
        "mean",
        "beta times (policy log-prob minus reference log-prob) of the chosen answers: the implicit reward of DPO.",
    ),
    "rewards/rejected": Entry("Reward, rejected", "mean", "The same for the rejected answers."),
    "rewards/margins": Entry(
        "Reward margin",
        "mean",
        "Reward of the chosen answer minus reward of the rejected answer, mean over pairs.",
        "higher",
    ),
    "rewards/desirable": Entry(
        "Reward, desirable",
        "mean",
        "beta times (policy log-prob minus reference log-prob) of the desirable answers: the implicit reward of KTO.",
    ),
    "rewards/undesirable": Entry("Reward, undesirable", "mean", "The same for the undesirable answers."),
    "kto/reference_point": Entry(
        "Reference point",
        "mean",
        "Estimate of the KL divergence of policy and reference, in nats, that KTO compares rewards with; 0 at least.",
    ),
    "rewards/accuracies": Entry(
        "Reward accuracy",
        "share",
        "Pairs whose chosen answer has the higher reward. A new reference puts it back.",
        "higher",
    ),
}

ENTRIES |= {
    name: Entry(f"{table.title}: {label}", "share", definition, better)
    for table in TABLES
    for name, (label, better, definition) in table.columns.items()
}

_REWARD_MODEL = {
    "comparisons": Entry("Comparisons", "count", "Comparisons of answers."),
    "segments": Entry("Answers labelled", "count", "Answers, or segments of them, with labels."),
    "held_out": Entry("Held out", "count", "Records that measure the reward model and do not train it."),
    "accuracy": Entry("Accuracy", "share", "Held-out records that the reward model gets right.", "higher"),
    "accuracy_longer": Entry("", "share", "The same where the better answer is the longer one.", "higher"),
    "accuracy_shorter": Entry(
        "",
        "share",
        "The same where the better answer is the shorter one. Low: the model only likes long answers.",
        "higher",
    ),
    "f1_hallucinated": Entry("", "share", "F1 score on segments with a hallucination.", "higher"),
    "margin": Entry("", "mean", "Mean score of the better answer minus the other's.", "higher"),
    "ece": Entry("", "share", "Expected calibration error of its probabilities, in ten bins.", "lower"),
}

_DROPPED = {
    "incomplete": "Prompts not used, because the file of an image ends too early.",
    "corrupt": "Prompts not used, because an image cannot be decoded.",
    "unknown_format": "Prompts not used, because the file of an image is of no allowed format.",
    "too_many_pixels": "Prompts not used, because an image has more pixels than allowed.",
    "too_many_bytes": "Prompts not used, because the file of an image is larger than allowed.",
    "missing": "Prompts not used, because an image is gone.",
    "empty_response": "Answers not used, because they are empty.",
    "truncated": "Answers not used, because they were cut at the token limit.",
    "no_claims": "Answers not used, because they divide into no claims.",
    "not_divided": "Answers not used, because the divider's model made nothing usable of them.",
    "unknown": "Answers not used, because a claim of theirs has no verdict.",
    "not_contiguous": "Answers not used, because others of their prompt came before another prompt's.",
    "repeated_question": "Pairs not made, because one of the answers leads to the same question twice.",
    "few_rejected": "Answers not used, because they have fewer rejected claims than make one undesirable.",
    "alone": "Answers not used, because no other answer to their prompt can be used.",
    "no_spread": "Answers not used, because all answers to their prompt have the same reward.",
    "identical": "Pairs not made, because both answers are the same text.",
    "tie": "Pairs not made, because the scores differ by less than the margin.",
    "over_cap": "Pairs not kept, because their prompt already has its full number of pairs.",
    "length_balance": "Pairs not kept, because the chosen answer is too much shorter than the rejected one.",
}


def entry(name: str) -> Entry:
    """Return the entry of a metric. An unlisted name gets a generic entry; only dropped/… and seconds/… are defined.

    >>> entry("dropped/tie").definition
    'Pairs not made, because the scores differ by less than the margin.'
    """
    if name in ENTRIES:
        return ENTRIES[name]
    group, _, rest = name.partition("/")
    words = rest.replace("_", " ")
    if group == "reward_model":
        head, _, kind = rest.partition("/")
        known = _REWARD_MODEL.get(kind or head, Entry(rest, "mean", ""))
        return replace(known, label=words.replace("/", ": ")) if kind else known
    if group == "score":
        return Entry(f"Score: {rest}", "mean", "Mean score that the reward model gives the sampled answers, as it is.")
    if group == "reward":
        return Entry(f"Reward: {words}", "mean", f"Mean of the reward's term “{words}”, times its weight.")
    if group == "dropped" and rest:
        return Entry(words.capitalize(), "count", _DROPPED.get(rest, f"What was dropped for the reason “{words}”."))
    if group == "seconds" and rest:
        return Entry(f"Seconds: {words}", "seconds", f"Wall-clock seconds of the stage “{words}”.")
    return Entry(name, "mean", "")


def show(value: float | None, unit: Unit) -> str:
    """Format a number according to its unit; `MISSING` if it is None or not finite.

    >>> show(0.0861, "share"), show(1445, "count"), show(2.297, "mean"), show(None, "share")
    ('8.6%', '1,445', '2.30', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if unit == "share":
        return f"{100 * value:.1f}%"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "seconds":
        return f"{value:,.0f} s" if value >= 10 else f"{value:.1f} s"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"
