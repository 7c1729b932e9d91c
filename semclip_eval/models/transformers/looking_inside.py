"""What a model tells selectors beyond its answer: confidences, attention, gradients, values (`VLM`'s capabilities)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from semclip_eval.checks import require_member
from semclip_eval.errors import ConfigError, QuestionError
from semclip_eval.lazy import library, without_gradients
from semclip_eval.models.base import ModelInputs
from semclip_eval.models.insight import AttentionRows, Gradients, Query, Target, Values, ViewTokens
from semclip_eval.models.transformers.decoding import CachedDecoder, PrefillState
from semclip_eval.models.transformers.probing import Probe, last_layers, probing
from semclip_eval.models.transformers.prompts import Conversation

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

TARGETS = ("argmax", "entropy")
QUERIES = ("last", "text")


class Insight(CachedDecoder):
    """The capabilities of a causal transformers model whose visual features stand in its prompt.

    `image_id`: the token that stands for a visual one. `encoder`: the tokenizer of single stretches of text.
    """

    conversation: Conversation
    encoder: Any
    image_id: int
    layers: int
    hidden_size: int

    @abstractmethod
    def _known(self, specials: tuple[str, ...]) -> tuple[str, ...]:
        """Those strings that the tokenizer holds as single tokens."""

    @abstractmethod
    def _prefill(self, batch: Sequence[ModelInputs], features: Sequence[torch.Tensor]) -> PrefillState:
        """`prefill` with the visual features of each question in one tensor, as `joined` gives them."""

    def confidence(self, batch: Sequence[ModelInputs]) -> list[float]:
        """See `VLM.confidence`."""
        pairs = [self.first_ids_of_two(prepared) for prepared in batch]
        logits = self.prefill(batch, self.encode(batch)).logits
        chosen = logits.gather(1, torch.tensor(pairs, device=logits.device))
        return [float(value) for value in torch.softmax(chosen, dim=-1)[:, 0]]

    @without_gradients
    def answer_entropy(self, batch: Sequence[ModelInputs]) -> list[float]:
        """See `VLM.answer_entropy`."""
        logits = self.prefill(batch, self.encode(batch)).logits.float()
        return [float(value) for value in torch.distributions.Categorical(logits=logits).entropy()]

    @without_gradients
    def attention_rows(self, batch: Sequence[ModelInputs], layers: Sequence[int], query: Query) -> list[AttentionRows]:
        """See `VLM.attention_rows`."""
        require_member("query", query, QUERIES)
        numbers = self._layer_numbers(layers)
        self._require_layers(numbers)
        if not batch:
            return []
        text = [self._text_after_views(prepared) for prepared in batch]
        probe = Probe(frozenset(numbers), 1 if query == "last" else max(text))
        with probing(self.model, probe):
            self._prefill(batch, joined(self.encode(batch)))
        # On the CPU first: the layers of a sharded model lie on several devices.
        taken = torch.stack([probe.weights[number].cpu() for number in numbers], dim=1)
        width = taken.shape[-1]
        rows = []
        for line, prepared in enumerate(batch):
            count = 1 if query == "last" else text[line]
            length = len(prepared.input_ids)
            columns = [width - length + place for place in self._visual_places(prepared)]
            rows.append(
                AttentionRows(
                    weights=taken[line, :, :, -count:][..., columns],
                    queries=tuple(range(length - count, length)),
                    view_tokens=prepared.view_tokens,
                    spans=self._spans(prepared, count),
                )
            )
        return rows

    def _spans(self, prepared: ModelInputs, count: int) -> tuple[tuple[int, int] | None, ...]:
        """`AttentionRows.spans` of a prompt's last `count` tokens, none of them before its last view."""
        if prepared.prompt is None:
            return (None,) * count
        text, views = prepared.prompt.text, len(prepared.view_tokens)
        specials = self._known(prepared.prompt.specials)
        place, spans = -self.conversation.text_start(views), list[tuple[int, int] | None]()
        for segment in self.conversation.segments(text, views, specials):
            pieces = [(0, len(segment.text))]
            if segment.kind == "text":
                pieces = self.encoder.encode(segment.text, add_special_tokens=False).offsets
            for start, end in pieces:
                inside = max(0, place + start), min(len(text), place + end)
                spans.append(inside if inside[0] < inside[1] else None)
            place += len(segment.text)
        return ((None,) * (count - len(spans)) + tuple(spans))[-count:]

    def gradients(
        self, batch: Sequence[ModelInputs], target: Target, layers: Sequence[int] = (), features: bool = False
    ) -> list[Gradients]:
        """See `VLM.gradients`."""
        require_member("target", target, TARGETS)
        numbers = self._layer_numbers(layers)
        if any(not prepared.view_tokens for prepared in batch):
            raise QuestionError(f"{self.name}: gradients are taken with respect to views, and a request has none")
        encoded = joined(self.encode(batch))
        # One by one: the graph of a whole language model is held for each prompt.
        return [
            self._gradient(prepared, tokens, target, numbers, features)
            for prepared, tokens in zip(batch, encoded, strict=True)
        ]

    def _gradient(
        self, prepared: ModelInputs, tokens: torch.Tensor, target: Target, layers: list[int], features: bool
    ) -> Gradients:
        probe = Probe(frozenset(layers), 1, differentiable=True)
        with torch.enable_grad(), probing(self.model, probe):
            # Features are made in inference mode, which no graph may hold.
            leaf = tokens.clone().requires_grad_(True)
            logits = self._prefill([prepared], [leaf]).logits[0]
            logarithms = torch.log_softmax(logits, dim=-1)
            scalar = logarithms.max() if target == "argmax" else -(logarithms.exp() * logarithms).sum()
            wanted = [probe.weights[number] for number in layers] + ([leaf] if features else [])
            gradients = torch.autograd.grad(scalar, wanted) if wanted else ()
        columns = self._visual_places(prepared)
        of_layers = gradients[: len(layers)]
        return Gradients(
            scalar=float(scalar.detach()),
            attention=torch.stack([each[0, :, -1, columns].float().cpu() for each in of_layers]) if layers else None,
            attention_weights=(
                torch.stack([probe.weights[number][0, :, -1, columns].detach().float().cpu() for number in layers])
                if layers
                else None
            ),
            features=gradients[-1][:, : self.hidden_size].float().cpu() if features else None,
        )

    @without_gradients
    def value_vectors(self, batch: Sequence[ModelInputs], layers: Sequence[int]) -> list[Values]:
        """See `VLM.value_vectors`."""
        numbers = self._layer_numbers(layers)
        self._require_layers(numbers)
        if not batch:
            return []
        state = self._prefill(batch, joined(self.encode(batch)))
        taken = torch.stack([state.cache.layers[number].values.float().cpu() for number in numbers], dim=1)
        values = []
        for line, prepared in enumerate(batch):
            # (layers, heads, length, head size) of this prompt, heads joined behind the length.
            own = taken[line, :, :, -len(prepared.input_ids) :].transpose(1, 2).flatten(2)
            count = self._text_after_views(prepared)
            visual = self._visual_places(prepared)
            rest = sorted(set(range(len(prepared.input_ids) - count)).difference(visual))
            pieces = self.tokenizer.convert_ids_to_tokens(list(prepared.input_ids[-count:]))
            values.append(
                Values(
                    visual=own[:, visual],
                    text=own[:, -count:],
                    text_pieces=tuple(self.tokenizer.convert_tokens_to_string([piece]) for piece in pieces),
                    view_tokens=prepared.view_tokens,
                    rest=own[:, rest],
                    heads=int(taken.shape[2]),
                )
            )
        return values

    def _layer_numbers(self, layers: Sequence[int]) -> list[int]:
        try:
            return last_layers(layers, self.layers)
        except ValueError as error:
            raise ConfigError(f"model={self.name}: {error}.") from error

    def _require_layers(self, layers: Sequence[int]) -> None:
        if not layers:
            raise ConfigError(f"model={self.name}: no layer was named; the language model has {self.layers}.")

    def _visual_places(self, prepared: ModelInputs) -> list[int]:
        return [place for place, token in enumerate(prepared.input_ids) if token == self.image_id]

    def _text_after_views(self, prepared: ModelInputs) -> int:
        """How many tokens follow the last visual one; all of them where there is none."""
        places = self._visual_places(prepared)
        return len(prepared.input_ids) - (places[-1] + 1 if places else 0)


def joined(features: Sequence[Sequence[ViewTokens]]) -> list[torch.Tensor]:
    """The visual features of each question in one tensor (tokens, hidden size), what DeepStack adds behind them."""
    return [torch.cat([_whole(view) for view in views]) if len(views) else torch.empty(0, 0) for views in features]


def _whole(view: ViewTokens) -> torch.Tensor:
    features: torch.Tensor = view.features
    return features if view.deepstack is None else torch.cat([features, view.deepstack], dim=-1)
