"""Qwen2.5-VL against plain transformers, at the true patch, merge and window sizes."""

import pytest
import torch
from PIL import Image

from semclip_eval.errors import ConfigError, ModelError, QuestionError
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.models.transformers.qwen25_vl import Qwen25VL
from semclip_eval.types import Prompt, Request
from tests.family_boxes import check_box_prompt, check_hide
from tests.family_boxes import check_program as check_boxes_program
from tests.family_insight import check_dropping, check_focus, check_insight, check_token_boxes
from tests.family_small import (
    CLIP,
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

# chat_template.json of Qwen/Qwen2.5-VL-7B-Instruct.
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in "
    "content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}"
    "Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == "
    "'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video "
    "{{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    place = tmp_path_factory.mktemp("qwen25_vl")
    ids = save_qwen_tokenizer(place, SPECIALS)
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
            "fullatt_block_indexes": [1, 3],
        },
        text_config={
            "vocab_size": ids["size"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "rope_theta": 10000.0,
            "tie_word_embeddings": True, "eos_token_id": ids["<|im_end|>"],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    preprocessor = CLIP | {
        "image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14,
        "temporal_patch_size": 2, "merge_size": 2,
    }  # fmt: skip
    return save_checkpoint(place, Qwen2_5_VLForConditionalGeneration(config), preprocessor, ids["<|im_end|>"])


def built(**settings):
    return Qwen25VL(**{"name": "small", "hub_id": None} | settings)


@pytest.fixture(scope="module")
def vlm(folder):
    return built(path=str(folder))


@pytest.fixture(scope="module")
def reference(folder):
    from transformers import (
        AutoTokenizer,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessorPil,
        Qwen2VLVideoProcessor,
    )

    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return Reference(model, processor, "", "<|im_end|>", lambda asked: chat_text(processor, asked))


def test_prompt_is_the_published_chat_template(reference):
    asked = Request((noise_image(0),) * 2, Prompt(QUESTION))
    ours = CONVERSATIONS["qwen25_vl"].prompt(QUESTION, 2)
    assert ours == golden("qwen25_vl") == chat_text(reference.processor, asked)
    assert "".join(segment.text for segment in CONVERSATIONS["qwen25_vl"].segments(QUESTION, 2)) == ours


@pytest.mark.parametrize("selector", ["no_crop", "full_crop", "semclip"])
def test_answers_equal_plain_transformers(vlm, reference, selector):
    check_answers(vlm, reference, three_selections()[selector])


def test_wide_and_tall_views_have_positions_of_their_own(vlm, reference):
    check_answers(vlm, reference, (noise_image(1, 400, 60), noise_image(2, 60, 300)))


def test_odd_texts_have_the_ids_of_the_published_processor(vlm, reference):
    check_odd_texts(vlm, reference)


def test_answers_do_not_depend_on_the_batch(vlm):
    check_batch(vlm, three_selections())


def test_the_program_answers_as_plain_transformers_with_every_selector_and_protocol(folder, reference, tmp_path):
    check_program("qwen25_vl_7b", folder, reference, tmp_path)


def test_an_overview_passes_the_tower_once_for_all_questions_and_selectors(vlm):
    check_overview_is_shared(vlm, three_selections())


@pytest.mark.parametrize(
    ("size", "tokens"),
    # By hand: 640/28 = 22.9, 480/28 = 17.1; below 3136 pixels both sides grow by sqrt(3136 / area) and are rounded up:
    # 300x2 by 2.29 to 685.9x4.6, 13x90 by 1.64 to 21.3x147.3.
    [((640, 480), 23 * 17), ((100, 60), 4 * 2), ((1, 1), 2 * 2), ((28, 28), 2 * 2), ((300, 2), 25), ((13, 90), 6)],
)
def test_visual_tokens_by_size(vlm, size, tokens):
    prepared = vlm.prepare(Request((noise_image(0, *size),), Prompt("Is it red?")))
    assert prepared.visual_tokens == prepared.input_ids.count(vlm.image_id) == tokens
    assert prepared.pixel_values.shape == (4 * tokens, 3 * 2 * 14 * 14)


def test_pixels_are_pils_resize_in_patch_order(vlm):
    """A patch is 3 channels x 2 equal frames x 14 x 14; four neighbours that merge lie together."""
    import numpy as np

    image = noise_image(5, 70, 45)
    prepared = vlm.prepare(Request((image,), Prompt("Is it red?")))
    resized = np.asarray(image.resize((56, 56), Image.Resampling.BICUBIC)).astype(np.float64) / 255
    normal = ((resized - np.array(CLIP["image_mean"])) / np.array(CLIP["image_std"])).transpose(2, 0, 1)
    expected = []
    for block_row, block_column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            y, x = 14 * (2 * block_row + row), 14 * (2 * block_column + column)
            patch = normal[:, None, y : y + 14, x : x + 14]
            expected.append(np.concatenate([patch, patch], axis=1).ravel())
    np.testing.assert_allclose(prepared.pixel_values.numpy(), np.stack(expected), atol=2e-6)


def test_max_and_min_pixels_bound_a_view(folder):
    small = built(path=str(folder), max_pixels=20 * 784)
    large = built(path=str(folder), min_pixels=100 * 784)
    asked = Request((noise_image(0, 640, 480),), Prompt("Is it red?"))
    assert small.prepare(asked).visual_tokens == 5 * 3  # sqrt(640*480 / 15680) = 4.43: 144/28, 108/28 rounded down
    asked = Request((noise_image(0, 64, 48),), Prompt("Is it red?"))
    assert large.prepare(asked).visual_tokens == 12 * 9  # sqrt(78400 / 3072) = 5.05: 323/28, 242/28 rounded up


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_pixels": 100}, "model.max_pixels=100: must be at least model.min_pixels=3136 and 784"),
        ({"max_pixels": 0}, "model.max_pixels=0: must be at least 1"),
        ({"min_pixels": "many"}, "model.min_pixels=many: must be a whole number"),
        ({"conversation": "vicuna_v1"}, "model.conversation=vicuna_v1: must be one of qwen25_vl"),
    ],
)
def test_wrong_values_are_named_as_they_are_typed(folder, settings, message):
    with pytest.raises(ConfigError, match=message):
        built(path=str(folder), **settings)


