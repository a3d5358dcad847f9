"""Train the embedded world's LLaVA from random weights and save it in the package.

    python tools/dev/pretrain_shapes.py                            an hour on one CPU core, half on two
    python tools/dev/pretrain_shapes.py --output DIR --steps 20    a quick trial
    python tools/dev/pretrain_shapes.py --output DIR --steps 400 --start rlaifv/worlds/shapes_llava --style plain
                                                               another model, truthful and with different wording

The recipe is `rlaifv.worlds.shapes_pretrain.PretrainSettings`; equal settings give equal weights on equal hardware.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from rlaifv.runtime.console import progress_bar, set_up_logging
from rlaifv.worlds.shapes_model import WEIGHTS_DIR, save_small
from rlaifv.worlds.shapes_pretrain import CAPTIONS, PretrainSettings, StepReport, pretrain

FINE_TUNING_RATE = 3e-4


def main() -> None:
    """Train with a progress bar and save the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=WEIGHTS_DIR, help="directory to write (default: the package's)")
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps (default: the committed number)")
    parser.add_argument("--start", type=Path, default=None, help="directory of weights to go on from (default: random)")
    parser.add_argument("--style", choices=CAPTIONS, default="biased", help="of the captions")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    arguments = parser.parse_args()
    set_up_logging()
    torch.set_num_threads(arguments.threads)
    settings = PretrainSettings(style=arguments.style)
    if arguments.steps is not None:
        settings = replace(settings, num_steps=arguments.steps)
    if arguments.start is not None:  # the default schedule's learning rate is for random weights
        settings = replace(settings, cosine_steps=settings.num_steps, learning_rate=FINE_TUNING_RATE)
    with progress_bar() as bars:
        task = bars.add_task("pretrain", total=settings.num_steps, note="drawing scenes")
        for result in pretrain(settings, arguments.start):
            if isinstance(result, StepReport):
                note = f"caption {result.caption_loss:.3f}  yes/no accuracy {result.polar_accuracy:.2f}"
                bars.update(task, completed=result.step, note=note)
            else:
                save_small(*result, arguments.output)
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
