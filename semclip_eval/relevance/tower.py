"""ψ through the VLM's own vision tower: a crop is encoded once, for the choice and for the answer.

LLaVA-1.5's tower is OpenAI's CLIP ViT-L/14 at 336 pixels, left as it was trained. What CLIP has beside the tower (the
last norm, the projection, the text tower) turns the tower's last hidden states into CLIP's embedding, while the VLM
reads the hidden states of an earlier layer from the same pass. A crop is seen as the VLM sees it, padded to a square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from PIL import Image

from semclip_eval.errors import ConfigError, ModelError
from semclip_eval.measure import flops
from semclip_eval.relevance.base import Relevance, RelevanceRequest, Watcher
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

# Exports of one tower in different precisions differ by rounding (bfloat16 keeps 8 bits); other towers by far more.
SAME_WEIGHT = 0.02


class TowerOwner(Protocol):
    """What a VLM offers whose tower ψ may look through."""

    name: str

    @property
    def vision_tower(self) -> Any:
        """The CLIPVisionModel's inner transformer of transformers."""

    def embed_views(
        self, images: Sequence[Image.Image], head: Callable[[torch.Tensor], torch.Tensor], space: str
    ) -> torch.Tensor:
        """Embeddings (images, dimension) that `head` makes of the tower's last hidden states (images, tokens, width).

        `space` names the weights of the head, so that no embedding of other weights is taken for its own. The pass also
        leaves behind what the VLM itself needs of these images.
        """