def test_a_tokenizer_of_another_family_is_refused(folder, tmp_path):
    import shutil

    place = shutil.copytree(folder, tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = place / name
        file.write_text(file.read_text().replace("<|vision_start|>", "<|vision_begin|>"))
    with pytest.raises(ModelError, match=r"the tokenizer has no token <\|vision_start\|>"):
        built(path=str(place))


def test_views_beyond_the_context_are_refused_before_the_run(vlm):
    text = len(vlm.prepare(Request((), Prompt(""))).input_ids)
    per_view = 4 + 2  # 56x56 pixels at least, and the marks around them
    fitting = (2048 - 128 - text) // per_view
    vlm.check_views(fitting, new_tokens=128)
    with pytest.raises(
        ConfigError, match=rf"x at least 4 visual tokens .* context of 2048; at most {fitting} views fit"
    ):
        vlm.check_views(fitting + 1, new_tokens=128)


def test_special_tokens_in_a_question_stay_text(vlm):
    text = "Is <|image_pad|> or <|im_end|> here?"
    prepared = vlm.prepare(Request((noise_image(0),), Prompt(text, continuations=("<|im_end|>",))))
    assert prepared.input_ids.count(vlm.image_id) == prepared.visual_tokens
    assert prepared.input_ids.count(vlm.end_id) == 2  # those of the template
    assert prepared.continuation_ids[0].count(vlm.end_id) == 1
    assert text in vlm.tokenizer.decode(prepared.input_ids)


def test_an_option_that_the_tokenizer_joins_with_the_prompt_is_that_questions_error(folder):
    """As Qwen's own tokenizer has one token for two line breaks: where the prompt's ends, the option's began."""
    vlm = built(path=str(folder))
    vlm.encoder.add_tokens(["\n\n"])
    assert vlm.prepare(Request((), Prompt(QUESTION, continuations=("red",)))).continuation_ids
    with pytest.raises(QuestionError, match=r"the tokenizer joins the option '\\nred' with the end of the prompt"):
        vlm.prepare(Request((), Prompt(QUESTION, continuations=("\nred",))))


def test_dummy_runs_the_shape_of_a_folders_config(folder):
    check_dummy(built, folder)


def test_weights_have_the_published_names(folder):
    check_weight_names(
        folder,
        "visual.patch_embed.proj.weight",
        "visual.blocks.0.attn.qkv.weight",
        "visual.merger.mlp.0.weight",
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.weight",
    )


def test_what_it_tells_a_selector_equals_plain_transformers(vlm, reference):
    check_insight(vlm, reference)


def test_without_dropped_tokens_it_answers_as_masked_layers(vlm, reference):
    check_dropping(vlm, reference)


def test_focus_runs_on_it(folder, tmp_path):
    check_focus("qwen25_vl_3b", folder, tmp_path)


def test_its_tokens_have_places(vlm):
    check_token_boxes(vlm, [(400, 300), (90, 340), (500, 120), (64, 64), (333, 777)])


def test_hide_shows_the_collage_of_the_published_code(vlm, reference):
    # The published code begins behind <|vision_end|> and leaves out the last tokens but the turn's end.
    check_hide(vlm, reference, noise_image(8, 224, 168), (6, 8), 1, "\n<|im_start|>assistant\n")


def test_boxes_are_asked_for_and_read_in_pixels_of_the_resized_input(vlm, reference):
    check_box_prompt(vlm, reference)
    # By hand: the nearest multiples of 28 to 640 and 480, and both enlarged to at least 3136 pixels.
    assert (vlm.box_frame(640, 480), vlm.box_frame(28, 28)) == ((644, 476), (56, 56))
    assert vlm.read_boxes('[{"bbox_2d": [322, 119, 644, 476]}]', 640, 480) == [(320, 120, 640, 480)]
    smaller = built(path=vlm.settings.path, max_pixels=640 * 480 // 4)
    assert smaller.box_frame(640, 480) == (308, 224)


def test_the_program_runs_hide_and_self_box(folder, tmp_path):
    check_boxes_program("qwen25_vl_7b", folder, tmp_path)
