"""The small LLaVA of the embedded world: CLIP tower, Llama, word-level tokenizer, processor and chat template.

All parts are ordinary Hugging Face objects, so code that runs on them also runs on LLaVA-1.5.
"""

import copy
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from rlaifv.worlds.shapes import COLOURS, POSITIONS, QUESTIONS, SHAPES

WEIGHTS_DIR = Path(__file__).parent / "shapes_llava"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% if message['role'] == 'user' %} {% else %}</s>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
OTHER_WORDS = (
    "USER ASSISTANT There there At A Nothing is a an at the of in on and or not no yes Yes No Is Does Are it true that "
    "image picture statement following about Please answer"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer; each word keeps its leading space, so decoding restores the text exactly."""
    words: list[str] = []
    for text in (*COLOURS, *SHAPES, *POSITIONS, *QUESTIONS, OTHER_WORDS):
        words += "".join(c if c.isalnum() else " " for c in text).split()
    words = list(dict.fromkeys(words))
    vocabulary = [*SPECIAL_TOKENS, "\n", " ", *".,:;!?'\"", *words, *(" " + word for word in words)]
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|\s|[^\w\s]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=512,
    )


def build_processor() -> LlavaProcessor:
    """Build a processor from the tokenizer and a 48-pixel CLIP image processor; one image is nine tokens."""
    size = {"height": 48, "width": 48}
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": 48}, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, hidden_size: int = 192, num_layers: int = 4, vision_layers: int = 3
) -> LlavaForConditionalGeneration:
    """Build a LLaVA with random weights for this tokenizer; 2.4M parameters at the default size."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=vision_layers,
        num_attention_heads=4,
        image_size=48,
        patch_size=16,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=512,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=hidden_size // 32,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.vocab["<image>"],
        image_seq_length=9,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def save_small(model: LlavaForConditionalGeneration, processor: LlavaProcessor, directory: Path) -> None:
    """Save model and processor in the hub's layout, the weights in bfloat16 (5 MB); runs load them as float32."""
    copy.deepcopy(model).bfloat16().save_pretrained(directory)
    processor.save_pretrained(directory)
