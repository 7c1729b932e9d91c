"""Dense ψ: crops are scored by the patches that they hold, so an image costs the same passes for any candidates."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from semclip_eval.checks import require_member, whole_number
from semclip_eval.crops import Grid
from semclip_eval.measure import flops
from semclip_eval.relevance.base import PatchMap, RelevanceRequest
from semclip_eval.relevance.open_clip_relevance import ImageKey, OpenClipRelevance, image_key, patch_map
from semclip_eval.relevance.patches import RECIPES

if TYPE_CHECKING:
    import torch

POOLS = ("max", "mean")


class DenseRelevance(OpenClipRelevance):
    """Scores each box by the similarity of the text and the image's patches in it.

    The image is cut into `tiles` x `tiles` pieces, each encoded once, which makes a map of patches over the whole
    image; a box takes the `max` or the `mean` of the patches whose middle lies in it. With `tiles=1` the overview alone
    is looked at: cheapest, and blind for what is too small there. recipe: how a patch's feature is made (`patches`);
    `auto` takes the tower's own. The other parameters are those of `OpenClipRelevance`.
    """

    def __init__(
        self,
        name: str,
        model: str,
        pretrained: str | None = None,
        text: str = "question",
        precision: str | None = None,
        recipe: str = "auto",
        tiles: int = 1,
        pool: str = "max",
        batch_size: int = 64,
        cache_images: int = 64,
        load_format: str = "auto",
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        super().__init__(
            name,
            model,
            pretrained,
            text,
            precision,
            batch_size,
            cache_images,
            load_format=load_format,
            device=device,
            dtype=dtype,
        )
        require_member("psi.recipe", recipe, RECIPES)
        require_member("psi.pool", pool, POOLS)
        whole_number("psi.tiles", tiles, 1)
        self.recipe, self.pool = recipe, pool
        self.tiles = Grid("tiles", tiles, tiles)
        self._features: OrderedDict[ImageKey, list[torch.Tensor]] = OrderedDict()

    def reset(self) -> None:
        """Forget counted texts and cached patches; the model stays loaded."""
        super().reset()
        self._features.clear()

    def begin_block(self, keep: bool) -> None:
        """See `Relevance.begin_block`."""
        super().begin_block(keep)
        if not keep:
            self._features.clear()

    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        """The pooled cosines in [-1, 1], one a box."""
        texts = list(dict.fromkeys(request.text for request in requests))
        embeddings = dict(zip(texts, self.embed_texts(texts), strict=True))
        return [self._scores(request, embeddings[request.text]) for request in requests]

    def flops(self, boxes: int, texts: int) -> int | None:
        """See `Relevance.flops`: one pass a tile, however many boxes lie in them."""
        image, text = self.picture_flops(), flops.open_clip_text(self.loaded_model)
        if image is None or text is None:
            return None
        return (self.tiles.rows * self.tiles.columns * image if boxes else 0) + texts * text

    def _scores(self, request: RelevanceRequest, text: torch.Tensor) -> tuple[float, ...]:
        relevance = self._map_of(request, text)
        pool = np.max if self.pool == "max" else np.mean
        return tuple(float(pool(relevance.inside(box))) for box in request.boxes)

    def _map_of(self, request: RelevanceRequest, text: torch.Tensor) -> PatchMap:
        """The tiles' maps in one, in pixels of the image."""
        tiles = self.tiles.candidates(*request.image.size)
        maps = []
        for tile, features in zip(tiles, self._tile_features(request, tiles), strict=True):
            part = patch_map(features, text, (tile.width, tile.height))
            maps.append(PatchMap(part.boxes + np.array([tile.left, tile.top] * 2), part.scores))
        return PatchMap(np.concatenate([part.boxes for part in maps]), np.concatenate([part.scores for part in maps]))

    def _tile_features(self, request: RelevanceRequest, tiles: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        key = image_key(request)
        if key not in self._features:
            with self.part("psi_crop"):
                pictures: list[Image.Image] = [request.image.crop(tile) for tile in tiles]  # type: ignore[arg-type]
            self._features[key] = self.patch_features(pictures)
        self._features.move_to_end(key)
        features = self._features[key]
        while len(self._features) > self.cache_images:
            self._features.popitem(last=False)
        return features
