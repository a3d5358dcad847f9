"""From judged responses to answers that are good or bad by themselves, without pairs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rlaifv.records import Claim, Judgement, LabelledAnswer, Response
from rlaifv.stages.answer_scores import verdicts_of
from rlaifv.stages.pair import RESPONSE_REASONS, unusable
from rlaifv.stages.score import verdict_statistics
from rlaifv.stages.stage import ITERATION, Made, Stage, Task

# Largest ratio of the weight of all desirable answers to that of all others that the paper advises; the smallest is 1.
MOST_RATIO = 4 / 3


class LabelAnswers(Stage):
    """Call answers desirable or undesirable by the labeler's verdicts on their claims.

    Desirable are answers whose claims are all accepted, undesirable those with at least `min_rejected` rejected claims; a
    claim that an answer repeats counts once. Dropped and counted: answers that are empty, cut, without claims or with an
    unknown verdict, and those with fewer rejected claims than `min_rejected` (`few_rejected`). Answers of another model
    (`iteration.chosen_from`) are labelled as the policy's are.

    Each prompt also gets a mismatched answer for the reference point of KTO: the first labelled answer to the next prompt, and
    for the last prompt, to the first. So it depends on nothing but the answers, and not on shards, batches or ranks.

    Args:
        min_rejected: distinct rejected claims that make an answer undesirable.
        desirable_weight: of desirable answers in the loss, lambda_D.
        undesirable_weight: of the others, lambda_U.
        is_balanced: whether the weights of each iteration are raised as far as its counts ask for, see `balanced`.

    Raises:
        ValueError: `min_rejected` below 1, or a weight that is not above 0.
    """

    name = "label"
    reads = ("responses", "judgements", "claims")
    writes = "labelled"
    unit = ITERATION
    is_stored = False

    def __init__(
        self,
        min_rejected: int = 1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        is_balanced: bool = False,
    ) -> None:
        if min_rejected < 1:
            raise ValueError(f"min_rejected must be at least 1, but it is {min_rejected}.")
        if not (desirable_weight > 0 and undesirable_weight > 0):
            raise ValueError(
                f"desirable_weight and undesirable_weight must be above 0, but they are {desirable_weight} and "
                f"{undesirable_weight}."
            )
        self.min_rejected = min_rejected
        self.weights = desirable_weight, undesirable_weight
        self.is_balanced = is_balanced

    def producer(self) -> dict[str, str]:
        return {"labelled": f"{self.min_rejected} {self.weights} {self.is_balanced}"}

    def __call__(
        self, task: Task, responses: Sequence[Response], judgements: Sequence[Judgement], claims: Sequence[Claim]
    ) -> Made:
        """Return the labelled answers, those of a prompt together.

        Raises:
            ValueError: all answers have the same label.
        """
        answers, drops = label_answers(responses, judgements, claims, self.min_rejected)
        # Responses that were not divided have no claims either, and are counted already.
        drops["no_claims"] -= task.drops.get("not_divided", 0)
        if not answers:
            return Made([], +drops)
        counts = Counter(answer.is_desirable for answer in answers)
        if len(counts) < 2:
            kind = "desirable" if counts[True] else "undesirable"
            raise ValueError(
                f"All {len(answers)} labelled answers of iteration {task.iteration} are {kind}, so there is nothing to tell "
                "apart: take more prompts or answers (iteration.num_prompts, iteration.num_responses), or fewer iterations."
            )
        weights = self.weights
        if self.is_balanced:
            weights = balanced(*weights, counts[True], counts[False])
        weighted = [replace(one, weight=weights[0] if one.is_desirable else weights[1]) for one in answers]
        return Made(with_mismatched(weighted), +drops)


def label_answers(
    responses: Sequence[Response], judgements: Sequence[Judgement], claims: Sequence[Claim], min_rejected: int = 1
) -> tuple[list[LabelledAnswer], Counter[str]]:
    """Label the answers that can be labelled.

    Args:
        responses: of an iteration.
        judgements: of their claims.
        claims: which claims ask the same.
        min_rejected: distinct rejected claims that make an answer undesirable.

    Returns:
        The answers, each with weight 1, prompts in order of first appearance; and how many others there are, by reason.

    Raises:
        ValueError: as for `rlaifv.stages.answer_scores.verdicts_of`.
    """
    verdicts = {
        name: one for group in verdicts_of(responses, judgements, claims).values() for name, one in group.items()
    }
    unknown = {judgement.response_id for judgement in judgements if judgement.verdict == "unknown"}
    drops: Counter[str] = Counter()
    groups: dict[str, list[LabelledAnswer]] = {}
    for response in responses:
        reason = unusable(response, verdicts, unknown)
        counts = (0, 0) if reason else (len(verdicts[response.id].accepted), len(verdicts[response.id].rejected))
        if reason is None and 0 < counts[1] < min_rejected:
            reason = "few_rejected"
        if reason:
            drops[reason] += 1
            continue
        answer = LabelledAnswer(
            response.id, response.prompt_id, response.token_ids, counts[1] == 0, 1.0, counts[0], counts[1]
        )
        groups.setdefault(response.prompt_id, []).append(answer)
    return [answer for group in groups.values() for answer in group], drops


def balanced(desirable_weight: float, undesirable_weight: float, num: int, num_others: int) -> tuple[float, float]:
    """Return the weights, one of them raised so that the ratio of what both kinds weigh in all is between 1 and 4/3.

    This is the range that the paper advises (arXiv 2402.01306, equation 8). Weights in the range stay.

    Args:
        desirable_weight: of a desirable answer.
        undesirable_weight: of an undesirable one.
        num: desirable answers.
        num_others: undesirable ones.

    >>> balanced(1.0, 1.0, 10, 20), balanced(1.0, 1.0, 40, 20), balanced(1.0, 1.0, 24, 20)
    ((2.0, 1.0), (1.0, 1.5), (1.0, 1.0))
    """
    ratio = num * desirable_weight / (num_others * undesirable_weight)
    return desirable_weight / min(ratio, 1.0), undesirable_weight * max(ratio / MOST_RATIO, 1.0)


def with_mismatched(answers: Sequence[LabelledAnswer]) -> list[LabelledAnswer]:
    """Give each prompt's answers the first answer to the next prompt, and the last prompt's that to the first."""
    first: dict[str, LabelledAnswer] = {}
    for answer in answers:
        first.setdefault(answer.prompt_id, answer)
    names = list(first)
    if len(names) < 2:
        return list(answers)
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    return [replace(one, mismatched_token_ids=first[following[one.prompt_id]].token_ids) for one in answers]


def labelled_statistics(
    responses: Sequence[Response],
    judgements: Sequence[Judgement],
    answers: Sequence[LabelledAnswer],
    drops: Mapping[str, int],
) -> dict[str, float]:
    """Return the figures of an iteration's labelled answers, by name; counts by label, their weights, and drops."""
    kinds = {
        kind: [one for one in answers if one.is_desirable == is_desirable]
        for kind, is_desirable in (("desirable", True), ("undesirable", False))
    }
    return {
        **verdict_statistics(len(responses), judgements),
        "answers_kept": float(len(answers)),
        **{f"answers/{kind}": float(len(some)) for kind, some in kinds.items()},
        **{f"answers/{kind}_weight": some[0].weight for kind, some in kinds.items() if some},
        "length/answer_tokens": sum(one.answer_tokens for one in answers) / max(len(answers), 1),
        **{f"dropped/{reason}": float(drops.get(reason, 0)) for reason in dict.fromkeys((*RESPONSE_REASONS, *drops))},
    }
