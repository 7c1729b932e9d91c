"""The LLaVA adapter's answers against plain transformers calls, without cache, padding or batches."""

import random

import pytest
import torch

from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.models.transformers.prompts import CONVERSATIONS
from semclip_eval.types import Prompt, Request
from tests.llava_small import noise_image, save_llama_style, save_qwen_style

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
OPTIONS = ("red", "The color of the star is blue.", "no", "a ring")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Llava15(name="small", hub_id=None, path=str(save_llama_style(tmp_path_factory.mktemp("llama"))))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return Llava15(name="mini", hub_id=None, path=str(save_qwen_style(tmp_path_factory.mktemp("qwen"))))


def ask(seed: int, views: int = 1, options: tuple[str, ...] = OPTIONS, new_tokens: int = 12) -> Request:
    text = "What is the color of the star?" + " Is there a ring?" * (seed % 3)
    images = tuple(noise_image(10 * seed + view) for view in range(views))
    return Request(images, Prompt(text, continuations=options, max_new_tokens=new_tokens))


def naive_ids(vlm: Llava15, text: str, views: int) -> list[int]:
    """As LLaVA's `tokenizer_image_token`: tokenise around each <image>, keep the first piece's <s>, expand by hand."""
    prompt = CONVERSATIONS["vicuna_v1"].prompt(text, views)
    pieces = [vlm.tokenizer(piece).input_ids for piece in prompt.split("<image>")]
    ids = pieces[0]
    for piece in pieces[1:]:
        assert piece[0] == vlm.tokenizer.bos_token_id
        ids = ids + [vlm.model.config.image_token_index] * vlm.tokens_per_view + piece[1:]
    return ids


@torch.no_grad()
def naive_losses(vlm: Llava15, request: Request) -> list[float]:
    """Mean cross-entropy of each option by one whole forward pass each."""
    pixels = vlm.prepare(request).pixel_values
    prompt = naive_ids(vlm, request.prompt.text, len(request.images))
    losses = []
    for option in request.prompt.continuations:
        answer = vlm.tokenizer(f"x {option}</s>").input_ids[len(vlm.tokenizer("x").input_ids) :]
        whole = torch.tensor([[*prompt, *answer]])
        logits = vlm.model(input_ids=whole, pixel_values=pixels).logits[0].double()
        log_probabilities = torch.log_softmax(logits, dim=-1)
        chosen = [log_probabilities[place - 1, whole[0, place]] for place in range(len(prompt), whole.shape[1])]
        losses.append(-float(sum(chosen)) / len(chosen))
    return losses


def losses(vlm: Llava15, requests: list[Request]) -> list[tuple[float, ...]]:
    return [answer.option_losses for answer in vlm.answer([vlm.prepare(request) for request in requests])]


@pytest.mark.parametrize(("views", "placeholders"), [(1, "<image>\n"), (3, "<image>\n<image>\n<image>\n")])
def test_prompt_bytes_are_vicuna_v1(views, placeholders):
    conversation = CONVERSATIONS["vicuna_v1"]
    golden = f"{SYSTEM}USER: {placeholders}Is it red?\nAnswer. ASSISTANT:"
    assert conversation.prompt("Is it red?\nAnswer.", views).encode() == golden.encode()
    segments = conversation.segments("Is it red?\nAnswer.", views)
    assert "".join(segment.text for segment in segments) == golden
    assert [segment.kind for segment in segments].count("image") == views


