"""Tables of a run's benchmark metrics: their columns, labels and explanations."""

from dataclasses import dataclass, field
from typing import Literal

from rlaifv.report.summary import Numbers

Better = Literal["lower", "higher"] | None
Column = tuple[str, Better, str]
_POPE = "of POPE's questions that {}, out of all: half of them are about objects that are there"
_ASKED = "the model answers right when asked"
_TOLD = "the model's description answers right: it names the object, or it does not"


@dataclass(frozen=True, slots=True)
class BenchmarkTable:
    """Table of one benchmark: title, reading hints, and columns: (label, better direction, definition) by metric."""

    title: str
    read: str
    columns: dict[str, Column] = field(default_factory=dict)

    def label(self, name: str) -> str:
        """Return the header of a column, with an arrow in the better direction."""
        label, better, _ = self.columns[name]
        return label + {"lower": " ↓", "higher": " ↑", None: ""}[better]


def _pope(group: str, how: str) -> dict[str, Column]:
    kinds = {
        "random": "absent objects are drawn",
        "popular": "absent objects are the most frequent ones of all held-out images",
        "adversarial": "absent objects are those that come most often with what is there",
    }
    columns: dict[str, Column] = {
        f"{group}/{split}/accuracy": (
            split.capitalize(),
            "higher",
            f"Share {_POPE.format(how)}; the {words}.",
        )
        for split, words in kinds.items()
    }
    columns[f"{group}/f1"] = ("F1", "higher", "F1 of “yes”, the mean of the three kinds of questions.")
    columns[f"{group}/yes_ratio"] = ("Yes", None, "Share of “yes” among these answers; half of the right ones are.")
    return columns


TABLES = (
    BenchmarkTable(
        "CHAIR, of shapes",
        "Absent shapes in descriptions, whatever their colour.",
        {
            "chair/chair_s": ("CHAIR s", "lower", "Descriptions that name at least one absent shape, out of all."),
            "chair/chair_i": ("CHAIR i", "lower", "Absent shapes, out of all shapes that descriptions name."),
            "chair/recall": ("Recall", "higher", "Shapes of the images that their descriptions name, each once."),
        },
    ),
    BenchmarkTable(
        "AMBER, generative",
        "Absent objects in descriptions: a colour and a shape.",
        {
            "amber/chair": ("CHAIR", "lower", "Absent objects, out of all objects that descriptions name."),
            "amber/cover": ("Cover", "higher", "Objects of the images that their descriptions name, out of all."),
            "amber/hal": ("Hal", "lower", "Descriptions that name at least one absent object, out of all."),
            "amber/cog": (
                "Cog",
                "lower",
                "Absent objects that language alone suggests (a shape in its usual colour, the companion of a cross) and that "
                "descriptions name, out of all that it suggests.",
            ),
        },
    ),
    BenchmarkTable(
        "POPE, asked",
        "Yes/no questions about objects: what the model knows.",
        _pope("pope", _ASKED),
    ),
    BenchmarkTable(
        "POPE, read off descriptions",
        "The same questions, answered by its descriptions: what it tells.",
        _pope("pope_told", _TOLD),
    ),
    BenchmarkTable(
        "AMBER, discriminative",
        "Yes/no questions about absent objects, colours and places.",
        {
            "amber/existence": ("Existence", "higher", "Questions about absent objects that the model denies."),
            "amber/attribute": ("Attribute", "higher", "Questions about colours that the model answers right."),
            "amber/relation": ("Relation", "higher", "Questions about places that the model answers right."),
            "amber/f1": ("F1", "higher", "F1 of “no” over all of AMBER's questions."),
            "amber/score": ("Score", "higher", "Mean of 1 minus CHAIR and F1: AMBER's one number."),
        },
    ),
)
COLUMNS = {name: column for table in TABLES for name, column in table.columns.items()}


def shown_tables(numbers: Numbers) -> list[BenchmarkTable]:
    """Return the tables for which `numbers` has at least one metric."""
    return [table for table in TABLES if any(name in numbers for name in table.columns)]
