"""Align a vision-language model with feedback from open models: compose, check, build, fit, report.

python train.py                                                   the embedded world, minutes on a CPU
python train.py experiment=llava7b_self data.path=prompts.jsonl   LLaVA-1.5-7B with feedback from itself
python train.py --help                                            keys and groups
"""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import seed_everything
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig

from rlaifv.app.build import build, made, precision_arguments, set_rank_timeout
from rlaifv.app.earlier import earlier_runs
from rlaifv.app.faults import size_and_check
from rlaifv.app.launch import (
    ADAPTER_NAME,
    begin_run,
    checkpoint_to_resume,
    fit,
    is_finished,
    label,
    print_result,
    register_resolvers,
    run_config,
    user_errors,
    without_groups,
    working_in,
)
from rlaifv.app.preflight import print_preflight
from rlaifv.callbacks.progress import TrainingProgress
from rlaifv.models.loading import export_model
from rlaifv.report.page import write_report
from rlaifv.runtime.console import console, set_up_logging
from rlaifv.runtime.phases import kept, measured, save, timed
from rlaifv.runtime.ranks import end_with_parent, rank
from rlaifv.runtime.stopping import stoppable, wait_until

register_resolvers()


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(composed: DictConfig) -> None:
    """Compose and check; what a user can mend ends here, before anything is downloaded or loaded."""
    set_up_logging(composed.verbose)
    end_with_parent()
    with user_errors(composed), measured():
        with timed("settings"):
            cfg, run_dir = run_config(composed)
            if cfg.resume is not None and is_finished(cfg, run_dir):
                console.print(f"{run_dir} is finished; there is nothing left to do.", soft_wrap=True)
                return
            earlier = [one for one in earlier_runs(cfg, run_dir) if not one.is_finished()]
            for one in earlier:
                size_and_check(one.cfg, one.overrides)
                print_preflight(one.cfg, one.run_dir)
            size_and_check(cfg, HydraConfig.get().overrides.task)
            print_preflight(cfg, run_dir)
        if not cfg.preflight_only:
            with stoppable(), working_in(run_dir), kept(run_dir if rank() == 0 else None):
                begin_run(cfg, run_dir)
                for one in earlier:  # all of their settings, so that a resumed run knows them
                    begin_run(one.cfg, one.run_dir)
                for one in earlier:
                    with measured(), kept(one.run_dir if rank() == 0 else None):
                        train(one.cfg, one.run_dir)
                    if rank() > 0:  # what comes next reads what the first rank exports
                        wait_until(one.is_finished)
                train(cfg, run_dir)


def train(cfg: DictConfig, run_dir: Path) -> None:
    """Build everything from plain values, fit, and report."""
    seed_everything(cfg.seed, workers=True, verbose=False)
    set_rank_timeout(cfg.rank_timeout_seconds)
    run = build(cfg, run_dir)
    callbacks = made(cfg.callbacks)
    trainer = instantiate(
        cfg.trainer,
        default_root_dir=str(run_dir),
        max_epochs=cfg.iteration.num_iterations * cfg.iteration.epochs,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        callbacks=[*run.callbacks, TrainingProgress(), *callbacks],
        logger=made(cfg.logger),
        **precision_arguments(cfg),
    )
    if cfg.run == "label":
        label(trainer, run.label_run)
    else:
        fit(trainer, run.module, run.data, checkpoint_to_resume(cfg, run_dir))
    for logger in trainer.loggers if rank() == 0 else ():
        getattr(logger.experiment, "finish", bool)()  # W&B would go on with this run in the next one
    if rank() == 0:
        if cfg.run != "label":
            processor = run.policy.prompter.processor
            export_model(run.module.policy, processor, run_dir / "export", run_dir / ADAPTER_NAME)
            run.module.export_beside(run_dir / "export")
            run.candidates.tidy(cfg.iteration.num_iterations - 1, is_over=True)
        save()
        with timed("report"):
            write_report(run_dir)
        save()
        print_result(run_dir, cfg.iteration.num_iterations, cfg.run)


if __name__ == "__main__":
    sys.argv[1:] = without_groups(sys.argv[1:])
    sys.exit(main())
