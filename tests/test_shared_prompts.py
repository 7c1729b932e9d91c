"""Options that go on from one cache: the losses of copies, without the copies."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from semclip_eval.models.transformers.decoding import CachedDecoder
from semclip_eval.models.transformers.llava import Llava15
from semclip_eval.types import Prompt, Request
from tests.llava_small import noise_image, save_llama_style, save_qwen_style

OPTIONS = (
    ("a red mug", "no", "it is on the left side of the table, near the window"),
    ("yes", "no"),
    ("one", "the second one", "three", "four of them", "a fifth thing"),
)


@pytest.fixture(scope="module", params=[save_llama_style, save_qwen_style])
def vlm(request, tmp_path_factory) -> Llava15:
    return Llava15(name="small", path=str(request.param(tmp_path_factory.mktemp("weights"))))


def requests(views: tuple[int, ...] = (1, 3, 2)) -> list[Request]:
    return [
        Request(
            tuple(noise_image(number * 10 + view) for view in range(count)),
            Prompt("What is there?" + " And here?" * number, continuations=options),
            f"q{number}",
        )
        for number, (count, options) in enumerate(zip(views, OPTIONS, strict=True))
    ]


def losses(vlm: Llava15, asked: list[Request]) -> list[tuple[float, ...]]:
    found = [answer.option_losses for answer in vlm.answer([vlm.prepare(each) for each in asked])]
    assert all(found)
    return [each or () for each in found]


def test_the_losses_are_those_of_copies_whatever_the_batch(vlm, monkeypatch) -> None:
    assert vlm.shares_prompts
    together, alone = losses(vlm, requests()), [losses(vlm, [each])[0] for each in requests()]
    monkeypatch.setattr(CachedDecoder, "shares_prompts", False)
    copies = losses(vlm, requests())
    for shared, single, copied in zip(together, alone, copies, strict=True):
        assert shared == pytest.approx(copied, abs=1e-5)
        assert single == pytest.approx(copied, abs=1e-5)


def test_an_option_knows_nothing_of_the_others(vlm) -> None:
    """The same option has the same loss in any company and at any place."""
    image = (noise_image(5),)

    def asked(*options: str) -> tuple[float, ...]:
        return losses(vlm, [Request(image, Prompt("What is there?", continuations=options), "q")])[0]

    first = asked("a red mug", "two of them on a shelf", "no")
    assert asked("no", "a red mug")[::-1] == pytest.approx((first[0], first[2]), abs=1e-5)
    assert asked("a red mug", "a red mug")[0] == pytest.approx(asked("a red mug", "a red mug")[1], abs=1e-6)


def test_no_cache_is_copied_and_the_tokens_fed_are_those_of_the_options(vlm, monkeypatch) -> None:
    fed, lengths = [], []
    original = vlm.model.forward

    def watched(*arguments, **keywords):
        if keywords.get("input_ids") is not None:
            fed.append(tuple(keywords["input_ids"].shape))
            lengths.append(keywords["past_key_values"].layers[0].keys.shape[0])
        return original(*arguments, **keywords)

    monkeypatch.setattr(vlm.model, "forward", watched)
    monkeypatch.setattr(CachedDecoder, "_select", lambda *arguments: pytest.fail("a copy of the cache"))
    prepared = [vlm.prepare(each) for each in requests()]
    vlm.answer(prepared)
    longest = max(sum(len(ids) - 1 for ids in each.continuation_ids) for each in prepared)
    assert fed == [(3, longest)]
    assert lengths == [3]


def test_scored_and_generated_questions_share_a_batch(vlm) -> None:
    asked = requests()
    asked[1] = Request(asked[1].images, Prompt("Say it.", max_new_tokens=4), "q1")
    mixed = vlm.answer([vlm.prepare(each) for each in asked])
    for place in (0, 2):
        assert mixed[place].option_losses == pytest.approx(losses(vlm, [asked[place]])[0], abs=1e-5)
    assert mixed[1].text == vlm.answer([vlm.prepare(asked[1])])[0].text


@pytest.mark.parametrize(
    ("attention", "text", "shares"),
    [
        ("sdpa", {}, True),
        ("eager", {"layer_types": ["full_attention"] * 2}, True),
        ("flash_attention_2", {}, False),
        ("sdpa", {"layer_types": ["full_attention", "sliding_attention"]}, False),
        ("sdpa", {"sliding_window": 4096}, False),
        ("sdpa", {"sliding_window": 4096, "use_sliding_window": False}, True),
        ("sdpa", {"sliding_window": None}, True),
    ],
)
def test_where_the_kernel_or_the_layers_cannot_options_go_on_from_copies(attention, text, shares) -> None:
    decoder = SimpleNamespace(
        attention=attention, model=SimpleNamespace(config=SimpleNamespace(text_config=SimpleNamespace(**text)))
    )
    assert CachedDecoder.shares_prompts.fget(decoder) is shares  # type: ignore[attr-defined]


def test_an_eager_kernel_gives_the_same_losses(tmp_path) -> None:
    folder = save_llama_style(tmp_path)
    found = [losses(Llava15(name="small", path=str(folder), attn=kernel), requests()) for kernel in ("eager", "sdpa")]
    for eager, usual in zip(*found, strict=True):
        assert eager == pytest.approx(usual, abs=1e-4)
