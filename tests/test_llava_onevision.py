"""LLaVA-OneVision against plain transformers, at the true tile and patch sizes."""

import json
import shutil

import pytest
import torch

from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.models.transformers.llava_onevision import LlavaOnevision
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.types import Prompt, Request
from tests.family_insight import check_insight, check_token_boxes
from tests.family_small import (
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
    joined,
    save_checkpoint,
    save_qwen_tokenizer,
    three_selections,
)
from tests.llava_small import noise_image

# chat_template.json of llava-hf/llava-onevision-qwen2-7b-ov-hf.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{# Render all video then #}{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}"
    "{{ '<video>' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ '\n' + content['text'] }}{% endgeneration %}{% endfor %}{% endif %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CANVASES = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    place = tmp_path_factory.mktemp("llava_onevision")
    ids = save_qwen_tokenizer(place, ("<image>", "<video>"))
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            image_size=384, patch_size=14, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=ids["size"], hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=8192, eos_token_id=ids["<|im_end|>"],
        ),
        vision_feature_layer=-1, vision_feature_select_strategy="full", image_grid_pinpoints=CANVASES,
        tie_word_embeddings=False, image_token_index=ids["<image>"], video_token_index=ids["<video>"],
    )  # fmt: skip
    preprocessor = {
        "image_processor_type": "LlavaOnevisionImageProcessor", "do_pad": True, "size": {"height": 384, "width": 384},
        "image_grid_pinpoints": CANVASES, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    return save_checkpoint(place, LlavaOnevisionForConditionalGeneration(config), preprocessor, ids["<|im_end|>"])


def built(**settings):
    return LlavaOnevision(**{"name": "small", "hub_id": None} | settings)


@pytest.fixture(scope="module")
def vlm(folder):
    return built(path=str(folder))


@pytest.fixture(scope="module")
def reference(folder):
    from transformers import (
        AutoTokenizer,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessorPil,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        video_processor=LlavaOnevisionVideoProcessor(),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return Reference(model, processor, "", "<|im_end|>", lambda asked: chat_text(processor, asked))


def test_prompt_is_the_published_chat_template(reference):
    asked = Request((noise_image(0),) * 2, Prompt(QUESTION))
    assert CONVERSATIONS["llava_onevision"].prompt(QUESTION, 2) == golden("llava_onevision") == reference.text_of(asked)


def test_the_training_prompt_can_be_chosen(folder):
    assert CONVERSATIONS["qwen_1_5"].prompt(QUESTION, 2) == golden("qwen_1_5")
    vlm = built(path=str(folder), conversation="qwen_1_5")
    prepared = vlm.prepare(Request((noise_image(0),) * 2, Prompt(QUESTION)))
    text = vlm.tokenizer.decode([token for token in prepared.input_ids if token != vlm.image_id])
    assert text == golden("qwen_1_5").replace("<image>", "")


@pytest.mark.parametrize("selector", ["no_crop", "full_crop", "semclip"])
def test_answers_equal_plain_transformers(vlm, reference, selector):
    check_answers(vlm, reference, three_selections()[selector])


def test_a_lone_view_is_cut_into_tiles(vlm, reference):
    check_answers(vlm, reference, (noise_image(1, 500, 200),))


def test_odd_texts_have_the_ids_of_the_published_processor(vlm, reference):
    check_odd_texts(vlm, reference)


def test_answers_do_not_depend_on_the_batch(vlm):
    check_batch(vlm, three_selections())


def test_the_program_answers_as_plain_transformers_with_every_selector_and_protocol(folder, reference, tmp_path):
    check_program("llava_onevision_7b", folder, reference, tmp_path)


def test_an_overview_passes_the_tower_once_for_all_questions_and_selectors(vlm):
    """A lone overview is cut into tiles, one beside crops is not: those two are kept apart."""
    check_overview_is_shared(vlm, three_selections(), overviews=2)


@pytest.mark.parametrize(
    ("size", "tokens"),
    # (width, height), features by hand: rows x (columns + a newline) without the padding, and 27 x 27 of the whole.
    [
        ((384, 384), 27 * 28 + 729),
        ((640, 480), 40 * 55 + 729),  # on 768x768: 480 * 54/640 = 40.5 rows, seven rows of padding each side
        ((120, 90), 21 * 28 + 729),  # on 384x384: 20.25 rows, three rows of padding each side
        ((1200, 1200), 81 * 82 + 729),  # on 1536x1536: 108 x 108 is more than nine tiles, interpolated to 81 x 81
    ],
)
def test_visual_tokens_of_a_lone_view_by_size(vlm, reference, size, tokens):
    asked = Request((noise_image(0, *size),), Prompt("Is it red?"))
    prepared = vlm.prepare(asked)
    assert prepared.visual_tokens == prepared.input_ids.count(vlm.image_id) == tokens
    assert list(prepared.input_ids) == reference.ids(asked)
    inputs = reference.inputs(asked)
    with torch.no_grad():
        expected = reference.model.model.get_image_features(inputs.pixel_values, inputs.image_sizes).pooler_output[0]
    torch.testing.assert_close(joined(vlm.encode([prepared])[0]), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (90, 1), (333, 17), (701, 500)])
def test_odd_sizes_have_as_many_tokens_as_features(vlm, reference, size):
    asked = Request((noise_image(0, *size),), Prompt("Is it red?"))
    prepared = vlm.prepare(asked)
    assert list(prepared.input_ids) == reference.ids(asked)
    assert len(joined(vlm.encode([prepared])[0])) == prepared.visual_tokens


def test_several_views_are_one_tile_each_unless_told_otherwise(folder, vlm):
    images = (noise_image(0, 640, 480), noise_image(1, 120, 90))
    asked = Request(images, Prompt("Is it red?", continuations=("yes", "no")))
    assert vlm.prepare(asked).visual_tokens == 2 * (27 * 27 + 1)
    every = built(path=str(folder), tiles="every_view")
    prepared = every.prepare(asked)
    assert prepared.visual_tokens == (40 * 55 + 729) + (21 * 28 + 729)
    first, second = (joined(every.encode([every.prepare(Request((image,), asked.prompt))])[0]) for image in images)
    torch.testing.assert_close(joined(every.encode([prepared])[0]), torch.cat([first, second]))
    assert len(every.answer([prepared])[0].option_losses) == 2
    with pytest.raises(ConfigError, match=r"model.tiles=all: must be one of single_view, every_view"):
        built(path=str(folder), tiles="all")


def test_a_square_of_several_is_padded_with_the_mean_colour(vlm):
    import numpy as np
    from PIL import Image

    image = noise_image(4, 90, 40)
    prepared = vlm.prepare(Request((image, image), Prompt("Is it red?")))
    square = Image.new("RGB", (90, 90), (127, 127, 127))
    square.paste(image, (0, 25))
    resized = np.asarray(square.resize((384, 384), Image.Resampling.BICUBIC)).astype(np.float64) / 255
    expected = ((resized - 0.5) / 0.5).transpose(2, 0, 1)
    assert prepared.pixel_values.shape == (2, 1, 3, 384, 384)
    np.testing.assert_allclose(prepared.pixel_values[1, 0].numpy(), expected, atol=2e-6)


def test_dummy_runs_the_shape_of_a_folders_config(folder):
    check_dummy(built, folder)


def test_weights_have_the_published_names(folder):
    check_weight_names(
        folder,
        "image_newline",
        "vision_tower.vision_model.embeddings.position_embedding.weight",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    )


def test_a_checkpoint_with_another_rule_for_tiles_is_refused(folder, tmp_path):
    copy = tmp_path / "anyres"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text()) | {"vision_aspect_ratio": "anyres"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config.json has vision_aspect_ratio 'anyres'; only anyres_max_N"):
        built(path=str(copy))


def test_what_it_tells_a_selector_equals_plain_transformers(vlm, reference):
    check_insight(vlm, reference)


def test_its_tokens_have_places(vlm):
    check_token_boxes(vlm, [(400, 300), (90, 340), (500, 120), (64, 64), (333, 777)])
