"""LLaVA-NeXT against plain transformers, at the true tile and patch sizes."""

import pytest
import torch
from PIL import Image

from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.models.transformers.llava_next import LlavaNext
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.types import Prompt, Request
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
    joined,
    save_checkpoint,
    three_selections,
)
from tests.llava_small import noise_image, save_llama_tokenizer

# chat_template.json of llava-hf/llava-v1.6-vicuna-7b-hf.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
CANVASES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

    place = tmp_path_factory.mktemp("llava_next")
    size = save_llama_tokenizer(place)
    torch.manual_seed(0)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            image_size=336, patch_size=14, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
            num_attention_heads=2, projection_dim=8,
        ),
        text_config=LlamaConfig(
            vocab_size=size, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=8192, bos_token_id=1, eos_token_id=2,
        ),
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_token_index=size - 2,
        image_grid_pinpoints=CANVASES,
    )  # fmt: skip
    preprocessor = CLIP | {
        "image_processor_type": "LlavaNextImageProcessor", "do_center_crop": True, "do_pad": True,
        "size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}, "image_grid_pinpoints": CANVASES,
    }  # fmt: skip
    return save_checkpoint(place, LlavaNextForConditionalGeneration(config), preprocessor, end_id=2)


def built(**settings):
    return LlavaNext(**{"name": "small", "hub_id": None} | settings)


@pytest.fixture(scope="module")
def vlm(folder):
    return built(path=str(folder))


@pytest.fixture(scope="module")
def reference(folder):
    from transformers import (
        AutoTokenizer,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
    )

    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    model = LlavaNextForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return Reference(model, processor, " ", "</s>", lambda asked: chat_text(processor, asked, SYSTEM))


def test_prompt_is_vicuna_v1_and_the_chat_template_with_its_system_sentence(reference):
    asked = Request((noise_image(0),) * 2, Prompt(QUESTION))
    assert CONVERSATIONS["vicuna_v1"].prompt(QUESTION, 2) == golden("llava_next") == reference.text_of(asked)


@pytest.mark.parametrize("selector", ["no_crop", "full_crop", "semclip"])
def test_answers_equal_plain_transformers(vlm, reference, selector):
    check_answers(vlm, reference, three_selections()[selector])


def test_views_of_several_shapes_share_a_question(vlm, reference):
    check_answers(vlm, reference, (noise_image(1, 500, 120), noise_image(2, 30, 400)))


def test_odd_texts_have_the_ids_of_the_published_processor(vlm, reference):
    check_odd_texts(vlm, reference)


def test_answers_do_not_depend_on_the_batch(vlm):
    selections = three_selections()
    del selections["full_crop"]  # five views of 1500 tokens, which padding would give to every question
    check_batch(vlm, selections)


def test_the_program_answers_as_plain_transformers_with_every_selector_and_protocol(folder, reference, tmp_path):
    check_program("llava_next_vicuna_7b", folder, reference, tmp_path)


def test_an_overview_passes_the_tower_once_for_all_questions_and_selectors(vlm):
    selections = three_selections()
    check_overview_is_shared(vlm, {name: selections[name] for name in ("no_crop", "semclip")})


@pytest.mark.parametrize(
    ("size", "tokens"),
    # (width, height), features by hand: rows x (columns + a newline) without the padding, and 24 x 24 of the whole.
    [
        ((672, 672), 48 * 49 + 576),  # four tiles, no padding
        ((640, 480), 36 * 49 + 576),  # on 672x672: 480 * 48/640 = 36 rows
        ((1000, 300), 22 * 73 + 576),  # on 1008x336: 300 * 72/1000 = 21.6 rows, one row of padding each side
        ((100, 60), 24 * 41 + 576),  # on 672x336, the smallest of those that keep every pixel: 100 * 24/60 = 40 columns
    ],
)
def test_visual_tokens_by_size(vlm, size, tokens):
    prepared = vlm.prepare(Request((noise_image(0, *size),), Prompt("Is it red?")))
    assert prepared.visual_tokens == prepared.input_ids.count(vlm.image_id) == tokens
    assert len(joined(vlm.encode([prepared])[0])) == tokens


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (90, 1), (333, 17), (701, 500)])
def test_odd_sizes_have_as_many_tokens_as_features(vlm, reference, size):
    asked = Request((noise_image(0, *size),), Prompt("Is it red?"))
    prepared = vlm.prepare(asked)
    assert list(prepared.input_ids) == reference.ids(asked)
    assert len(joined(vlm.encode([prepared])[0])) == prepared.visual_tokens


