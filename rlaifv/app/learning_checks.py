"""Checks of the settings of pairing and learning; every fault is a full sentence with key and value."""

from collections.abc import Callable, Iterator

from omegaconf import DictConfig

from rlaifv.app.bounds import USUAL_PARTS
from rlaifv.learners.dpo.losses import SMOOTHED
from rlaifv.stages.answer_scores import WEIGHTED_SCORES


def _smoothing_faults(cfg: DictConfig) -> Iterator[str]:
    if not 0 <= cfg.learner.label_smoothing < 0.5:
        yield f"learner.label_smoothing={cfg.learner.label_smoothing} must be from 0 up to, but not including, 0.5."


def _weighting_faults(cfg: DictConfig) -> Iterator[str]:
    if (cfg.learner.reduction == "weighted") != (cfg.learner.changed_weight != 1):
        yield (
            f"learner.changed_weight={cfg.learner.changed_weight} and learner.reduction={cfg.learner.reduction} do not go "
            "together: weights other than 1 need reduction=weighted, and the other way round."
        )


def _quantization_faults(cfg: DictConfig) -> Iterator[str]:
    if cfg.model.quantization != "none" and cfg.learner.lora is None:
        yield f"model.quantization={cfg.model.quantization} leaves only adapters to train; set learner=paper_lora."


def _normalization_faults(cfg: DictConfig) -> Iterator[str]:
    if not cfg.learner.normalize_weights and cfg.learner.reduction != "weighted":
        yield f"learner.normalize_weights=false has no effect with learner.reduction={cfg.learner.reduction}."


def _prefix_faults(cfg: DictConfig) -> Iterator[str]:
    """Pairs that share a prefix train their last sentences alone, as long as the prefix cancels in the loss."""
    if not any(str(node._target_).endswith(".SentencePairs") for node in cfg.method.stages.values() if node):
        return
    if cfg.learner.reduction != "sum":
        yield (
            f"learner.reduction={cfg.learner.reduction} does not go together with method.stages.pair=SentencePairs: only with "
            "learner.reduction=sum does what comes before the sentences cancel."
        )
    if cfg.learner.nll_weight:
        yield (
            f"learner.nll_weight={cfg.learner.nll_weight} does not go together with method.stages.pair=SentencePairs: it "
            "would train what comes before the sentences as well."
        )


def _score_faults(cfg: DictConfig) -> Iterator[str]:
    rules = cfg.iteration.pairing
    if rules.score == "f_score" and rules.margin >= 1:
        yield (
            f"iteration.pairing.margin={rules.margin} is more than F-scores differ by, which are between 0 and 1; 0.1 is a "
            "start."
        )
    if rules.score_weight != 1 and rules.score not in WEIGHTED_SCORES:
        yield (
            f"iteration.pairing.score_weight={rules.score_weight} has no effect with iteration.pairing.score={rules.score}; "
            f"it is for {' and '.join(WEIGHTED_SCORES)}."
        )


def _loss_faults(cfg: DictConfig) -> Iterator[str]:
    if cfg.learner.label_smoothing > 0 and cfg.learner.loss not in SMOOTHED:
        yield (
            f"learner.label_smoothing={cfg.learner.label_smoothing} has no effect with learner.loss={cfg.learner.loss}; it is "
            f"for {' and '.join(SMOOTHED)}."
        )


def _train_parts_faults(cfg: DictConfig) -> Iterator[str]:
    unknown = set(cfg.learner.train_parts) - {"vision", "projector", "language_model"}
    if unknown or not cfg.learner.train_parts:
        yield (
            f"learner.train_parts={list(cfg.learner.train_parts)} must name at least one of vision, projector and "
            "language_model, and nothing else."
        )
    elif cfg.learner.lora is not None and set(cfg.learner.train_parts) != USUAL_PARTS:
        yield (
            f"learner.train_parts={list(cfg.learner.train_parts)} has no effect with learner.lora, whose adapters train "
            "alone; leave train_parts out, or set learner.lora=null."
        )


LEARNING_CHECKS: tuple[Callable[[DictConfig], Iterator[str]], ...] = (
    _smoothing_faults,
    _weighting_faults,
    _quantization_faults,
    _normalization_faults,
    _prefix_faults,
    _score_faults,
    _loss_faults,
    _train_parts_faults,
)
