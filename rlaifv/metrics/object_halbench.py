"""Object HalBench: CHAIR on detailed descriptions, with what is mentioned extracted by a language model.

RLHF-V, arXiv 2312.00849, section 4.1, and the published script, which RLAIF-V shares but for one check.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from rlaifv.metrics.by_row import RowMetric, share
from rlaifv.metrics.chair import COLUMNS, count_mentions
from rlaifv.metrics.coco_objects import CocoObjects, coco_objects, tokens_of
from rlaifv.metrics.noun_runs import noun_runs

Mode = Literal["extracted", "plain"]
MAX_WORDS_UNASKED = 3


def answer_text(answer: str) -> str:
    """Return what is scored of an answer.

    >>> answer_text("Assistant: Two dogs. ")
    'Two dogs.'
    """
    return answer.replace("Assistant:", "").strip()


def is_asked(answer: str) -> bool:
    """Return whether the extractor is asked about an answer; one of at most three words has no objects by rule.

    >>> is_asked("Two dogs rest."), is_asked("Two dogs rest here.")
    (False, True)
    """
    return len(answer_text(answer).split()) > MAX_WORDS_UNASKED


def parse_objects(reply: str) -> list[str]:
    """Return the phrases of an extractor's reply: all of it as JSON, else the last line of one that contains `["`.

    As in the script, a string stands for its letters, and an object for its keys.

    Raises:
        ValueError: the script would ask again: round brackets, a fence around it, words after it, single quotes.

    >>> parse_objects('Here it is:' + chr(10) + '["dog", "a red boat"]')
    ['dog', 'a red boat']
    """
    try:
        value = json.loads(reply)
    except ValueError:
        try:
            value = json.loads(reply.split("\n")[-1]) if '["' in reply else None
        except ValueError:
            value = None
    if not isinstance(value, (list, dict, str)) or not all(isinstance(phrase, str) for phrase in value):
        raise ValueError(f"The extractor's reply is no JSON list of phrases: {reply!r:.80}.")
    return list(value)


def is_readable(reply: str) -> bool:
    """Return whether `parse_objects` can read an extractor's reply.

    >>> is_readable("[]"), is_readable("()")
    (True, False)
    """
    try:
        parse_objects(reply)
    except ValueError:
        return False
    return True


def objects_of(replies: Mapping[str, str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the phrases of an extractor's replies by image id, as a file of objects has them, and the ids of unreadable ones.

    >>> objects_of({"11": '["dog"]', "12": "()"})
    ({'11': ['dog']}, ['12'])
    """
    objects = {image_id: parse_objects(reply) for image_id, reply in replies.items() if is_readable(reply)}
    return objects, [image_id for image_id in replies if image_id not in objects]


def phrase_words(phrase: str, objects: CocoObjects) -> list[str]:
    """Return the words of a phrase that may be objects: known pairs if there are any, else its runs of nouns, in the singular.

    The script has spaCy tag and lemmatize "a " + phrase. Here lemmas are those of the closed table of plurals, runs are by
    the closed lists of `noun_runs`, and what `has_name` finds keeps its capital and so never matches. spaCy decides each of
    these by context.

    >>> phrase_words("two wine glasses on the kitchen table", coco_objects("listed"))
    ['wine glass']
    >>> phrase_words("man's black umbrellas", coco_objects("listed"))
    ['man', 'umbrella']
    """
    tokens = _phrase_tokens(phrase)
    lower = [token if _is_name(token, place) else token.lower() for place, token in enumerate(tokens)]
    joined, paired = objects.pair_up([objects.singular.get(word, word) for word in lower])
    if any(paired):
        return [word for word, pair in zip(joined, paired, strict=True) if pair]
    return noun_runs(joined, objects.class_of)


def has_name(phrase: str) -> bool:
    """Return whether a word other than the first has a capital and is not all capitals, so that it is taken for a name.

    >>> has_name("Traffic light"), has_name("flat TV"), has_name("Traffic Light")
    (False, False, True)
    """
    return any(_is_name(token, place) for place, token in enumerate(_phrase_tokens(phrase)))


def extracted_mentions(phrases: Sequence[str], objects: CocoObjects) -> list[tuple[str, str]]:
    """Return the distinct objects among an answer's phrases, with their classes: distinct by word, so man and boy are two.

    >>> extracted_mentions(["two dogs", "a dog", "a puppy", "kitchen table"], coco_objects("listed"))
    [('dog', 'dog'), ('puppy', 'dog')]
    """
    words = dict.fromkeys(word for phrase in phrases for word in phrase_words(phrase, objects))
    return objects.known(list(words))


