"""InternVL3 (HF format) against plain transformers, at the true tile and patch sizes."""

import pytest
import torch

from semclip_eval.errors import ConfigError
from semclip_eval.models.transformers.internvl import InternVL
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.types import Prompt, Request
from tests.family_boxes import check_box_prompt, check_hide
from tests.family_boxes import check_program as check_boxes_program
from tests.family_insight import check_insight, check_token_boxes
from tests.family_small import (
    IMAGENET,
    QUESTION,
    Reference,
    chat_text,
    check_answers,
    check_batch,
    check_dummy,
    check_odd_texts,
    check_overview_is_shared,
    check_program,
    check_weight_names,
    golden,
    save_checkpoint,
    save_qwen_tokenizer,
    three_selections,
)
from tests.llava_small import noise_image

# transformers, models/internvl/convert_internvl_weights_to_hf.py, with which OpenGVLab/InternVL3-8B-hf was made.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = {
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("internvl"), tuple(NAMES.values()))


@pytest.fixture(scope="module")
def grounding_folder(tmp_path_factory):
    """With the marks of boxes as single tokens, as published."""
    return saved(tmp_path_factory.mktemp("internvl"), (*NAMES.values(), "<ref>", "</ref>", "<box>", "</box>"))


def saved(place, specials):
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    ids = save_qwen_tokenizer(place, specials, NAMES)
    torch.manual_seed(0)
    config = InternVLConfig(
        vision_config={
            "image_size": [448, 448], "patch_size": [14, 14], "hidden_size": 16, "intermediate_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 2, "attention_bias": True, "norm_type": "layer_norm",
            "use_mean_pooling": True, "use_absolute_position_embeddings": True,
        },
        text_config={
            "model_type": "qwen2", "vocab_size": ids["size"], "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 4096, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
            "eos_token_id": ids["<|im_end|>"],
        },
        image_token_id=ids["<IMG_CONTEXT>"], tie_word_embeddings=False, downsample_ratio=0.5, vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    preprocessor = IMAGENET | {
        "image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": False, "min_patches": 1, "max_patches": 12,
        "size": {"height": 448, "width": 448},
    }  # fmt: skip
    return save_checkpoint(place, InternVLForConditionalGeneration(config), preprocessor, ids["<|im_end|>"])


def built(**settings):
    return InternVL(**{"name": "small", "hub_id": None} | settings)


@pytest.fixture(scope="module")
def vlm(folder):
    return built(path=str(folder))


@pytest.fixture(scope="module")
def reference(folder):
    return reference_of(folder)


def reference_of(folder):
    from transformers import (
        AutoTokenizer,
        GotOcr2ImageProcessorPil,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        video_processor=InternVLVideoProcessor(),
        image_seq_length=256,
        chat_template=CHAT_TEMPLATE,
    )
    model = InternVLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return Reference(model, processor, "", "<|im_end|>", lambda asked: chat_text(processor, asked))


def test_prompt_is_the_published_chat_template(reference):
    asked = Request((noise_image(0),) * 2, Prompt(QUESTION))
    assert CONVERSATIONS["internvl3"].prompt(QUESTION, 2) == golden("internvl3") == reference.text_of(asked)


@pytest.mark.parametrize("selector", ["no_crop", "full_crop", "semclip"])
def test_answers_equal_plain_transformers(vlm, reference, selector):
    check_answers(vlm, reference, three_selections(100, 100)[selector])


def test_tiles_of_wide_and_tall_views(vlm, reference):
    check_answers(vlm, reference, (noise_image(1, 200, 100), noise_image(2, 50, 150)))


def test_odd_texts_have_the_ids_of_the_published_processor(vlm, reference):
    check_odd_texts(vlm, reference)


def test_answers_do_not_depend_on_the_batch(vlm):
    check_batch(vlm, three_selections(100, 100))


def test_the_program_answers_as_plain_transformers_with_every_selector_and_protocol(folder, reference, tmp_path):
    check_program("internvl3_8b", folder, reference, tmp_path)


def test_an_overview_passes_the_tower_once_for_all_questions_and_selectors(vlm):
    check_overview_is_shared(vlm, three_selections(100, 100))


@pytest.mark.parametrize(
    ("size", "tiles"),
    # (width, height): the grid of the closest shape; of equal shapes a larger one only where the image is more than
    # half of it. More than one tile brings a thumbnail.
    [
        ((448, 448), 1),
        ((1000, 500), 2 + 1),  # 4x2 tiles would be 1.6 million pixels, more than twice the image
        ((640, 480), 12 + 1),  # only 4x3 is exactly of that shape, however small the image
        ((1500, 1500), 9 + 1),
        ((90, 1), 12 + 1),
        ((1, 1), 1),
    ],
)
def test_visual_tokens_by_size(folder, size, tiles):
    vlm = built(path=str(folder))
    prepared = vlm.prepare(Request((noise_image(0, *size),), Prompt("Is it red?")))
    assert prepared.visual_tokens == prepared.input_ids.count(vlm.image_id) == 256 * tiles
    assert prepared.pixel_values.shape == (tiles, 3, 448, 448)
    first, last = prepared.input_ids.index(vlm.image_id), len(prepared.input_ids) - 1
    last -= prepared.input_ids[::-1].index(vlm.image_id)
    assert vlm.tokenizer.convert_ids_to_tokens([prepared.input_ids[first - 1], prepared.input_ids[last + 1]]) == [
        "<img>",
        "</img>",
    ]


def test_max_patches_bounds_the_tiles(folder):
    vlm = built(path=str(folder), max_patches=4)
    # Of the grids of up to four tiles, 1x1 is closest to 4:3, no thumbnail.
    assert vlm.prepare(Request((noise_image(0, 640, 480),), Prompt("Is it red?"))).visual_tokens == 256
    assert built(path=str(folder), max_patches=1).prepare(
        Request((noise_image(0, 1000, 100),), Prompt("Is it red?"))
    ).visual_tokens == 256  # fmt: skip
    with pytest.raises(ConfigError, match=r"model.max_patches=0: must be at least 1"):
        built(path=str(folder), max_patches=0)


def test_views_beyond_the_context_are_refused_before_the_run(vlm):
    vlm.check_views(15, new_tokens=100)
    with pytest.raises(ConfigError, match=r"16 views x at least 256 visual tokens .*; at most 15 views fit"):
        vlm.check_views(16, new_tokens=100)


def test_dummy_runs_the_shape_of_a_folders_config(folder):
    check_dummy(built, folder)


def test_weights_have_the_published_names(folder):
    check_weight_names(
        folder,
        "vision_tower.embeddings.cls_token",
        "vision_tower.encoder.layer.0.attention.q_proj.weight",
        "multi_modal_projector.layer_norm.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    )


def test_what_it_tells_a_selector_equals_plain_transformers(vlm, reference):
    check_insight(vlm, reference, square=True)


def test_its_tokens_have_places(vlm):
    check_token_boxes(vlm, [(400, 300), (90, 340), (500, 120), (64, 64), (333, 777)])


def test_hide_shows_the_collage_of_the_published_code(vlm, reference):
    check_hide(vlm, reference, noise_image(8, 160, 160), (16, 16), 2, "\n<|im_start|>assistant\n")


def test_boxes_are_asked_for_with_the_marks_that_are_single_tokens(grounding_folder):
    vlm = built(path=str(grounding_folder))
    check_box_prompt(vlm, reference_of(grounding_folder))
    prepared = vlm.prepare(Request((noise_image(0, 50, 50),), vlm.box_prompt("star", 9)))
    marks = [prepared.input_ids.count(vlm.tokenizer.convert_tokens_to_ids(mark)) for mark in ("<ref>", "</ref>")]
    assert marks == [1, 1]
    # A question's own marks stay text, and so do all of them for a tokenizer that has none.
    plain = vlm.prepare(Request((), Prompt("<ref>star</ref>")))
    assert vlm.tokenizer.convert_tokens_to_ids("<ref>") not in plain.input_ids
    assert vlm.read_boxes("star[[250, 0, 500, 1000]]", 200, 80) == [(50, 0, 100, 80)]


def test_the_program_runs_hide_and_self_box(folder, tmp_path):
    check_boxes_program("internvl3_8b", folder, tmp_path)