class TowerRelevance(Relevance):
    """Cosine of CLIP embeddings, the image's computed from the VLM's tower.

    model, pretrained: the open_clip weights that the tower was taken from, as in `OpenClipRelevance`; only their text
    tower, last norm and projection are used. text: what ψ reads. load_format: `dummy` for random weights. The VLM is
    handed over with `attach`.
    Raises ModelError where the VLM has no CLIP tower or one with other weights than `model`'s.
    """

    needs_vlm: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        model: str,
        pretrained: str | None = None,
        text: str = "question",
        load_format: str = "auto",
        device: str = "cpu",
    ) -> None:
        # Texts, sources and their errors are those of open_clip's ψ; in float32, which costs nothing for a text.
        self._clip = OpenClipRelevance(
            name, model, pretrained, text, precision="fp32", load_format=load_format, device=device
        )
        self.name, self.model, self.text = name, model, text
        self._vlm: TowerOwner | None = None
        self._visual: Any = None

    @property
    def revision(self) -> str:  # type: ignore[override]
        """That of the CLIP weights; needs no loading. The tower's is the VLM's."""
        return self._clip.revision

    @property
    def truncations(self) -> dict[str, int]:
        """See `Relevance.truncations`."""
        return self._clip.truncations

    def begin_block(self, keep: bool) -> None:
        """See `Relevance.begin_block`; what the tower made of the crops is the VLM's to forget."""
        self._clip.begin_block(keep)

    def watch(self, watcher: Watcher | None) -> None:
        """See `Relevance.watch`; the texts are open_clip's work."""
        super().watch(watcher)
        self._clip.watch(watcher)

    def reset(self) -> None:
        """Forget counted texts, and the VLM until it is attached again."""
        self._clip.reset()
        self._vlm = None

    def load(self) -> None:
        """Load the text tower and the head, once.

        CLIP's own image transformer moves to the CPU; only the weight check uses it.
        """
        if self._visual is not None:
            return
        self._clip.load()
        visual = self._clip.loaded_model.visual
        if getattr(visual, "attn_pool", True) is not None or getattr(visual, "pool_type", None) not in ("tok", "avg"):
            raise ModelError(
                f"psi.model={self.model}: its image tower is not a plain CLIP transformer, so no VLM's tower can stand "
                "in for it. psi=clip_vit_l_14_336 encodes crops with a tower of its own."
            )
        for unused in (visual.conv1, visual.transformer):
            unused.to("cpu")
        self._visual = visual

    def attach(self, vlm: Any) -> None:
        """Look through this VLM's tower from now on."""
        if vlm is self._vlm:
            return
        if not hasattr(vlm, "embed_views"):
            raise ConfigError(
                f"psi={self.name}: model={vlm.name} offers no CLIP tower to look through; choose a llava15 model, or "
                "psi=clip_vit_l_14_336 with a tower of its own."
            )
        self.load()
        self._require_same_tower(vlm)
        self._vlm = vlm

    def flops(self, boxes: int, texts: int) -> int | None:
        """See `Relevance.flops`; the crops pass the VLM's tower, and what CLIP has behind it."""
        text = flops.open_clip_text(self._clip.loaded_model)
        if self._vlm is None or text is None:
            return None
        head = 0 if self._visual.proj is None else flops.linear(1, *self._visual.proj.shape)
        return self.shared_flops(boxes) + boxes * head + texts * text

    def shared_flops(self, boxes: int) -> int:
        """See `Relevance.shared_flops`: the tower, which a scored crop does not pass again for the answer."""
        return 0 if self._vlm is None else boxes * flops.tower(self._vlm.vision_tower.config)

    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        """Cosines in [-1, 1], one a box. All crops of a request are encoded together, whatever else is asked."""
        if self._vlm is None:
            raise RuntimeError("attach(vlm) comes before score")
        texts = list(dict.fromkeys(request.text for request in requests))
        text_embeddings = dict(zip(texts, self._clip.embed_texts(texts), strict=True))
        scores, space = [], f"{self.model} {self.revision}"
        for request in requests:
            with self.part("psi_crop"):
                crops = [request.image.crop(box) for box in request.boxes]
            text = text_embeddings[request.text]
            with self.part("psi_image"):  # resizing is the VLM's own and falls here
                cosines = self._vlm.embed_views(crops, self._head, space) @ text if crops else None
            scores.append(() if cosines is None else tuple(cosines.tolist()))
        return scores

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Unit-norm float32 embeddings (N, dimension) of last hidden states (N, 1 + patches, width), class token first.

        The end of `VisionTransformer.forward` in github.com/mlfoundations/open_clip, src/open_clip/transformer.py.
        """
        import torch

        # A VLM spread over several GPUs may have its tower on another one than ψ.
        visual, hidden = self._visual, hidden.to(self._clip.device, torch.float32)
        if not visual.final_ln_after_pool:
            hidden = visual.ln_post(hidden)
        pooled = hidden[:, 0] if visual.pool_type == "tok" else hidden[:, 1:].mean(dim=1)
        if visual.final_ln_after_pool:
            pooled = visual.ln_post(pooled)
        if visual.proj is not None:
            pooled = pooled @ visual.proj
        return torch.nn.functional.normalize(pooled, dim=-1).cpu()

    def _require_same_tower(self, vlm: TowerOwner) -> None:
        """ModelError unless the first and the last weights of the VLM's tower are CLIP's, but for rounding."""
        tower, visual = vlm.vision_tower, self._visual
        theirs = (visual.conv1.weight, visual.transformer.resblocks[-1].mlp.c_fc.weight)
        try:
            ours = (tower.embeddings.patch_embedding.weight, tower.encoder.layers[-1].mlp.fc1.weight)
        except AttributeError as error:
            raise ModelError(
                f"psi={self.name}: the tower of model={vlm.name} is no CLIP ({type(tower).__name__}); choose "
                "psi=clip_vit_l_14_336, which encodes crops with a tower of its own."
            ) from error
        for mine, clip in zip(ours, theirs, strict=True):
            same_shape, random = mine.shape == clip.shape, self._clip.load_format == "dummy"
            if not same_shape or not (random or _close(mine.detach(), clip.detach())):
                raise ModelError(
                    f"psi={self.name}: the tower of model={vlm.name} has other weights than psi.model={self.model}, so "
                    "its embeddings would mean nothing to that text tower. Give the CLIP that the tower was taken from."
                )


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    one, other = one.float().cpu(), other.float().cpu()
    return float((one - other).norm()) <= SAME_WEIGHT * float(other.norm())
