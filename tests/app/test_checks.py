"""Every fault is refused before a model loads, in a sentence that names the key and its value."""

from collections.abc import Sequence

import pytest
from omegaconf import DictConfig, ListConfig

from rlaifv.app import bounds
from rlaifv.app.checks import check_config
from tests.settings import ROOT, changed, composed, fault_of, faults

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def base() -> DictConfig:
    return composed("run_dir=run", "learner.lora={r: 8, lora_alpha: 16}")


def test_the_defaults_pass(base: DictConfig) -> None:
    check_config(base)
    check_config(composed())


@pytest.mark.parametrize("key", sorted(bounds.AT_LEAST))
def test_least_values(base: DictConfig, key: str) -> None:
    least = bounds.AT_LEAST[key]
    assert fault_of(base, key, least - 1) == f"{key}={least - 1} must be at least {least}."
    assert fault_of(base, key, least + 0.5) == f"{key}={least + 0.5} must be a whole number."
    check_config(changed(base, **{key: least}))


@pytest.mark.parametrize("key", sorted(bounds.ABOVE_ZERO))
@pytest.mark.parametrize("value", [0, -0.5])
def test_values_above_zero(base: DictConfig, key: str, value: float) -> None:
    (fault,) = (line for line in faults(changed(base, **{key: value})) if "above" in line)
    assert fault == f"{key}={value} must be above 0."


@pytest.mark.parametrize("key", sorted(bounds.BETWEEN))
def test_values_between_two(base: DictConfig, key: str) -> None:
    least, most = bounds.BETWEEN[key]
    for value in (least, most):
        check_config(changed(base, **{key: value}))
    for value in (least - 0.01, most + 0.01):
        assert fault_of(base, key, value) == f"{key}={value} must be between {least} and {most}."


NUMBERS = sorted({*bounds.AT_LEAST, *bounds.ABOVE_ZERO, *bounds.BETWEEN, *bounds.OTHER_NUMBERS})


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", ["many", True, None, float("nan"), float("inf"), [1]])
def test_numbers_are_numbers(base: DictConfig, key: str, value: object) -> None:
    if value is None and key in bounds.NULLABLE:
        check_config(changed(base, **{key: value}))
        return
    shown = ListConfig(value) if isinstance(value, list) else value
    assert fault_of(base, key, value) == f"{key}={shown!r} must be a number."


@pytest.mark.parametrize("key", sorted(bounds.SWITCHES))
@pytest.mark.parametrize("value", ["nope", None, 1])
def test_switches_are_true_or_false(base: DictConfig, key: str, value: object) -> None:
    """Any text counts as true in Python, "false" with a typo too."""
    assert fault_of(base, key, value) == f"{key}={value!r} must be true or false."


def test_the_initial_labeler_may_run_what_the_policy_may() -> None:
    """It is loaded from the same files."""
    cfg = composed(
        "labeler=initial", "model.path=owner/name", f"model.revision={COMMIT}", "model.trust_remote_code=true"
    )
    assert cfg.labeler.trust_remote_code
    check_config(cfg)
    assert not composed("labeler=initial").labeler.trust_remote_code


@pytest.mark.parametrize("key", sorted(bounds.CHOICES))
@pytest.mark.parametrize("value", ["bfloat17", None, 32])
def test_choices(base: DictConfig, key: str, value: object) -> None:
    cfg = changed(base, **{key: value})
    assert f"{key}={value} must be one of {', '.join(bounds.CHOICES[key])}." in faults(cfg)


