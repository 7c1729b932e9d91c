"""Qwen3-VL against plain transformers, at the true patch and merge sizes, with DeepStack from two vision layers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from semclip_eval import cli, session
from semclip_eval.benchmarks.vstar import VStar
from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.models.transformers.qwen3_vl import Qwen3VL
from semclip_eval.types import Drops, Kept, Prompt, Request
from tests.family_insight import check_dropping, check_insight, check_token_boxes
from tests.family_small import (
    OPTIONS,
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

# The published chat template's branches for turns without tools, with its own whitespace control.
CHAT_TEMPLATE = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].content is string %}
        {{- messages[0].content }}
    {%- else %}
        {%- for content in messages[0].content %}
            {%- if 'text' in content %}
                {{- content.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set image_count = namespace(value=0) %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.content is string %}
            {{- message.content }}
        {%- else %}
            {%- for content in message.content %}
                {%- if content.type == 'image' or 'image' in content or 'image_url' in content %}
                    {%- set image_count.value = image_count.value + 1 %}
                    {%- if add_vision_id %}Picture {{ image_count.value }}: {% endif -%}
                    <|vision_start|><|image_pad|><|vision_end|>
                {%- elif 'text' in content %}
                    {{- content.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
SPECIALS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
LEAST, MOST = 4 * 32**2, 16_777_216  # smaller than the published 65536, so that small views differ in their tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    place = tmp_path_factory.mktemp("qwen3_vl")
    ids = save_qwen_tokenizer(place, SPECIALS)
    torch.manual_seed(0)
    config = Qwen3VLConfig(
        vision_config={
            "depth": 4, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64,
            "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 2],
        },
        text_config={
            "vocab_size": ids["size"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 2048,
            "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
            "rope_theta": 10000.0, "tie_word_embeddings": True, "eos_token_id": ids["<|im_end|>"],
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )  # fmt: skip
    preprocessor = HALF | {
        "image_processor_type": "Qwen2VLImageProcessorFast", "size": {"shortest_edge": LEAST, "longest_edge": MOST},
        "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2,
    }  # fmt: skip
    return save_checkpoint(place, Qwen3VLForConditionalGeneration(config), preprocessor, ids["<|im_end|>"])


def built(**settings):
    return Qwen3VL(**{"name": "small", "hub_id": None} | settings)


@pytest.fixture(scope="module")
def vlm(folder):
    return built(path=str(folder))


@pytest.fixture(scope="module")
def reference(folder):
    from transformers import (
        AutoTokenizer,
        Qwen2VLImageProcessorPil,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return Reference(model, processor, "", "<|im_end|>", lambda asked: chat_text(processor, asked))


def test_prompt_is_the_published_chat_template(reference):
    asked = Request((noise_image(0),) * 2, Prompt(QUESTION))
    ours = CONVERSATIONS["qwen3_vl"].prompt(QUESTION, 2)
    assert ours == golden("qwen3_vl") == chat_text(reference.processor, asked)
    assert "".join(segment.text for segment in CONVERSATIONS["qwen3_vl"].segments(QUESTION, 2)) == ours


def test_a_system_message_is_the_chat_templates(folder, reference):
    message = "Answer in one word."
    vlm = built(path=str(folder), system=message)
    with_system = replace(reference, text_of=lambda asked: chat_text(reference.processor, asked, message))
    asked = Request((noise_image(0),), Prompt(QUESTION, continuations=OPTIONS))
    assert with_system.text_of(asked).startswith("<|im_start|>system\nAnswer in one word.<|im_end|>\n")
    prepared = vlm.prepare(asked)
    assert list(prepared.input_ids) == with_system.ids(asked)
    assert vlm.answer([prepared])[0].option_losses == pytest.approx(with_system.losses(asked), abs=1e-4)


@pytest.mark.parametrize("selector", ["no_crop", "full_crop", "semclip"])
def test_answers_equal_plain_transformers(vlm, reference, selector):
    check_answers(vlm, reference, three_selections()[selector])


def test_wide_and_tall_views_have_positions_of_their_own(vlm, reference):
    images = (noise_image(1, 400, 60), noise_image(2, 60, 300))
    check_answers(vlm, reference, images)
    asked = Request(images, Prompt(QUESTION))
    inputs = reference.inputs(asked)
    expected, _ = reference.model.model.get_rope_index(
        inputs.input_ids, mm_token_type_ids=inputs.mm_token_type_ids, image_grid_thw=inputs.image_grid_thw
    )
    assert torch.equal(vlm.prepare(asked).positions, expected[:, 0])


def test_tensors_are_those_of_the_published_processor(vlm, reference):
    asked = Request((noise_image(1, 200, 70), noise_image(2, 33, 95)), Prompt(QUESTION))
    prepared, inputs = vlm.prepare(asked), reference.inputs(asked)
    assert torch.equal(prepared.pixel_values, inputs.pixel_values)
    assert torch.equal(prepared.extras["image_grid_thw"], inputs.image_grid_thw)


def test_odd_texts_have_the_ids_of_the_published_processor(vlm, reference):
    check_odd_texts(vlm, reference)


def test_answers_do_not_depend_on_the_batch(vlm):
    check_batch(vlm, three_selections())


def test_the_program_answers_as_plain_transformers_with_every_selector_and_protocol(folder, reference, tmp_path):
    check_program("qwen3_vl_8b", folder, reference, tmp_path)


def test_an_overview_passes_the_tower_once_for_all_questions_and_selectors(vlm):
    check_overview_is_shared(vlm, three_selections())


@pytest.mark.parametrize(
    ("size", "tokens"),
    # By hand: 640/32 = 20, 480/32 = 15; below 4096 pixels both sides grow by sqrt(4096 / area) and are rounded up:
    # 100x60 is above (3 * 2 * 1024 = 6144); 13x90 by 1.87 to 24.3x168.4.
    [((640, 480), 20 * 15), ((100, 60), 3 * 2), ((1, 1), 2 * 2), ((64, 64), 2 * 2), ((13, 90), 6)],
)
def test_visual_tokens_by_size(vlm, size, tokens):
    prepared = vlm.prepare(Request((noise_image(0, *size),), Prompt("Is it red?")))
    assert prepared.visual_tokens == prepared.input_ids.count(vlm.image_id) == tokens
    assert prepared.pixel_values.shape == (4 * tokens, 3 * 2 * 16 * 16)


def test_max_and_min_pixels_bound_a_view(folder):
    asked = Request((noise_image(0, 640, 480),), Prompt("Is it red?"))
    # sqrt(640*480 / 20480) = 3.87: 165/32, 124/32 rounded down
    for keys in ({"max_pixels": 20 * 1024}, {"processor": {"max_pixels": 20 * 1024}}):
        assert built(path=str(folder), **keys).prepare(asked).visual_tokens == 5 * 3
    asked = Request((noise_image(0, 64, 48),), Prompt("Is it red?"))
    large = built(path=str(folder), min_pixels=100 * 1024)
    assert large.prepare(asked).visual_tokens == 12 * 9  # sqrt(102400 / 3072) = 5.77: 370/32, 278/32 rounded up


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_pixels": 100}, "model.max_pixels=100: must be at least model.min_pixels=4096 and 1024"),
        ({"processor": {"do_resize": False}}, r"model.processor.do_resize=False: .*min_pixels.*model=transformers"),
        ({"processor": {"max_pixels": 0}}, "model.max_pixels=0: must be at least 1"),
        ({"processor": {"max_pixels": 5000}, "max_pixels": 9000}, "model.processor.max_pixels=5000: .*9000"),
        ({"template": {"add_vision_id": True}}, r"model.template=.*: must be empty; model=transformers"),
        ({"system": "See <|image_pad|>."}, r"model.system=.*<\|image_pad\|>"),
        ({"conversation": "qwen25_vl"}, "model.conversation=qwen25_vl: must be one of qwen3_vl"),
    ],
)
def test_wrong_values_are_named_as_they_are_typed(folder, settings, message):
    with pytest.raises(ConfigError, match=message):
        built(path=str(folder), **settings)


def test_a_checkpoint_of_another_family_is_refused(folder, tmp_path):
    import shutil

    place = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"model_type": "qwen3_vl_moe"}))
    with pytest.raises(ModelError, match="qwen3_vl"):
        built(path=str(place))


def test_special_tokens_in_a_question_stay_text(vlm):
    text = "Is <|image_pad|> or <|im_end|> here?"
    prepared = vlm.prepare(Request((noise_image(0),), Prompt(text, continuations=("<|im_end|>",))))
    assert prepared.input_ids.count(vlm.image_id) == prepared.visual_tokens
    assert prepared.input_ids.count(vlm.end_id) == 1  # the template's
    assert prepared.continuation_ids[0].count(vlm.end_id) == 1
    assert text in vlm.tokenizer.decode(prepared.input_ids)


def test_dummy_runs_the_shape_of_a_folders_config(folder):
    # The published bounds of a view are not in config.json; these are the folder's.
    check_dummy(lambda **settings: built(**settings, min_pixels=LEAST), folder)
    published = built(path=str(folder), load_format="dummy")
    prepared = published.prepare(Request((Image.new("RGB", (10, 10)),), Prompt("?")))
    assert prepared.visual_tokens == published.least_view_tokens == 64
    # (0/255 - 0.5) / 0.5
    assert prepared.pixel_values.unique().tolist() == [-1.0]


def test_weights_have_the_published_names(folder):
    check_weight_names(
        folder,
        "model.visual.patch_embed.proj.weight",
        "model.visual.pos_embed.weight",
        "model.visual.blocks.0.attn.qkv.weight",
        "model.visual.merger.linear_fc1.weight",
        "model.visual.deepstack_merger_list.1.linear_fc2.weight",
        "model.language_model.embed_tokens.weight",
        "model.language_model.layers.0.self_attn.q_norm.weight",
    )


def test_what_it_tells_a_selector_equals_plain_transformers(vlm, reference):
    check_insight(vlm, reference)


def test_its_tokens_have_places(vlm):
    check_token_boxes(vlm, [(400, 300), (90, 340), (500, 120), (64, 64), (333, 777)])


def test_what_deepstack_adds_goes_with_its_token(vlm, reference):
    """The levels are the tower's, a view's tokens take their own along, and answers depend on each level."""
    images = (noise_image(3, 120, 90), noise_image(4, 60, 80))
    asked = Request(images, Prompt(QUESTION, continuations=OPTIONS))
    prepared, inputs = vlm.prepare(asked), reference.inputs(asked)
    (views,) = vlm.encode([prepared])
    with torch.no_grad():
        tower = reference.model.model.visual(inputs.pixel_values, grid_thw=inputs.image_grid_thw)
    levels = torch.cat([view.deepstack for view in views]).split(64, dim=-1)
    assert [tuple(view.features.shape) for view in views] == [(12, 64), (4, 64)]
    torch.testing.assert_close(torch.cat([view.features for view in views]), tower.pooler_output)
    assert len(levels) == len(tower.deepstack_features) == 2
    for ours, theirs in zip(levels, tower.deepstack_features, strict=True):
        torch.testing.assert_close(ours, theirs)
    kept = Kept(((1, 5), (0, 2, 3)))
    _, (pruned,) = vlm.prune([prepared], [views], [kept])
    for before, after, indices in zip(views, pruned, kept.indices, strict=True):
        assert torch.equal(after.deepstack, before.deepstack[list(indices)])
    whole = vlm.prefill([prepared], [views]).logits
    for level in range(2):
        changed = []
        for view in views:
            without = view.deepstack.clone()
            without[:, 64 * level : 64 * (level + 1)] = 0
            changed.append(replace(view, deepstack=without))
        assert float((vlm.prefill([prepared], [changed]).logits - whole).abs().max()) > 1e-2


def test_pruned_questions_do_not_depend_on_the_batch(vlm):
    """Left padding and dropped tokens of several questions line up with what DeepStack adds to each."""
    images = three_selections()
    asked = [Request(images[name], Prompt(QUESTION, continuations=OPTIONS)) for name in ("full_crop", "no_crop")]
    asked.insert(1, Request((), Prompt("Is there a ring?", continuations=OPTIONS)))
    batch = [vlm.prepare(request) for request in asked]
    tokens = vlm.encode(batch)
    kept = [
        Kept(tuple(tuple(range(row % 2, len(view.features), 2)) for view in views)) if views else None
        for row, views in enumerate(tokens)
    ]
    together = vlm.prefill(*vlm.prune(batch, tokens, kept)).logits
    for row, (prepared, views, choice) in enumerate(zip(batch, tokens, kept, strict=True)):
        alone = vlm.prefill(*vlm.prune([prepared], [views], [choice])).logits[0]
        torch.testing.assert_close(together[row], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def without_dropped(reference, asked, drops, after):
    """FastV written down: dropped tokens leave the sequence, and with them what DeepStack would have added later.

    Logits from the prompt's last token on, `after` behind it; and how many levels were added to the kept tokens alone.
    """
    inputs, model = reference.inputs(asked), reference.model.model
    text, ids = model.language_model, inputs.input_ids
    prompt = ids.shape[1]
    visual = (ids[0] == reference.model.config.image_token_id).nonzero()[:, 0].tolist()
    tower = model.visual(inputs.pixel_values, grid_thw=inputs.image_grid_thw)
    positions, _ = model.get_rope_index(
        ids, mm_token_type_ids=inputs.mm_token_type_ids, image_grid_thw=inputs.image_grid_thw
    )
    more = positions.max() + 1 + torch.arange(len(after))
    positions = torch.cat([positions, more.expand(3, 1, -1)], dim=-1)
    whole = text.embed_tokens(torch.cat([ids, torch.tensor([after], dtype=ids.dtype)], dim=1))
    whole[0, visual] = tower.pooler_output

    def read(hidden, dropped):
        places, rows, late = list(range(hidden.shape[1])), [], 0
        for number, layer in enumerate(text.layers):
            if number == drops.layer:
                stay = [index for index, place in enumerate(places) if place not in dropped]
                hidden, places = hidden[:, stay], [places[index] for index in stay]
            mask = torch.full((len(places), len(places)), float("-inf")).triu(1)[None, None]
            hook = layer.self_attn.register_forward_hook(lambda _, __, given: rows.append(given[1][0, :, -1].mean(0)))
            turned = text.rotary_emb(hidden, positions[:, :, places])
            hidden = layer(hidden, attention_mask=mask, position_embeddings=turned)
            hook.remove()
            if number < len(tower.deepstack_features):
                late += number >= drops.layer
                for index, place in enumerate(places):
                    if place in visual:
                        hidden[0, index] += tower.deepstack_features[number][visual.index(place)]
        return hidden[:, -len(after) - 1 :], rows[drops.layer - 1], late

    before = reference.model.config.text_config._attn_implementation
    reference.model.set_attn_implementation({"text_config": "eager"})
    try:
        _, row, _ = read(whole[:, :prompt], ())  # the choice is made at the end of the prompt
        count = max(1, int(drops.keep_ratio * len(visual) + 0.5))
        hidden, _, late = read(whole, sorted(visual, key=lambda place: -float(row[place]))[count:])
    finally:
        reference.model.set_attn_implementation({"text_config": before})
    return reference.model.lm_head(text.norm(hidden))[0], late


@pytest.mark.parametrize(("layer", "late"), [(1, 1), (2, 0)])
def test_a_dropped_token_takes_the_levels_that_deepstack_adds_later(vlm, reference, layer, late):
    """A padded batch of dropping questions against eager layers whose tokens really leave."""
    drops = Drops(layer, 0.3)
    images = (noise_image(3, 120, 90), noise_image(4, 60, 80))
    asked = [Request(views, Prompt(QUESTION, OPTIONS), drops=drops) for views in (images, images[1:], images[:1])]
    answers = vlm.answer([vlm.prepare(request) for request in asked])
    for request, answer in zip(asked, answers, strict=True):
        start = len(reference.ids(request))
        for option, loss in zip(OPTIONS, answer.option_losses, strict=True):
            ids = reference.inputs(request, option + reference.end).input_ids[0, start:].tolist()
            logits, added = without_dropped(reference, request, drops, ids[:-1])
            assert added == late
            chosen = logits.log_softmax(-1)[range(len(ids)), ids]
            assert loss == pytest.approx(-float(chosen.mean()), abs=1e-4)
    plain = vlm.answer([vlm.prepare(replace(request, drops=None)) for request in asked])
    for answer, whole in zip(answers, plain, strict=True):
        assert answer.option_losses != pytest.approx(whole.option_losses, abs=1e-2)


def test_what_it_drops_is_that_of_masked_layers(vlm, reference):
    check_dropping(vlm, reference)


def test_fastv_runs_on_it(folder, reference, tmp_path):
    """The whole program, two questions in a batch: option losses are those of tokens that really leave."""
    run = ["profile=mini", "model=qwen3_vl_8b", f"model.path={folder}", "model.max_pixels=65536", "selector=fastv"]
    run += ["selector.layer=1", "selector.keep_ratio=0.25", "run.limit=2", "run.batch_size=2"]
    assert cli.main([*run, f"run.output_dir={tmp_path}"]) == 0
    session.forget("model")
    (samples,) = tmp_path.glob("mini/vstar/*/fastv/*/samples.jsonl")
    benchmark = VStar(path="mini://vstar")
    questions = {question.id: question for question in benchmark.questions()}
    for line in samples.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        question = questions[record["question_id"]]
        image, prompt = question.load_image(), benchmark.prompt(question)
        asked = Request((image.resize((256, 256)),), prompt)  # no more pixels than max_pixels
        start, tokens = len(reference.ids(asked)), record["visual_tokens"]
        # One layer of three reads all, the others a quarter.
        assert record["measures"]["effective_tokens"] == pytest.approx((tokens + 2 * round(tokens / 4)) / 3, abs=1)
        for option, loss in zip(prompt.continuations, record["option_losses"], strict=True):
            ids = reference.inputs(asked, option + reference.end).input_ids[0, start:].tolist()
            logits, _ = without_dropped(reference, asked, Drops(1, 0.25), ids[:-1])
            assert loss == pytest.approx(-float(logits.log_softmax(-1)[range(len(ids)), ids].mean()), abs=1e-4)
