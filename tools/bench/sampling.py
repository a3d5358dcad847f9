"""Benchmark sampling against transformers' `generate`, with the same random weights in the same process.

    python -m tools.bench.sampling --size small --images 8 --answers 10 --tokens 100

The last line is JSON: seconds of both (`ours`, `peer`), `ratio` (peer over ours), `flop_floor_ratio` (the ratio of the
FLOPs that each scheme needs), `tokens` (sampled by each), peak bytes of device memory (null on a CPU), and `device`.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from rlaifv.models.budget.flops import model_cost
from rlaifv.models.budget.layout import image_layout
from rlaifv.models.prompting import EncodedPrompt, stack_images
from rlaifv.models.sampling import Decoding
from rlaifv.models.tree.decoder import sample_branches

PROMPT_TOKENS = 30
IMAGE_TOKEN, END_TOKEN = 31_999, 2
PEERS = ("generate",)


def build_llava(size: str, device: torch.device) -> Any:
    """Build a LLaVA with random weights, 576 image tokens, and the size of LLaVA-1.5-7B ("7b") or a small size."""
    vision: dict[str, Any] = {"image_size": 336, "patch_size": 14}
    text: dict[str, Any] = {"vocab_size": 32_064, "max_position_embeddings": 4096}
    if size == "7b":
        vision |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
        dtype = torch.bfloat16
    else:
        vision |= {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
        text |= {"vocab_size": 32_000, "hidden_size": 512, "intermediate_size": 1376}
        text |= {"num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8}
        dtype = torch.float32
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**vision),
        text_config=LlamaConfig(**text),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=576,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)


def make_prompts(model: Any, num_images: int) -> list[EncodedPrompt]:
    """Build prompts of a random image and the same number of random words each."""
    generator = torch.Generator().manual_seed(0)
    prompts = []
    for _ in range(num_images):
        words = torch.randint(3, IMAGE_TOKEN, (PROMPT_TOKENS,), generator=generator).tolist()
        pixels = torch.randn(1, 3, 336, 336, generator=generator).to(model.device, model.dtype)
        prompts.append(EncodedPrompt((*words[:5], *[IMAGE_TOKEN] * 576, *words[5:]), {"pixel_values": pixels}))
    return prompts


def sample_with_ours(model: Any, prompts: list[EncodedPrompt], num_answers: int, num_tokens: int) -> int:
    """Sample answers and return the number of tokens sampled."""
    seeds = [[100 * k + j for j in range(num_answers)] for k in range(len(prompts))]
    decoding = Decoding(max_new_tokens=num_tokens)
    drawn = sample_branches(model, prompts, seeds, decoding, (), (END_TOKEN, IMAGE_TOKEN), batch_tokens=2**31)
    return sum(len(answer.token_ids) for _, answers in drawn for answer in answers)


@torch.no_grad()
def sample_with_generate(model: Any, prompts: list[EncodedPrompt], num_answers: int, num_tokens: int) -> int:
    """Sample answers and return the number of tokens sampled."""
    ids = torch.tensor([prompt.ids for prompt in prompts], device=model.device)
    drawn = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **stack_images(prompts),
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=num_answers,
        max_new_tokens=num_tokens,
        suppress_tokens=[END_TOKEN, IMAGE_TOKEN],
        pad_token_id=0,
    )
    return drawn[:, ids.shape[1] :].numel()


def flop_floor_ratio(model: Any, num_answers: int, num_tokens: int) -> float:
    """Return the FLOPs of an image's answers with one prefix each, divided by those with a shared prefix."""
    cost = model_cost(model.config, image_layout(model.config))
    prefix = 576 + PROMPT_TOKENS
    beside = cost.vision_flops + cost.projector_flops + cost.head_flops(num_answers * num_tokens)
    apart = num_answers * cost.language_flops(prefix, 1, num_tokens)
    return (beside + apart) / (beside + cost.language_flops(prefix, num_answers, num_tokens))


def measure(run: Callable[[], int], repeats: int, device: torch.device) -> tuple[float, int, int | None]:
    """Return median seconds, the value of `run`, and peak device bytes (None on a CPU), after one warm-up run."""
    seconds = []
    for k in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = perf_counter()
        value = run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if k:
            seconds.append(perf_counter() - start)
    return statistics.median(seconds), value, torch.cuda.max_memory_allocated() if device.type == "cuda" else None


def main() -> None:
    """Run the benchmark and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "7b"), default="small")
    parser.add_argument("--peer", choices=PEERS, default="generate")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--answers", type=int, default=10, help="per image")
    parser.add_argument("--tokens", type=int, default=100, help="per answer")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_llava(args.size, device)
    prompts = make_prompts(model, args.images)
    rows = {}
    for name, sample in (("ours", sample_with_ours), ("peer", sample_with_generate)):
        rows[name] = measure(lambda s=sample: s(model, prompts, args.answers, args.tokens), args.repeats, device)  # type: ignore[misc]
        seconds, tokens, peak = rows[name]
        memory = "" if peak is None else f"{peak / 2**30:10.1f} GiB"
        print(f"{name:5} {seconds:9.2f} s {tokens / seconds:10.0f} tokens/s{memory}")
    (ours, drawn, ours_peak), (peer, peer_drawn, peer_peak) = rows["ours"], rows["peer"]
    if drawn != peer_drawn:
        raise SystemExit(f"The two drew {drawn} and {peer_drawn} tokens, so their times cannot be compared.")
    result = {
        "ours": ours,
        "peer": peer,
        "ratio": peer / ours,
        "tokens": drawn,
        "flop_floor_ratio": flop_floor_ratio(model, args.answers, args.tokens),
        "ours_peak_bytes": ours_peak,
        "peer_peak_bytes": peer_peak,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
