"""Qwen3-VL: views and positions as in Qwen2.5-VL with larger patches, and visual features that enter at several depths.

A view of height h and width w becomes about h*w / 32^2 visual tokens. Besides the projected features, which replace the
placeholders' embeddings, the tower projects the hidden states of some earlier layers; the language model adds the first
of them to its hidden states behind layer 0, the second behind layer 1 and so on, at the visual tokens only (DeepStack,
arXiv 2406.04334; transformers, models/qwen3_vl, `Qwen3VLTextModel.forward`). Here they travel with the visual token
that they belong to (`ViewTokens.deepstack`), so that a pruned one takes them along. One that the language model drops
on its way (`Drops`) has been given the levels of the layers that read it; what is added to it later nobody reads, since
its key is masked. Position ids are those of Qwen2.5-VL; the model interleaves the axes over the frequencies. Timestamps
are written for videos only, which no selector makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from semclip_eval.errors import ConfigError
from semclip_eval.lazy import library
from semclip_eval.measure import flops
from semclip_eval.models.base import ModelInputs
from semclip_eval.models.grounding import QWEN3_VL, THOUSAND
from semclip_eval.models.insight import ViewTokens
from semclip_eval.models.transformers.prompts import CONVERSATIONS, Conversation
from semclip_eval.models.transformers.qwen25_vl import Qwen25VL, Qwen25VLConfig

if TYPE_CHECKING:
    import torch
else:
    torch = library("torch")

BOUNDS = ("min_pixels", "max_pixels")


@dataclass
class Qwen3VLConfig(Qwen25VLConfig):
    """Keys of Qwen3-VL.

    min_pixels, max_pixels: bounds of a view's area; None takes the checkpoint's own (65536 and 16777216 as published:
    64 to 16384 visual tokens a view). system: a system message; None sends none, as the chat template does by itself.
    processor, template: keys of `model=transformers`, for commands written for it. `processor` may hold `min_pixels`
    and `max_pixels`; the prompt is `conversation`, so that `template` must be empty.
    """

    conversation: str = "qwen3_vl"
    system: str | None = None
    processor: dict[str, Any] | None = None
    template: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        generic = f"model=transformers model.hub_id={self.hub_id or 'OWNER/NAME'} takes any"
        for key, value in (self.processor or {}).items():
            if key not in BOUNDS:
                raise ConfigError(f"model.processor.{key}={value}: must be one of {', '.join(BOUNDS)}; {generic}")
            if getattr(self, key) not in (None, value):
                raise ConfigError(f"model.processor.{key}={value}: model.{key}={getattr(self, key)} says otherwise")
            setattr(self, key, value)
        if self.template:
            raise ConfigError(f"model.template={self.template}: must be empty; {generic}")
        super().__post_init__()
        if self.conversation in CONVERSATIONS and self.system is not None:
            specials = CONVERSATIONS[self.conversation].segments("", 1)
            for mark in {segment.text for segment in specials if segment.kind != "text"}:
                if mark in self.system:
                    raise ConfigError(f"model.system={self.system!r}: must not hold {mark}, a mark of the prompt")


class Qwen3VL(Qwen25VL):
    """Qwen3-VL, dense."""

    Config = Qwen3VLConfig
    settings: Qwen3VLConfig

    model_type = "qwen3_vl"
    conversations = ("qwen3_vl",)
    grounding = QWEN3_VL
    # preprocessor_config.json of Qwen/Qwen3-VL-*-Instruct.
    published: ClassVar[Mapping[str, Any]] = {
        "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }

    def _conversation(self) -> Conversation:
        plain = super()._conversation()
        if self.settings.system is None:
            return plain
        return replace(plain, before=f"<|im_start|>system\n{self.settings.system}<|im_end|>\n{plain.before}")

    def box_frame(self, width: int, height: int) -> tuple[float, float]:
        """0 .. 1000 on both sides, whatever the image processor makes of the image."""
        return THOUSAND

    def _vision_flops(self, prepared: ModelInputs) -> int | None:
        return flops.deepstack_encoder(self.model.config.vision_config, prepared.extras["image_grid_thw"].tolist())

    def _image_features(self, pixel_values: torch.Tensor, extras: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """(visual tokens, hidden size x (1 + levels)): the projected features, then DeepStack's level by level."""
        outputs = self.model.model.get_image_features(pixel_values, extras["image_grid_thw"])
        # transformers 5.23 splits each level into views, 5.17 does not.
        levels = [
            level if isinstance(level, torch.Tensor) else torch.cat(level) for level in outputs.deepstack_features
        ]
        return torch.cat([torch.cat(list(outputs.pooler_output)), *levels], dim=-1)

    def _typed_view(self, features: torch.Tensor, class_attention: torch.Tensor | None) -> ViewTokens:
        return ViewTokens(features[:, : self.hidden_size], class_attention, features[:, self.hidden_size :])

    def _read_prompt(
        self,
        embeddings: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        is_visual: torch.Tensor,
        deepstack: torch.Tensor | None,
    ) -> tuple[Any, torch.Tensor]:
        # The whole model has no argument for features that are encoded already (5.17) or wants them unpruned with their
        # ids (5.23); its language model takes them in both.
        outputs = self.model.model.language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            visual_pos_masks=None if deepstack is None else is_visual,
            deepstack_visual_embeds=None if deepstack is None else list(deepstack.split(self.hidden_size, dim=-1)),
        )
        logits = self.model.lm_head(outputs.last_hidden_state[:, -1])
        return outputs.past_key_values, logits.to(self.device)
