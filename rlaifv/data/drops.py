"""Unusable rows: counted by reason, reported with a remedy each, and refused if there are too many."""

import logging
from collections import Counter
from dataclasses import dataclass, field

from rlaifv.data.formats.turns import RowError

log = logging.getLogger(__name__)

# Meaning and remedy of each reason.
REMEDIES = {
    "wrong_type": "a column holds something else than its format says; docs/data.md shows a row of each format",
    "empty": "a text is empty; fill it in, or leave the rows out",
    "not_text": "a text has half of a surrogate pair; write the file as UTF-8",
    "not_json": "a text is not the JSON that it should be; write it anew",
    "not_base64": "a text is not the base64 that it should be; write it anew",
    "conversation": (
        "turns are not of user and assistant in alternation, or chosen and rejected differ before their last turns; cut the "
        "conversations to where they part"
    ),
    "no_prompt": "chosen and rejected have no common beginning; put the prompt into a column of that name",
    "image_position": "an image stands between words, in a later turn or in an answer; move it before the first question",
    "image_count": "the texts mark another number of images than there are; write <image> once for each, or not at all",
    "missing_image": "an image is not there; set data.image_root=DIR where images lie elsewhere",
    "outside_root": "an image lies outside the data's folder; set data.image_root=DIR",
    "remote_image": "an image is named by a web address, and nothing is fetched; download them and name the files",
    "half_a_pair": "one of chosen and rejected is missing; fill it in, or leave the rows out",
    "no_answers": "chosen and rejected are missing, so there is nothing to train on; fill them in, or leave the rows out",
    "no_image": "there is no image, without which no prompt is answered; only run=train takes rows of text alone",
}
OTHER_REMEDY = "an image cannot be used; replace the file"


@dataclass
class Drops:
    """Unusable rows so far: counts by reason, and the first message of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, error: RowError) -> None:
        """Count an unusable row."""
        self.counts[error.reason] += 1
        self.first.setdefault(error.reason, str(error))

    def check(self, name: str, num_rows: int, max_drop_rate: float) -> None:
        """Warn of each reason, or refuse the data.

        Args:
            name: name of the data in messages.
            num_rows: number of rows, including dropped ones.
            max_drop_rate: the largest fraction of rows that may be dropped.

        Raises:
            ValueError: all rows were dropped, or more than the rate allows.
        """
        total = sum(self.counts.values())
        if total == num_rows or total > max_drop_rate * num_rows:
            reasons = " ".join(
                f"{line}. The first: {self.first[reason]}" for reason, line in lines(self.counts).items()
            )
            raise ValueError(
                f"{total} of the {num_rows} rows of {name} cannot be used, more than iteration.max_drop_rate="
                f"{max_drop_rate} allows. {reasons}"
            )
        for reason, line in lines(self.counts).items():
            log.warning("Dropped from %s: %s. The first: %s", name, line, self.first[reason])


def lines(counts: Counter[str]) -> dict[str, str]:
    """Map each reason, most frequent first, to a line with its number of rows, meaning and remedy.

    >>> lines(Counter(outside_root=312))
    {'outside_root': "312 rows: an image lies outside the data's folder; set data.image_root=DIR"}
    """
    return {
        reason: f"{count} {'row' if count == 1 else 'rows'}: {REMEDIES.get(reason, OTHER_REMEDY)}"
        for reason, count in counts.most_common()
    }