@pytest.mark.parametrize("views", [1, 3])
def test_ids_and_visual_tokens(llama, views):
    prepared = llama.prepare(ask(1, views))
    assert list(prepared.input_ids) == naive_ids(llama, ask(1).prompt.text, views)
    assert prepared.input_ids[0] == 1
    assert prepared.visual_tokens == views * 24 * 24 == prepared.input_ids.count(llama.model.config.image_token_index)
    assert prepared.text_tokens == len(prepared.input_ids) - prepared.visual_tokens
    assert prepared.pixel_values.shape == (views, 3, 336, 336)
    assert all(ids[-1] == 2 for ids in prepared.continuation_ids)
    assert llama.tokenizer.decode(prepared.continuation_ids[1][:-1]).strip() == OPTIONS[1]
    # The published tokenizer puts its word-start mark on both sides of a placeholder ("29871, 32000, 29871, 13").
    mark = llama.tokenizer.convert_tokens_to_ids("▁")
    first = prepared.input_ids.index(llama.image_id)
    assert prepared.input_ids[first - 1] == prepared.input_ids[first + 576] == mark


def test_the_text_of_the_question_cannot_become_an_image_or_end_the_prompt(llama):
    prompt = Prompt("Is <image> a tag? </s> <s>", continuations=("it is <image>",))
    prepared = llama.prepare(Request((noise_image(0),), prompt))
    assert prepared.input_ids.count(llama.image_id) == prepared.visual_tokens == 576
    assert 2 not in prepared.input_ids
    assert prepared.input_ids.count(1) == 1
    assert llama.image_id not in prepared.continuation_ids[0]
    assert "<image> a tag? </s> <s> ASSISTANT:" in llama.tokenizer.decode(prepared.input_ids)


def test_tokens_of_a_model_unlike_llava15(qwen):
    prepared = qwen.prepare(ask(0, views=2))
    assert prepared.visual_tokens == 2 * (4 * 4 + 1)  # 'full' keeps the class token
    assert qwen.context_length == 512


@pytest.mark.parametrize(("family", "views"), [("llama", (1, 2)), ("qwen", (1, 3, 0))])
def test_option_losses_equal_one_forward_each(family, views, llama, qwen):
    vlm = {"llama": llama, "qwen": qwen}[family]
    requests = [ask(seed, count) for seed, count in enumerate(views)]
    for found, asked in zip(losses(vlm, requests), requests, strict=True):
        expected = naive_losses(vlm, asked) if asked.images else naive_text_losses(vlm, asked)
        assert found == pytest.approx(expected, abs=1e-4)
        assert max(expected) - min(expected) > 0.05  # the options differ: the comparison could fail


def naive_text_losses(vlm: Llava15, asked: Request) -> list[float]:
    prompt = naive_ids(vlm, asked.prompt.text, 0)
    result = []
    for ids in vlm.prepare(asked).continuation_ids:
        whole = torch.tensor([[*prompt, *ids]])
        with torch.no_grad():
            logits = vlm.model(input_ids=whole).logits[0, len(prompt) - 1 : -1]
        result.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids))))
    return result


def test_losses_depend_on_the_pixels_and_on_the_order_of_views(qwen):
    first, second = noise_image(1), noise_image(2)
    prompt = Prompt("Is there a ring?", continuations=OPTIONS)
    orders = ((first, second), (second, first), (first,))
    both, swapped, other = losses(qwen, [Request(images, prompt) for images in orders])
    assert abs(both[0] - swapped[0]) > 1e-3
    assert abs(both[0] - other[0]) > 1e-3


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_answers_do_not_depend_on_the_batch(qwen, batch_size):
    requests = [ask(seed, views=1 + seed % 3, options=OPTIONS[: 2 + seed % 3]) for seed in range(7)]
    alone = [losses(qwen, [asked])[0] for asked in requests]
    order = list(range(7))
    random.Random(batch_size).shuffle(order)
    for start in range(0, 7, batch_size):
        places = order[start : start + batch_size]
        for place, found in zip(places, losses(qwen, [requests[place] for place in places]), strict=True):
            assert found == pytest.approx(alone[place], abs=1e-4)
            assert found.index(min(found)) == alone[place].index(min(alone[place]))


def test_large_and_small_questions_share_a_batch(llama):
    requests = [ask(0, views=3), ask(1, views=1)]
    for found, asked in zip(losses(llama, requests), requests, strict=True):
        assert found == pytest.approx(losses(llama, [asked])[0], abs=1e-4)