@pytest.mark.parametrize("key", sorted(bounds.CHOICES))
def test_every_choice_can_be_made(base: DictConfig, key: str) -> None:
    for value in bounds.CHOICES[key]:
        needs: dict[str, object] = {"data.path": "owner/name"} if key == "data.form" else {}
        needs |= {"data.form": "trl", "data.path": "owner/name"} if key == "run" else {}
        needs |= {"iteration.selection.per_epoch": 4} if key == "iteration.selection.by" else {}
        needs |= {"trainer.precision": "bf16-true"} if value == "float16" else {}
        needs |= {"iteration.pairing.margin": 0.1} if value == "f_score" else {}
        needs |= {"labeler.path": "owner/name", "learner.changed_weight": 2.0 if value == "weighted" else 1.0}
        check_config(changed(base, **{**needs, key: value}))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"learner.weight_decay": -0.1}, ["learner.weight_decay=-0.1 must not be negative."]),
        (
            {"iteration.pairing.score": "f_score"},
            [
                "iteration.pairing.margin=1.0 is more than F-scores differ by, which are between 0 and 1; 0.1 is a start."
            ],
        ),
        (
            {"iteration.pairing.score_weight": 2.0},
            [
                "iteration.pairing.score_weight=2.0 has no effect with iteration.pairing.score=rejected; it is for net and "
                "f_score."
            ],
        ),
        ({"seed": 2**32}, ["seed=4294967296 must be at most 4294967295."]),
        (
            {"learner.label_smoothing": 0.5},
            ["learner.label_smoothing=0.5 must be from 0 up to, but not including, 0.5."],
        ),
        (
            {"learner.label_smoothing": -0.1},
            ["learner.label_smoothing=-0.1 must be from 0 up to, but not including, 0.5."],
        ),
        ({"iteration.decoding.top_p": 0}, ["iteration.decoding.top_p=0 must be above 0, and at most 1."]),
        ({"iteration.decoding.top_p": 1.1}, ["iteration.decoding.top_p=1.1 must be above 0, and at most 1."]),
        (
            {"iteration.decoding.stop": ["a", ""]},
            ["iteration.decoding.stop=['a', ''] must be a list of strings that are not empty, as in ['\\n\\n']."],
        ),
        (
            {"iteration.decoding.stop": "Question:"},
            ["iteration.decoding.stop='Question:' must be a list of strings that are not empty, as in ['\\n\\n']."],
        ),
        (
            {"iteration.decoding.temperature": 0},
            [
                "iteration.decoding.temperature=0 makes all answers to a prompt equal, so no pair can be built; it must be "
                "above 0."
            ],
        ),
        (
            {"learner.changed_weight": 5.0},
            [
                "learner.changed_weight=5.0 and learner.reduction=sum do not go together: weights other than 1 need "
                "reduction=weighted, and the other way round."
            ],
        ),
        (
            {"learner.reduction": "weighted"},
            [
                "learner.changed_weight=1.0 and learner.reduction=weighted do not go together: weights other than 1 need "
                "reduction=weighted, and the other way round."
            ],
        ),
        (
            {"learner.train_parts": ["projector", "head"]},
            [
                "learner.train_parts=['projector', 'head'] must name at least one of vision, projector and language_model, "
                "and nothing else."
            ],
        ),
        (
            {"model.quantization": "nf4", "learner.lora": None},
            ["model.quantization=nf4 leaves only adapters to train; set learner=paper_lora."],
        ),
        ({"learner.nll_weight": -1.0}, ["learner.nll_weight=-1.0 must not be negative."]),
        (
            {"learner.normalize_weights": False},
            ["learner.normalize_weights=false has no effect with learner.reduction=sum."],
        ),
        (
            {"learner.loss": "ipo", "learner.label_smoothing": 0.1},
            ["learner.label_smoothing=0.1 has no effect with learner.loss=ipo; it is for sigmoid and robust."],
        ),
        (
            {"model.quantization": "int3"},
            ["model.quantization=int3 must be one of none, nf4."],
        ),
        (
            {"learner.train_parts": []},
            [
                "learner.train_parts=[] must name at least one of vision, projector and language_model, and nothing else."
            ],
        ),
        *(
            (
                {"learner.train_parts": parts},
                [
                    f"learner.train_parts={parts} has no effect with learner.lora, whose adapters train alone; leave "
                    "train_parts out, or set learner.lora=null."
                ],
            )
            for parts in (["vision"], ["vision", "projector", "language_model"])
        ),
        (
            {"learner.train_parts": "projector"},
            ["learner.train_parts='projector' must be a list, as in [projector,language_model]."],
        ),
        (
            {"learner.lora": True},
            ["learner.lora=True must be null, or keywords of an adapter such as {r:64,lora_alpha:16}."],
        ),
        (
            {"labeler.dtype": "float32"},
            [
                "labeler.revision, labeler.dtype and labeler.trust_remote_code have no effect without labeler.path; set "
                "labeler=model."
            ],
        ),
        (
            {"labeler.revision": "main"},
            [
                "labeler.revision, labeler.dtype and labeler.trust_remote_code have no effect without labeler.path; set "
                "labeler=model."
            ],
        ),
        *(
            (
                {f"{name}.path": "owner/name", f"{name}.revision": revision, f"{name}.trust_remote_code": True},
                [
                    f"{name}.trust_remote_code=true needs {name}.revision to be a full commit, 40 hexadecimal digits, so "
                    f"that the code is the one that was read; it is {revision}."
                ],
            )
            for name in ("model", "labeler")
            for revision in (None, "main", COMMIT[:39])
        ),
        (
            {"iteration.num_iterations": 5, "data.num_iterations": 4},
            ["data.num_iterations=4 leaves no prompts for the last of iteration.num_iterations=5."],
        ),
        ({"data.path": "nowhere.jsonl"}, ["data.path=nowhere.jsonl is not a file."]),
        ({"data.path": "."}, ["data.path=. is not a file."]),
        (
            {"data.path": "pairs.parquet", "data.form": "trl"},
            ["data.path=pairs.parquet is no file or directory, nor does it have the form of a hub id (owner/name)."],
        ),
        (
            {"data.path": __file__, "data.form": "trl", "data.revision": "main"},
            [f"data.revision=main has no effect, since data.path={__file__} is on this disk."],
        ),
        (
            {"run": "train"},
            ["run=train needs data that come with pairs: set data to one of rlaifv, rlhfv, trl, llamafactory, swift."],
        ),
        (
            {"run": "train", "data.form": "trl", "data.num_held_out": 0, "labeler.path": "owner/name"},
            [
                "labeler.path=owner/name has no effect with run=train and data.num_held_out=0: there is nothing to label."
            ],
        ),
        (
            {"run": "train", "data.form": "trl", "data.path": "owner/name", "iteration.chosen_from": "owner/other"},
            ["iteration.chosen_from=owner/other has no effect with run=train: no answer is sampled."],
        ),
        (
            {"iteration.selection.per_epoch": 4, "data.num_held_out": 1},
            [
                "iteration.selection.per_epoch=4 needs held-out prompts, half of which candidates are chosen on and half of "
                "which the report is about; data.num_held_out is 1. Set it, or iteration.selection.per_epoch=0 to go on with "
                "the last weights of every iteration."
            ],
        ),
        (
            {"iteration.selection.per_epoch": 4, "learner.reset_optimizer": False},
            [
                "learner.reset_optimizer=false does not go together with iteration.selection.per_epoch=4 and "
                "iteration.selection.by=labeler: the optimizer's state would be of other weights than the chosen ones."
            ],
        ),
        *(
            (
                {"iteration.selection.per_epoch": 4, "trainer.strategy": strategy},
                [
                    "iteration.selection.per_epoch=4 needs whole weights on every device, which "
                    f"trainer.strategy={strategy} does not hold."
                ],
            )
            for strategy in ("fsdp", "deepspeed_stage_3")
        ),
        (
            {"iteration.selection.by": "last"},
            ["iteration.selection.by=last has no effect with iteration.selection.per_epoch=0."],
        ),
        (
            {"data.streaming": True},
            ["data.streaming=true needs data.num_rows, since a stream has no end that could be waited for."],
        ),
        (
            {"model.path": "/no/such/model"},
            ["model.path=/no/such/model is not a directory, nor does it have the form of a hub id (owner/name)."],
        ),
        (
            {"labeler.path": "a/b/c"},
            ["labeler.path=a/b/c is not a directory, nor does it have the form of a hub id (owner/name)."],
        ),
        (
            {"model.path": str(ROOT), "model.revision": "main"},
            [f"model.revision=main has no effect, since model.path={ROOT} is a directory."],
        ),
        (
            {"labeler.path": str(ROOT), "labeler.revision": "main"},
            [f"labeler.revision=main has no effect, since labeler.path={ROOT} is a directory."],
        ),
        # Several at once are told at once.
        (
            {"learner.beta": -1, "iteration.epochs": 0},
            ["iteration.epochs=0 must be at least 1.", "learner.beta=-1 must be above 0."],
        ),
    ],
    ids=str,
)
def test_faults_by_hand(base: DictConfig, values: dict[str, object], expected: Sequence[str]) -> None:
    assert faults(changed(base, **values)) == expected


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 0},
        {"seed": 2**32 - 1},
        {"iteration.num_prompts": None},
        {"learner.lora": None},
        {"learner.weight_decay": 0},
        {"iteration.selection.per_epoch": 4, "data.num_held_out": 2, "trainer.strategy": "deepspeed_stage_2"},
        {"iteration.selection.per_epoch": 4, "learner.reset_optimizer": False, "iteration.selection.by": "last"},
        {"iteration.selection.per_epoch": 4, "data.num_held_out": 0, "run": "label"},
        {"learner.label_smoothing": 0.49},
        {"learner.reduction": "weighted", "learner.changed_weight": 5},
        {"learner.train_parts": ["vision"], "learner.lora": None},
        {"learner.train_parts": ["language_model", "projector"]},
        {"model.path": "owner/name", "model.revision": "main"},
        {"labeler.path": "owner/name", "labeler.revision": "main", "labeler.dtype": "float32"},
        {"model.path": "owner/name", "model.revision": COMMIT, "model.trust_remote_code": True},
        {"labeler.path": str(ROOT), "labeler.trust_remote_code": True},
        {"data.path": __file__},
        {"data.path": str(ROOT), "data.form": "llamafactory"},
        {
            "data.path": "owner/name",
            "data.form": "rlaifv",
            "data.revision": "main",
            "data.num_rows": 4,
            "data.streaming": True,
        },
    ],
    ids=str,
)
def test_what_is_fine(base: DictConfig, values: dict[str, object]) -> None:
    check_config(changed(base, **values))


