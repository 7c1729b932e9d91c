"""From a prompt's cache to the answer: greedy tokens, or the losses of all options over one prefill."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semclip_eval.lazy import library, without_gradients
from semclip_eval.models.base import VLM, ModelInputs
from semclip_eval.models.transformers.dropping import Dropping, reading
from semclip_eval.types import Answer

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")


@dataclass
class PrefillState:
    """What prefill hands to decode, for one call of it: the cache grows in place and is let go of then.

    `mask` (questions, padded length) is 1 on tokens and 0 on the left padding; `logits` (questions, vocabulary) are
    float32 of each prompt's last token; `next_positions` (questions) are the position ids of the token that follows,
    which is the prompt's length where positions count tokens, and less where a view's tokens share positions.
    `dropping`: which visual tokens the language model no longer reads; None: it reads all.
    """

    cache: Any
    mask: torch.Tensor
    logits: torch.Tensor
    next_positions: torch.Tensor
    dropping: Dropping | None = None

    def dropped_of(self, rows: Sequence[int]) -> Dropping | None:
        """What is dropped of sequences that go on from these prompts."""
        return None if self.dropping is None else self.dropping.of_rows(rows)


class CachedDecoder(VLM):
    """The decode stage of a causal transformers model, the same for every family.

    `tokenizer` decodes, `stop_ids` end an answer, `is_sharded` says whether the layers lie on more than one device.
    """

    model: Any
    tokenizer: Any
    stop_ids: list[int]
    is_sharded: bool = False

    @without_gradients
    def decode(self, batch: Sequence[ModelInputs], state: PrefillState, ignore_end_token: bool = False) -> list[Answer]:
        """See `VLM.decode`. Raises ValueError for a state that was decoded before."""
        if state.cache is None:
            raise ValueError("this state was decoded before; call prefill again")
        cache, state.cache = state.cache, None
        scored = [row for row, prepared in enumerate(batch) if prepared.continuation_ids]
        generated = [row for row, prepared in enumerate(batch) if not prepared.continuation_ids]
        answers: dict[int, Answer] = {}
        if scored:
            # Scoring grows the cache: where generation follows, it works on a copy.
            own = copy.deepcopy(cache) if generated else cache
            answers |= self._score_options(batch, scored, state, own)
        if generated:
            if scored:
                self._select(cache, torch.tensor(generated, device=self.device))
            answers |= self._generate(batch, generated, state, cache, ignore_end_token)
        return [answers[row] for row in range(len(batch))]

    @property
    def shares_prompts(self) -> bool:
        """Can all options of a question go on from its one cache? Not where the kernel takes no mask of its own, nor
        where layers read a window of the prompt alone.
        """
        text = self.model.config.text_config
        layers = getattr(text, "layer_types", None) or ["full_attention"]
        has_window = bool(getattr(text, "sliding_window", None)) and getattr(text, "use_sliding_window", True)
        return self.attention in ("sdpa", "eager") and set(layers) == {"full_attention"} and not has_window

    def _score_options(
        self, batch: Sequence[ModelInputs], rows: list[int], state: PrefillState, cache: Any
    ) -> dict[int, Answer]:
        """Mean cross-entropy of each option's tokens, all options of `rows` in one forward."""
        options = [ids for row in rows for ids in batch[row].continuation_ids]
        owner = torch.tensor([row for row in rows for _ in batch[row].continuation_ids], device=self.device)
        counts = torch.tensor([len(ids) for ids in options])
        width = int(counts.max())
        targets = torch.zeros(len(options), width, dtype=torch.long)
        for line, ids in enumerate(options):
            targets[line, : len(ids)] = torch.tensor(ids)
        is_token = (torch.arange(width) < counts[:, None]).to(self.device)
        targets, counts = targets.to(self.device), counts.to(self.device)
        # The prompt's last logits predict the first token; each token that is fed predicts the next.
        logits = state.logits[owner][:, None]
        if width > 1:
            shared = self.shares_prompts and state.dropping is None
            read = self._options_beside_each_other if shared else self._options_on_copies
            logits = torch.cat(
                [logits, read(targets[:, :-1], is_token[:, :-1] & is_token[:, 1:], owner, state, cache)], 1
            )
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        means = iter(((losses * is_token).sum(1) / counts).tolist())
        return {row: Answer(option_losses=tuple(next(means) for _ in batch[row].continuation_ids)) for row in rows}

    def _options_on_copies(
        self, fed: torch.Tensor, is_fed: torch.Tensor, owner: torch.Tensor, state: PrefillState, cache: Any
    ) -> torch.Tensor:
        """Logits (options, tokens, vocabulary) of the tokens fed, each option on a copy of its prompt's cache.

        fed, is_fed: (options, tokens), the tokens and which of them there are; owner: (options), their prompts.
        """
        self._select(cache, owner)
        with reading(self.model, state.dropped_of(owner.tolist())):
            outputs = self.model(
                input_ids=fed,
                attention_mask=torch.cat([state.mask[owner], is_fed.long()], dim=1),
                position_ids=state.next_positions[owner][:, None] + torch.arange(fed.shape[1], device=self.device),
                past_key_values=cache,
                use_cache=True,
            )
        logits: torch.Tensor = outputs.logits.float()
        return logits

    def _options_beside_each_other(
        self, fed: torch.Tensor, is_fed: torch.Tensor, owner: torch.Tensor, state: PrefillState, cache: Any
    ) -> torch.Tensor:
        """`_options_on_copies` without the copies: the options of a prompt follow it one after another.

        A mask lets each token read the prompt and the tokens before it of its own option, and its position is as if
        the option came right after the prompt.
        """
        prompts = list(dict.fromkeys(owner.tolist()))
        if len(prompts) != len(state.mask):
            self._select(cache, torch.tensor(prompts, device=self.device))
        line_of = {row: line for line, row in enumerate(prompts)}
        lines = torch.tensor([line_of[row] for row in owner.tolist()], device=self.device)
        # Where in its prompt's line each token goes: behind those of the options before it.
        counts = is_fed.sum(1)
        starts = [int(counts[:option][lines[:option] == line].sum()) for option, line in enumerate(lines.tolist())]
        tokens = torch.arange(fed.shape[1], device=self.device)
        places = torch.tensor(starts, device=self.device)[:, None] + tokens
        length = int((places + 1)[is_fed].max())
        option, token = is_fed.nonzero(as_tuple=True)
        line, place = lines[option], places[option, token]
        shape = (len(prompts), length)
        ids, offsets = fed.new_zeros(shape), fed.new_zeros(shape)
        belongs = fed.new_full(shape, -1)
        ids[line, place], offsets[line, place], belongs[line, place] = fed[option, token], token, option
        order = torch.arange(length, device=self.device)
        own = (belongs[:, :, None] == belongs[:, None, :]) & (order[:, None] >= order)
        prompt = state.mask[prompts].bool()[:, None, :].expand(-1, length, -1)
        reads = torch.cat([prompt, own], dim=2)[:, None]
        dtype = self.model.dtype
        mask = torch.zeros(reads.shape, dtype=dtype, device=self.device).masked_fill(~reads, torch.finfo(dtype).min)
        outputs = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=state.next_positions[prompts][:, None] + offsets,
            past_key_values=cache,
            use_cache=True,
        )
        logits: torch.Tensor = outputs.logits.new_zeros(*fed.shape, outputs.logits.shape[-1], dtype=torch.float32)
        logits[option, token] = outputs.logits[line, place].float()
        return logits

    def _generate(
        self, batch: Sequence[ModelInputs], rows: list[int], state: PrefillState, cache: Any, ignore_end_token: bool
    ) -> dict[int, Answer]:
        """Greedy tokens of `rows`, whose cache this is; equals transformers' generate(do_sample=False)."""
        limits = torch.tensor([batch[row].max_new_tokens for row in rows], device=self.device)
        steps = int(limits.max())
        stop = torch.tensor(self.stop_ids, device=self.device)
        mask, positions, logits = state.mask[rows], state.next_positions[rows], state.logits[rows]
        dropping = state.dropped_of(rows)
        finished = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        tokens: list[torch.Tensor] = []
        while True:
            tokens.append(logits.argmax(-1))
            finished |= limits <= len(tokens)
            if not ignore_end_token:
                finished |= torch.isin(tokens[-1], stop)
            # Asking the device whether all are finished waits for it; a fixed number of tokens needs no asking.
            if len(tokens) == steps or (not ignore_end_token and bool(finished.all())):
                break
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            with reading(self.model, dropping):
                outputs = self.model(
                    input_ids=tokens[-1][:, None],
                    attention_mask=mask,
                    position_ids=(positions + len(tokens) - 1)[:, None],
                    past_key_values=cache,
                    use_cache=True,
                )
            logits = outputs.logits[:, -1].float()
        generated = torch.stack(tokens, dim=1).tolist()
        return {row: self._text_answer(generated[line], batch[row], ignore_end_token) for line, row in enumerate(rows)}

    def _text_answer(self, tokens: list[int], prepared: ModelInputs, ignore_end_token: bool) -> Answer:
        tokens = tokens[: prepared.max_new_tokens]
        if not ignore_end_token:
            end = next((place for place, token in enumerate(tokens) if token in self.stop_ids), len(tokens) - 1)
            tokens = tokens[: end + 1]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answer(text=text.strip(), new_tokens=len(tokens))

    def _select(self, cache: Any, rows: torch.Tensor) -> None:
        """Keep those rows of the cache, in that order. A layer elsewhere takes indices from the CPU only."""
        cache.batch_select_indices(rows.cpu() if self.is_sharded else rows)