class ObjectHalBench(RowMetric):
    """Response and mention hallucination rate of Object HalBench, in percent.

    - `resp`: answers with a hallucinated object / answers with an object
    - `ment`: hallucinated objects / objects; distinct words of each answer in mode "extracted", repetitions too in "plain"
    - `recall`: distinct classes mentioned truly / classes in the images, over all answers
    - `chair_s`: answers with a hallucinated object / all answers
    - `object_f1`: harmonic mean of `recall` and 100 - `ment`
    - `response_f1`: harmonic mean of the share of answers with an object and 100 - `resp`; the script divides that number of
      answers by 3 for a percentage, which is right for 300 answers only
    - `mean_words`: words per answer, parted by white space

    Mode "extracted" is the benchmark: a language model lists the objects of each answer. Mode "plain" needs none and reads the
    answer as CHAIR reads captions; its numbers are others, and the two do not belong in one table.
    Source: arXiv 2312.00849, section 4.1, and the published script.

    Three answers, the last without objects; the boat and the cat are not there:

    >>> metric = ObjectHalBench(num_rows=3, mode="extracted")
    >>> answers = ["Two dogs on a boat, one dog asleep.", "A cat near a bed.", "Nothing but a wide blue sky."]
    >>> phrases = [["two dogs", "boat", "dog"], ["cat", "bed"], ["sky"]]
    >>> metric.update(answers, [{"dog"}, {"bed", "book"}, {"kite"}], phrases)
    >>> for name, value in metric.compute().items():
    ...     print(f"{name} {value:.2f}")
    resp 100.00
    ment 50.00
    recall 50.00
    chair_s 66.67
    object_f1 50.00
    response_f1 0.00
    mean_words 6.33
    """

    columns = COLUMNS
    higher_is_better: ClassVar[dict[str, bool | None]] = {  # type: ignore[assignment, misc]
        "resp": False,
        "ment": False,
        "recall": True,
        "chair_s": False,
        "object_f1": True,
        "response_f1": True,
        "mean_words": None,
    }

    def __init__(self, num_rows: int, mode: Mode, objects: CocoObjects | None = None, **kwargs: Any) -> None:
        """Start from zero.

        Args:
            num_rows: how many answers there are.
            mode: where the objects of an answer come from.
            objects: the words that count; this project's own by default.
            kwargs: options of `torchmetrics.Metric`.
        """
        super().__init__(num_rows, **kwargs)
        self.mode = mode
        self.objects = coco_objects("listed") if objects is None else objects

    def update(
        self,
        answers: Sequence[str],
        truths: Sequence[Collection[str]],
        phrases: Sequence[Sequence[str]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Add answers.

        Args:
            answers: their texts.
            truths: the COCO classes in their images.
            phrases: what the extractor lists for each; in mode "extracted" only. Those of short answers are not used.
            rows: numbers of the answers among those of the benchmark; in order from the first if not given.

        Raises:
            ValueError: the arguments differ in length, phrases do not fit the mode, or a row is unknown or came with other
                counts.
        """
        if (phrases is None) != (self.mode == "plain"):
            raise ValueError(f"Mode {self.mode!r} {'needs' if phrases is None else 'has no use for'} phrases.")
        listed = [[] for _ in answers] if phrases is None else phrases
        numbers = self._numbers(rows, answers=answers, truths=truths, phrases=listed)
        counts = []
        for answer, truth, some in zip(answers, truths, listed, strict=True):
            text = answer_text(answer)
            if self.mode == "plain":
                mentions = self.objects.mentions(text)
            else:
                mentions = extracted_mentions(some if is_asked(answer) else [], self.objects)
            counts.append(count_mentions(mentions, truth, text))
        self._put(numbers, counts)

    def compute(self) -> dict[str, Tensor]:
        """Return float64[] for each of the seven names above.

        Raises:
            ValueError: a rate is undefined, because no answer has an object, or no image has.
        """
        sums = self.sums()
        nothing = "no answer mentions an object of the list"
        resp = 100 * share("resp", sums["hallucinating"], sums["with_objects"], nothing)
        ment = 100 * share("ment", sums["hallucinated"], sums["mentions"], nothing)
        absent = "no image has an object of the list"
        recall = 100 * share("recall", sums["correct_classes"], sums["truth_classes"], absent)
        values = {
            "resp": resp,
            "ment": ment,
            "recall": recall,
            "chair_s": 100 * sums["hallucinating"] / sums["texts"],
            "object_f1": _harmonic(recall, 100 - ment),
            "response_f1": _harmonic(100 * sums["with_objects"] / sums["texts"], 100 - resp),
            "mean_words": sums["words"] / sums["texts"],
        }
        return self._tensors(values)


def object_halbench_rates(
    answers: Sequence[str],
    truths: Sequence[Collection[str]],
    phrases: Sequence[Sequence[str]] | None = None,
    objects: CocoObjects | None = None,
) -> dict[str, float]:
    """Return the values of `ObjectHalBench` for all answers at once, in mode "plain" where there are no phrases.

    Raises:
        ValueError: the arguments differ in length, or a rate is undefined.

    >>> object_halbench_rates(["A dog beside a second dog."], [{"dog", "cat"}])["recall"]
    50.0
    """
    metric = ObjectHalBench(len(answers), "plain" if phrases is None else "extracted", objects)
    metric.update(answers, truths, phrases)
    return {name: value.item() for name, value in metric.compute().items()}


def _phrase_tokens(phrase: str) -> list[str]:
    return [part for token in tokens_of(phrase) for part in re.split("(-)", token) if part]  # spaCy cuts at hyphens


def _is_name(token: str, place: int) -> bool:
    return place > 0 and token[0].isupper() and not token.isupper()


def _harmonic(first: float, second: float) -> float:
    return 2 * first * second / (first + second) if first + second else 0.0
