"""Weights & Biases logger whose failures do not end a run, unless tracking is required."""

import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from rlaifv.runtime.seeds import derive_seed

logger = logging.getLogger(__name__)

MOST_FAILURES = 3
# Timeout of `wandb.init`.
INIT_SECONDS = 60


def _unless_it_fails(method: Callable[..., Any]) -> Callable[..., Any]:
    """Turn exceptions of `method` into warnings; after `MOST_FAILURES` failures in a row, skip all further calls."""

    @wraps(method)
    def guarded(self: "WandbTracking", *arguments: Any, **options: Any) -> Any:
        if self.num_failures == MOST_FAILURES:
            return None
        try:
            result = method(self, *arguments, **options)
        except Exception as error:
            if self.required:
                raise
            self.num_failures += 1
            end = " Nothing more is sent to it." if self.num_failures == MOST_FAILURES else ""
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("Weights & Biases failed (%s); the run goes on without it.%s", reason, end)
            return None
        self.num_failures = 0
        return result

    return guarded


class WandbTracking(WandbLogger):
    """Lightning's Weights & Biases logger with a run id that stays the same when a run is resumed.

    Args:
        save_dir: the run directory; offline data is stored here, and the run id is derived from its path.
        required: whether a failure of the service ends the run.
        options: further arguments of `WandbLogger`.
    """

    def __init__(self, save_dir: str, required: bool = False, **options: Any) -> None:
        run_id = f"{derive_seed(str(Path(save_dir).absolute())):x}"
        settings = {"init_timeout": INIT_SECONDS}
        super().__init__(save_dir=save_dir, id=run_id, resume="allow", settings=settings, **options)
        self.required = required
        self.num_failures = 0

    log_metrics = _unless_it_fails(WandbLogger.log_metrics)
    log_hyperparams = _unless_it_fails(WandbLogger.log_hyperparams)
    log_table = _unless_it_fails(WandbLogger.log_table)
    log_image = _unless_it_fails(WandbLogger.log_image)
    save = _unless_it_fails(WandbLogger.save)
    finalize = _unless_it_fails(WandbLogger.finalize)
    after_save_checkpoint = _unless_it_fails(WandbLogger.after_save_checkpoint)
