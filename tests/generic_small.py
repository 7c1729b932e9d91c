"""Shrunken models of families without an adapter: folders with weights, tokenizer, processor and chat template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.family_small import CLIP, IMAGENET, STEPS, save_qwen_tokenizer

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# SmolVLM's: an answer begins with a space and ends with a token of its own.
SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def qwen3_vl(folder: Path) -> Any:
    import transformers as hf

    ids = save_qwen_tokenizer(folder, ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"))
    config = hf.Qwen3VLConfig(
        vision_config={
            "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
            "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config=TEXT | {
            "vocab_size": ids["size"],
            "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    hf.Qwen3VLProcessor(
        hf.Qwen2VLImageProcessorPil(patch_size=16, temporal_patch_size=2, merge_size=2, min_pixels=4096),
        hf.AutoTokenizer.from_pretrained(folder),
        hf.Qwen3VLVideoProcessor(),
        chat_template=CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)
    return hf.Qwen3VLForConditionalGeneration(config), ids["<|im_end|>"]


def smolvlm(folder: Path) -> Any:
    import transformers as hf

    specials = ("<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>")
    tiles = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    ids = save_qwen_tokenizer(folder, (*specials, *tiles))
    config = hf.SmolVLMConfig(
        vision_config=VISION | {"image_size": 64, "patch_size": 8},
        text_config=TEXT | {"vocab_size": ids["size"], "model_type": "llama", "pad_token_id": 0},
        image_token_id=ids["<image>"], scale_factor=4,
    )  # fmt: skip
    hf.SmolVLMProcessor(
        hf.SmolVLMImageProcessorPil(
            **{**STEPS, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_image_splitting": True, "do_pad": True},
            size={"longest_edge": 128}, max_image_size={"longest_edge": 64},
        ),
        hf.AutoTokenizer.from_pretrained(folder), hf.SmolVLMVideoProcessor(size={"longest_edge": 64}),
        image_seq_len=4, chat_template=SMOLVLM,
    ).save_pretrained(folder)  # fmt: skip
    return hf.SmolVLMForConditionalGeneration(config), ids["<end_of_utterance>"]


def gemma3(folder: Path) -> Any:
    import transformers as hf

    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    ids = save_qwen_tokenizer(folder, tuple(names.values()), names)
    config = hf.Gemma3Config(
        vision_config=VISION | {"image_size": 56, "patch_size": 14},
        text_config=TEXT | {"vocab_size": ids["size"], "sliding_window": 64, "query_pre_attn_scalar": 16},
        mm_tokens_per_image=4, image_token_index=ids["<image_soft_token>"],
        boi_token_index=ids["<start_of_image>"], eoi_token_index=ids["<end_of_image>"],
    )  # fmt: skip
    hf.Gemma3Processor(
        hf.Gemma3ImageProcessorPil(size={"height": 56, "width": 56}),
        hf.AutoTokenizer.from_pretrained(folder),
        image_seq_length=4,
        chat_template=CHATML.replace("IMAGE", "<start_of_image>"),
    ).save_pretrained(folder)
    return hf.Gemma3ForConditionalGeneration(config), ids["<|im_end|>"]


def internvl(folder: Path) -> Any:
    import transformers as hf

    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
             "video_token": "<video>"}  # fmt: skip
    ids = save_qwen_tokenizer(folder, tuple(names.values()), names)
    config = hf.InternVLConfig(
        vision_config=VISION | {"image_size": [56, 56], "patch_size": [14, 14]},
        text_config=TEXT | {"vocab_size": ids["size"], "model_type": "qwen3"},
        image_token_id=ids["<IMG_CONTEXT>"], image_seq_length=4,
    )  # fmt: skip
    hf.InternVLProcessor(
        hf.GotOcr2ImageProcessorPil(
            size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4, **IMAGENET
        ),
        hf.AutoTokenizer.from_pretrained(folder), hf.InternVLVideoProcessor(size={"height": 56, "width": 56}),
        image_seq_length=4, chat_template=CHATML.replace("IMAGE", "<IMG_CONTEXT>\n"),
    ).save_pretrained(folder)  # fmt: skip
    return hf.InternVLForConditionalGeneration(config), ids["<|im_end|>"]


def mistral3(folder: Path) -> Any:
    import transformers as hf

    ids = save_qwen_tokenizer(folder, ("[IMG]", "[IMG_BREAK]", "[IMG_END]"))
    config = hf.Mistral3Config(
        vision_config=VISION | {"image_size": 84, "patch_size": 14, "head_dim": 16, "model_type": "pixtral"},
        text_config=TEXT | {"vocab_size": ids["size"], "model_type": "mistral"},
        image_token_index=ids["[IMG]"], spatial_merge_size=2,
    )  # fmt: skip
    hf.PixtralProcessor(
        hf.PixtralImageProcessorPil(patch_size=14, size={"longest_edge": 84}, **CLIP),
        hf.AutoTokenizer.from_pretrained(folder), patch_size=14, spatial_merge_size=2,
        chat_template=CHATML.replace("IMAGE", "[IMG]"),
        image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]",
    ).save_pretrained(folder)  # fmt: skip
    return hf.Mistral3ForConditionalGeneration(config), ids["<|im_end|>"]


def llava_onevision(folder: Path) -> Any:
    import transformers as hf

    ids = save_qwen_tokenizer(folder, ("<image>", "<video>"))
    config = hf.LlavaOnevisionConfig(
        vision_config=VISION | {"image_size": 56, "patch_size": 14, "model_type": "siglip_vision_model",
                                "vision_use_head": False},
        text_config=TEXT | {"vocab_size": ids["size"], "model_type": "qwen2"},
        image_token_id=ids["<image>"], video_token_id=ids["<video>"], vision_feature_layer=-1,
        vision_feature_select_strategy="full", image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
    )  # fmt: skip
    hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessorPil(
            size={"height": 56, "width": 56}, image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]]
        ),
        hf.AutoTokenizer.from_pretrained(folder), hf.LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56}),
        num_image_tokens=16, vision_feature_select_strategy="full", chat_template=CHATML.replace("IMAGE", "<image>\n"),
    ).save_pretrained(folder)  # fmt: skip
    return hf.LlavaOnevisionForConditionalGeneration(config), ids["<|im_end|>"]


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
    "gemma3": gemma3,
    "internvl": internvl,
    "mistral3": mistral3,
    "llava_onevision": llava_onevision,
}


def save(family: str, folder: Path) -> Path:
    """The family's shrunken model with random weights wide enough apart that answers differ."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model, end = FAMILIES[family](folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.2 / parameter[0].numel() ** 0.5)
            elif "language_model" in name and "norm" in name:
                parameter.normal_(0, 1.0)
        # Gemma multiplies embeddings by the root of their width.
        model.get_input_embeddings().weight.normal_(0, 0.1 if family == "gemma3" else 0.8)
    model.generation_config.eos_token_id = end
    model.save_pretrained(folder)
    return folder
