"""Several independent continuations of one prefix in one sequence: they share the images and do not see each other."""

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from mini_training.clip import PATCHES, to_pixels
from mini_training.vocabulary import SYSTEM

PLAIN_WEIGHT = 0.1  # of template words; decisive words weigh 1
_MARKED = re.compile(r" \*([^*]+)\*")


class Encoder:
    """Text to token ids, remembering what it has seen: the world's sentences repeat."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._encode = tokenizer.backend_tokenizer.encode
        self.image = tokenizer.convert_tokens_to_ids("<image>")
        self.end = tokenizer.eos_token_id
        self.ids = lru_cache(maxsize=200_000)(self._ids)
        self._start = (tokenizer.bos_token_id, *self.ids(f"{SYSTEM} USER: "))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._encode(text, add_special_tokens=False).ids)

    def prefix(self, views: int) -> tuple[int, ...]:
        """The prompt up to the question, image placeholders expanded."""
        return self._start + ((self.image,) * PATCHES**2 + self.ids("\n")) * views

    def question(self, text: str) -> tuple[int, ...]:
        return self.ids(text + " ASSISTANT:")

    def answer(self, marked: str) -> tuple[list[int], list[float]]:
        """Ids of a marked answer (with its leading space and the end token) and their loss weights."""
        ids: list[int] = []
        weights: list[float] = []
        for number, part in enumerate(_MARKED.split(marked)):
            piece = self.ids(" " + part) if number % 2 else self.ids(part)
            ids += piece
            weights += [1.0 if number % 2 else PLAIN_WEIGHT] * len(piece)
        return [*ids, self.end], [*weights, PLAIN_WEIGHT]


@dataclass
class Packed:
    """One sequence: a prefix and branches. `targets` are the tokens to predict."""

    ids: list[int]
    positions: list[int]
    branch: list[int]
    targets: list[tuple[int, int, float, int]]  # place in the sequence, predecessor's place, weight, branch number
    views: list[np.ndarray]


def pack(prefix: tuple[int, ...], branches: list[tuple[list[int], list[float]]], views: list[np.ndarray]) -> Packed:
    """Lay out a prefix and its branches (ids and weights each); every branch's positions go on from the prefix."""
    packed = Packed(list(prefix), list(range(len(prefix))), [0] * len(prefix), [], views)
    for number, (ids, weights) in enumerate(branches, start=1):
        start = len(packed.ids)
        for offset, weight in enumerate(weights):
            if weight:
                before = start + offset - 1 if offset else len(prefix) - 1
                packed.targets.append((start + offset, before, weight, number - 1))
        packed.ids += ids
        packed.positions += range(len(prefix), len(prefix) + len(ids))
        packed.branch += [number] * len(ids)
    return packed


def token_losses(
    model: LlavaForConditionalGeneration, batch: list[Packed], image_token: int
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Cross-entropy (n,) and rightness (n,) of every predicted token, and its (sample, weight, branch) as rows."""
    length = max(len(packed.ids) for packed in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    branch = torch.full_like(ids, -1)
    for row, packed in enumerate(batch):
        ids[row, : len(packed.ids)] = torch.tensor(packed.ids)
        positions[row, : len(packed.ids)] = torch.tensor(packed.positions)
        branch[row, : len(packed.ids)] = torch.tensor(packed.branch)
    visible = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(visible.shape).masked_fill_(~visible, -1e9)[:, None]
    language = model.model.language_model
    embeds = language.embed_tokens(ids)
    views = [view for packed in batch for view in packed.views]
    if views:
        with torch.no_grad():
            hidden = model.model.vision_tower(to_pixels(np.stack(views)), output_hidden_states=True).hidden_states
            chosen = torch.cat([hidden[layer][:, 1:] for layer in model.config.vision_feature_layer], dim=-1)
        projected = model.model.multi_modal_projector(chosen).reshape(-1, embeds.shape[-1])
        embeds = embeds.masked_scatter((ids == image_token)[..., None], projected.to(embeds.dtype))
    states = language(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    places = [(row, *target) for row, packed in enumerate(batch) for target in packed.targets]
    rows, at, before = (torch.tensor([place[i] for place in places]) for i in range(3))
    logits = F.linear(states[rows, before], language.embed_tokens.weight).float()
    wanted = ids[rows, at]
    losses = F.cross_entropy(logits, wanted, reduction="none")
    return losses, logits.argmax(-1) == wanted, np.array([(place[0], place[3], place[4]) for place in places])