def test_what_has_to_be_given_is_named() -> None:
    missing = faults(composed("run_dir=run", "data=files", "labeler=model"))
    assert missing == [
        f"{key} has no default and must be given, as in {key}=…" for key in ("data.path", "labeler.path")
    ]


def test_the_seed_is_taken_as_it_is() -> None:
    """0 is a seed like any other, not the absence of one."""
    cfg = composed("run_dir=run", "seed=0")
    check_config(cfg)
    assert cfg.seed == 0
    assert cfg.data.seed == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "divider=chat needs either divider.path=DIR_OR_HUB_ID or divider.url=http://…, not both."),
        (
            ["divider.path=owner/name", "divider.url=http://localhost/v1", "divider.model=m"],
            "divider=chat needs either divider.path=DIR_OR_HUB_ID or divider.url=http://…, not both.",
        ),
        (
            ["divider.url=http://localhost/v1"],
            "divider.url=http://localhost/v1 needs divider.model, the model's name on the server.",
        ),
        (
            ["divider.path=./nowhere"],
            "divider.path=./nowhere is not a directory, nor does it have the form of a hub id (owner/name).",
        ),
    ],
)
def test_a_chat_divider_has_one_model(overrides: list[str], message: str) -> None:
    assert faults(composed("divider=chat", *overrides)) == [message]


@pytest.mark.parametrize(
    ("overrides", "run"), [(["method=offline_dpo"], "full"), (["run=train", "method=rlaifv"], "train")]
)
def test_a_run_and_its_method_have_to_fit(overrides: list[str], run: str) -> None:
    """A file that sets run by its value selects no method."""
    lines = faults(composed(*overrides, "data=trl", "data.path=owner/name", "run_dir=run"))
    (fault,) = [line for line in lines if "method" in line]
    assert fault.startswith(f"run={run} does not fit the method, which is for run=")
    assert f"`override /run: {run}`" in fault
