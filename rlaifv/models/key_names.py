"""Names of LLaVA's weights: transformers' current names, the hub checkpoints' names, and the LLaVA authors' names.

    authors (liuhaotian/llava-v1.5-7b)                    hub (llava-hf/llava-1.5-7b-hf)
    model.vision_tower.vision_tower.vision_model.…        vision_tower.vision_model.…       now: vision_tower.…
    model.mm_projector.0.…, model.mm_projector.2.…        multi_modal_projector.linear_1.…, multi_modal_projector.linear_2.…
    model.layers.…, model.norm.…, model.embed_tokens.…    language_model.model.…
    lm_head.weight                                        language_model.lm_head.weight

vLLM, lmms-eval and transformers before version 5 expect the hub's names.
"""

# Families whose tower lost a level of its name, as CLIP's and SigLIP's own models did.
RENAMED_TOWERS = ("llava", "llava_next", "llava_onevision", "gemma3")

_AUTHORS = (
    ("model.vision_tower.vision_tower.", "vision_tower."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model.model."),
)


def original_name(name: str, model_type: str) -> str:
    """Return the hub's name of a tensor that transformers wrote.

    >>> original_name("vision_tower.encoder.layers.0.mlp.fc1.bias", "llava")
    'vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias'
    >>> original_name("vision_tower.embeddings.patch_embedding.bias", "gemma3")
    'vision_tower.vision_model.embeddings.patch_embedding.bias'
    >>> original_name("language_model.lm_head.weight", "llava")
    'language_model.lm_head.weight'
    """
    tower = "vision_tower."
    if model_type in RENAMED_TOWERS and name.startswith(tower) and not name.startswith(f"{tower}vision_model."):
        return f"{tower}vision_model.{name.removeprefix(tower)}"
    return name


def name_from_authors(name: str) -> str:
    """Return the hub's name of a tensor in a checkpoint of LLaVA's authors.

    >>> name_from_authors("model.mm_projector.2.weight")
    'multi_modal_projector.linear_2.weight'

    Raises:
        ValueError: a tensor of no part of LLaVA-1.5.
    """
    for old, new in _AUTHORS:
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise ValueError(f"The tensor {name!r} belongs to no part of a LLaVA-1.5 checkpoint.")
