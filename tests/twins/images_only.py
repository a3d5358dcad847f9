"""Qwen's real processors without their part for videos, which alone needs torchvision; nothing happens where that is there.

python -m tests.twins.images_only SCRIPT ARGUMENTS    runs a script of this project so, as `python SCRIPT ARGUMENTS` would
"""

import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from transformers import ProcessorMixin, Qwen2_5_VLProcessor, Qwen3VLProcessor
from transformers.utils import is_torchvision_available

from rlaifv.models import families


@contextmanager
def images_only() -> Iterator[None]:
    """Let both classes be built, saved and loaded of an image processor and a tokenizer alone."""
    with pytest.MonkeyPatch.context() as patch:
        if not is_torchvision_available():
            patch.setattr(families, "is_torchvision_available", lambda: True)
            base = ProcessorMixin.__init__
            patch.setattr(ProcessorMixin, "__init__", lambda self, *parts, **more: base(self, *_given(parts), **more))
            for processor in (Qwen2_5_VLProcessor, Qwen3VLProcessor):
                patch.setattr(processor, "__init__", _without_videos(processor.__init__))
        yield


def _given(parts: tuple[Any, ...]) -> list[Any]:
    return [part for part in parts if part is not None]


def _without_videos(begin: Any) -> Any:
    # The loader reads off the parameters which parts a processor has.
    def __init__(
        self: Any, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **more: Any
    ) -> None:
        begin(self, image_processor, tokenizer, None, chat_template, **more)

    return __init__


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    with images_only():
        runpy.run_path(sys.argv[0], run_name="__main__")