def test_max_tiles_leaves_the_small_canvases(folder):
    vlm = built(path=str(folder), max_tiles=2)
    asked = Request((noise_image(0, 672, 672),) * 2, Prompt("Is it red?", continuations=("yes", "no")))
    prepared = vlm.prepare(asked)
    # On 672x336: 24 rows, 24 of 48 columns; half of the padding, 12 columns, on each side.
    assert prepared.visual_tokens == 2 * (24 * 25 + 576)
    assert len(vlm.answer([prepared])[0].option_losses) == 2
    with pytest.raises(ConfigError, match=r"model.max_tiles=1: must be at least 2"):
        built(path=str(folder), max_tiles=1)


def test_overflow_names_each_view_and_the_remedy(vlm):
    sizes = ((672, 672), (100, 60), (672, 672), (672, 672))
    with pytest.raises(QuestionError) as caught:
        vlm.prepare(Request(tuple(noise_image(0, *size) for size in sizes), Prompt("Is it red?")))
    assert "4 views with 2928 + 1560 + 2928 + 2928 visual tokens" in str(caught.value)
    assert "a smaller model.max_tiles" in str(caught.value)


def test_views_beyond_the_context_are_refused_before_the_run(vlm):
    vlm.check_views(13, new_tokens=128)
    with pytest.raises(ConfigError, match=r"15 views x at least 576 visual tokens .*; at most 13 views fit"):
        vlm.check_views(15, new_tokens=128)


def test_dummy_runs_the_shape_of_a_folders_config(folder):
    check_dummy(built, folder)


def test_weights_have_the_published_names(folder):
    check_weight_names(
        folder,
        "image_newline",
        "vision_tower.vision_model.embeddings.class_embedding",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    )


def test_what_it_tells_a_selector_equals_plain_transformers(vlm, reference):
    check_insight(vlm, reference)


def test_without_dropped_tokens_it_answers_as_masked_layers(vlm, reference):
    check_dropping(vlm, reference)


def test_focus_runs_on_it(folder, tmp_path):
    check_focus("llava_next_vicuna_7b", folder, tmp_path)


def test_its_tokens_have_places(vlm):
    check_token_boxes(vlm, [(400, 300), (90, 340), (500, 120), (64, 64), (333, 777)])


def test_a_view_of_one_pixel_row_has_as_many_places_as_tokens(vlm):
    for size in ((779, 3), (356, 3), (3, 779), (1, 400), (400, 1), (1, 1)):
        prepared = vlm.prepare(Request((Image.new("RGB", size),), Prompt("?", max_new_tokens=1), prunes=True))
        (boxes,) = vlm.token_boxes([size])
        assert len(boxes.boxes) == prepared.visual_tokens, size
        assert [len(view.features) for view in vlm.encode([prepared])[0]] == [prepared.visual_tokens], size


@pytest.mark.parametrize(("size", "tiles"), [((1344, 1344), (2, 2)), ((900, 450), (1, 2)), ((450, 900), (2, 1))])
def test_class_attention_lies_as_the_features_do(folder, reference, size, tiles):
    vlm = built(path=str(folder))
    images = tuple(noise_image(number, *size) for number in range(2))
    prompt = Prompt(QUESTION, max_new_tokens=1)
    silent, asked = (vlm.prepare(Request(images, prompt, class_attention=flag)) for flag in (False, True))
    vlm.begin_block(keep=True)
    assert all(view.class_attention is None for view in vlm.encode([silent])[0])
    tower = (
        type(reference.model.model.vision_tower)
        ._from_config(reference.model.config.vision_config, attn_implementation="eager")
        .eval()
    )
    tower.load_state_dict(reference.model.model.vision_tower.state_dict())
    rows, columns = tiles
    for _ in range(2):  # the second time the overview comes from the store
        views = vlm.encode([asked])[0]
        for view, pixels in zip(views, asked.pixel_values, strict=True):
            with torch.no_grad():
                maps = tower(pixels, output_attentions=True).attentions[-2][:, :, 0, 1:].mean(1)
            assert len(view.class_attention) == len(view.features)
            # The whole first, then the canvas row by row, each row closed by a newline token.
            expected = maps[0].tolist()
            for row in range(rows * 24):
                for column in range(columns * 24):
                    tile = 1 + (row // 24) * columns + column // 24
                    expected.append(float(maps[tile, (row % 24) * 24 + column % 24]))
                expected.append(0.0)
            torch.testing.assert_close(view.class_attention, torch.tensor(expected), atol=1e-6, rtol=0)
            assert float(maps.std()) > 1e-6