def transformers_generate(vlm: Llava15, asked: Request, **settings) -> list[int]:
    ids = torch.tensor([naive_ids(vlm, asked.prompt.text, len(asked.images))])
    made = vlm.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=vlm.prepare(asked).pixel_values,
        do_sample=False, max_new_tokens=asked.prompt.max_new_tokens, pad_token_id=0, **settings,
    )  # fmt: skip
    return made[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_greedy_answers_equal_transformers_generate(family, llama, qwen, monkeypatch):
    vlm = {"llama": llama, "qwen": qwen}[family]
    requests = [ask(seed, 1 + seed % 2, options=(), new_tokens=12 - seed) for seed in range(3)]
    free = [transformers_generate(vlm, asked) for asked in requests]
    # Random weights hardly ever say </s>: let a token end answers that makes their lengths differ.
    stop = [2, max(free[1], key=lambda token: len({(*ids, token).index(token) for ids in free}))]
    monkeypatch.setattr(vlm, "stop_ids", stop)
    expected = [transformers_generate(vlm, asked, eos_token_id=stop) for asked in requests]
    assert len(expected[1]) < 11
    assert len({len(ids) for ids in expected}) > 1
    batch = [vlm.prepare(asked) for asked in requests]
    for found, ids in zip(vlm.answer(batch), expected, strict=True):
        assert found.text == vlm.tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert found.new_tokens == len(ids)
        assert found.option_losses is None
    state = vlm.prefill(batch, vlm.encode(batch))
    assert [answer.new_tokens for answer in vlm.decode(batch, state, ignore_end_token=True)] == [12, 11, 10]


def test_scored_and_generated_answers_share_a_batch(qwen):
    requests = [ask(0), ask(1, 2, options=()), ask(2), ask(3, options=())]
    together = qwen.answer([qwen.prepare(asked) for asked in requests])
    for found, asked in zip(together, requests, strict=True):
        alone = qwen.answer([qwen.prepare(asked)])[0]
        assert (found.text, found.new_tokens) == (alone.text, alone.new_tokens)
        assert found.option_losses == (alone.option_losses and pytest.approx(alone.option_losses, abs=1e-4))


def test_a_state_serves_one_decode(qwen):
    batch = [qwen.prepare(ask(0))]
    state = qwen.prefill(batch, qwen.encode(batch))
    qwen.decode(batch, state)
    assert state.cache is None
    with pytest.raises(ValueError, match="decoded before"):
        qwen.decode(batch, state)


def test_context_overflow_says_the_arithmetic(llama):
    text = len(naive_ids(llama, ask(0).prompt.text, 4)) - 4 * 576
    total = 4 * 576 + text + 12
    message = rf"4 views x 576 visual tokens \+ {text} text tokens \+ 12 answer tokens = {total}, more than the 2048 "
    with pytest.raises(QuestionError, match=message):
        llama.prepare(ask(0, views=4, options=()))


def test_the_last_token_that_fits_is_allowed(qwen):
    used = len(qwen.prepare(ask(0, options=(), new_tokens=1)).input_ids)
    qwen.prepare(ask(0, options=(), new_tokens=512 - used))
    with pytest.raises(QuestionError, match="= 513, more than the 512"):
        qwen.prepare(ask(0, options=(), new_tokens=513 - used))


def test_views_beyond_the_context_are_refused_before_the_run(llama):
    text = len(naive_ids(llama, "", 3)) - 3 * 576
    llama.check_views(3, new_tokens=2048 - 3 * 576 - text)
    message = (
        rf"model=small: 3 views x 576 visual tokens \+ {text} text tokens without the question \+ 512 answer tokens = "
        rf"{3 * 576 + text + 512}, more than its context of 2048; 2 views fit"
    )
    with pytest.raises(ConfigError, match=message):
        llama.check_views(3, new_tokens=512)
