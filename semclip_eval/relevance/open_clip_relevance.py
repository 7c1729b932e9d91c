"""ψ by a CLIP- or SigLIP-type model of open_clip: the cosine between a crop's and the text's embedding."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from semclip_eval.checks import whole_number
from semclip_eval.console import notice
from semclip_eval.errors import ConfigError
from semclip_eval.measure import flops
from semclip_eval.pixels import RESIZERS
from semclip_eval.relevance.base import PatchMap, Relevance, RelevanceRequest, check_psi_text
from semclip_eval.relevance.embedding_files import EmbeddingFiles, text_digest
from semclip_eval.relevance.embedding_store import EmbeddingStore, pixel_digest
from semclip_eval.relevance.trained import read_provenance
from semclip_eval.types import Box

if TYPE_CHECKING:
    import torch

    from semclip_eval.relevance.open_clip_weights import LoadedClip, Source

PRECISION_OF_DTYPE = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
PRECISIONS = ("fp32", "fp16", "bf16", "pure_fp16", "pure_bf16")
RESIZE_MODES = ("squash", "longest")
LOAD_FORMATS = ("auto", "dummy")
# Questions at the start that are scored by both resizes (`resize_with: torch`).
COMPARED = 4
# To be raised when the same pixels get another embedding here.
STORE_VERSION = 1
# In place of a box where a text's embedding is kept.
NO_BOX = Box(0, 0, 0, 0)
# An image: its id, its size, and 256 of its pixels, so that two benchmarks that number their images alike do not
# get each other's embeddings.
ImageKey = tuple[str, tuple[int, int], bytes]


class OpenClipRelevance(Relevance):
    """Scores each crop by the cosine of unit-norm embeddings, in float32.

    CLIP's logit is the cosine times a positive scale, SigLIP's that plus a bias: both rise with the cosine, so the
    ranking is the model's own, and the cosine is what is reported.

    model: an open_clip architecture, `local-dir:FOLDER` (open_clip's layout: open_clip_config.json, weights, tokenizer
    files) or `mini://clip`, the weights shipped with the package. pretrained: for an architecture a tag or a file of
    weights (a file's activation is the architecture's: OpenAI's weights want a `-quickgelu` name, and its preprocessing
    that of the architecture's tags); for any model a folder that `train-psi` wrote; null for the others. text: what the
    runner lets ψ read (`base.psi_text`). precision: open_clip's word, null follows `dtype`; below fp32 the scores of
    nearly equal crops depend on the batch. batch_size: crops, or texts, in one forward pass. cache_images: images whose
    crop embeddings are kept, the least recently used going first; 0 keeps none from one call to the next (latency
    mode). store_mib: size of the file in the cache folder that keeps crop embeddings from one run to the next
    (`embedding_store`); 0 for none. cache: a folder that keeps them in its place, as files, and texts' too
    (`embedding_files`), up to the same size. resize_mode: how a crop that is not square is brought to the model's
    square where the model's own way would cut its sides off: `squash` stretches it (SigLIP's way), `longest` pads it
    with black. resize_with: `pillow`, the published way, or `torch`, several times as fast and about two values in a
    thousand one grey level off; the first questions are scored both ways, and what that changes is said. load_format:
    `dummy` gives the architecture random weights without a download, for planning latency and memory; what it selects
    means nothing.

    Weights are loaded at `load` or at the first `score`. Raises ConfigError for a value, ModelError for weights that
    cannot be had.
    """

    # How a patch's feature is made (`patches.RECIPES`).
    recipe: str = "auto"

    def __init__(
        self,
        name: str,
        model: str,
        pretrained: str | None = None,
        text: str = "question",
        precision: str | None = None,
        batch_size: int = 64,
        cache_images: int = 64,
        resize_mode: Literal["squash", "longest"] = "squash",
        load_format: str = "auto",
        store_mib: int = 0,
        cache: str | None = None,
        resize_with: str = "pillow",
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        if not isinstance(model, str) or not model:
            raise ConfigError(f"psi.model={model}: must be an open_clip architecture or local-dir:FOLDER.")
        check_psi_text(text)
        if precision is not None and precision not in PRECISIONS:
            raise ConfigError(f"psi.precision={precision}: must be null or one of {', '.join(PRECISIONS)}.")
        if dtype not in PRECISION_OF_DTYPE:
            raise ConfigError(f"run.dtype={dtype}: must be one of {', '.join(PRECISION_OF_DTYPE)}.")
        whole_number("psi.batch_size", batch_size, 1)
        whole_number("psi.cache_images", cache_images, 0)
        whole_number("psi.store_mib", store_mib, 0)
        if cache is not None and not str(cache).strip():
            raise ConfigError("psi.cache is empty: name a folder, or write null for the cache folder.")
        if resize_mode not in RESIZE_MODES:
            raise ConfigError(f"psi.resize_mode={resize_mode}: must be {' or '.join(RESIZE_MODES)}.")
        if resize_with not in RESIZERS:
            raise ConfigError(f"psi.resize_with={resize_with}: must be {' or '.join(RESIZERS)}.")
        if load_format not in LOAD_FORMATS:
            raise ConfigError(f"psi.load_format={load_format}: must be {' or '.join(LOAD_FORMATS)}.")
        self.name = name
        self.model = model
        self.load_format = load_format
        # A tag such as 400m is a word, but a number typed on the command line arrives as one.
        self.pretrained = None if pretrained is None else str(pretrained)
        self.text = text
        self.precision = precision or PRECISION_OF_DTYPE[dtype]
        self.batch_size = batch_size
        self.cache_images = cache_images
        self.store_mib = store_mib
        self.cache = None if cache is None else Path(str(cache)).expanduser()
        self._store: EmbeddingStore | EmbeddingFiles | None = None
        self._keeps = True
        self.resize_mode = resize_mode
        self.resize_with, self._is_compared = resize_with, resize_with == "pillow"
        self.device = device
        self._source: Source | None = None
        self._clip: LoadedClip | None = None
        self._cache: OrderedDict[ImageKey, dict[Box, torch.Tensor]] = OrderedDict()
        self._recipe: str | None = None
        self._text_lengths: dict[str, int] = {}

    @property
    def revision(self) -> str:  # type: ignore[override]
        """The pretrained tag, `local:` and twelve hex digits of the files' digest, or `dummy:`; needs no loading."""
        return self._resolved().revision

    @property
    def training(self) -> str:
        """See `Relevance.training`."""
        trained = self._resolved().trained
        return read_provenance(trained).summary if trained is not None else ""

    def load(self) -> None:
        """Load the weights, once; ModelError where that fails."""
        self._loaded()

    @property
    def truncations(self) -> dict[str, int]:
        """See `Relevance.truncations`; empty before the first text."""
        if self._clip is None or not self._text_lengths:
            return {}
        context = self._clip.context_length
        return {
            "texts": len(self._text_lengths),
            "truncated": sum(length > context for length in self._text_lengths.values()),
            "longest": max(self._text_lengths.values()),
            "context": context,
        }

    def reset(self) -> None:
        """Forget counted texts and cached crops; the model stays loaded."""
        self._text_lengths.clear()
        self._cache.clear()

    def begin_block(self, keep: bool) -> None:
        """See `Relevance.begin_block`."""
        self._keeps = keep
        if not keep:
            self._cache.clear()

    def score(self, requests: Sequence[RelevanceRequest]) -> list[tuple[float, ...]]:
        """Cosines in [-1, 1], one a box."""
        texts = list(dict.fromkeys(request.text for request in requests))
        text_embeddings = dict(zip(texts, self.embed_texts(texts), strict=True))
        keys = [image_key(request) for request in requests]
        crops = self._crop_embeddings(requests, keys)
        if not self._is_compared and self._keeps:  # in latency mode it would be timed
            self._compare(requests[:COMPARED], text_embeddings)
        scores = []
        for request, key in zip(requests, keys, strict=True):
            cosines = [crops[key][box] @ text_embeddings[request.text] for box in request.boxes]
            scores.append(tuple(float(cosine) for cosine in cosines))
        return scores

    def _compare(self, requests: Sequence[RelevanceRequest], texts: Mapping[str, torch.Tensor]) -> None:
        """Say what `resize_with: torch` changes in the scores of the first questions."""
        import torch

        self._is_compared = True
        same, furthest = 0, 0.0
        clip = self._loaded()
        for request in requests:
            both = []
            for preprocess in (clip.preprocess, clip.published):
                pixels = torch.stack([preprocess(request.image.crop(box)) for box in request.boxes])
                both.append(torch.stack(self._embed("image", pixels)) @ texts[request.text])
            same += int(both[0].argmax() == both[1].argmax())
            furthest = max(furthest, float((both[0] - both[1]).abs().max()))
        notice(
            f"psi.resize_with={self.resize_with}: {same} of the first {len(requests)} questions keep the best crop of "
            f"Pillow's resize; scores differ by at most {furthest:.1e}."
        )

    def patch_maps(self, pictures: Sequence[tuple[Image.Image, str]]) -> list[PatchMap]:
        """See `Relevance.patch_maps`; cosines in [-1, 1], each picture stretched to the model's square."""
        texts = list(dict.fromkeys(text for _, text in pictures))
        embeddings = dict(zip(texts, self.embed_texts(texts), strict=True))
        features = self.patch_features([image for image, _ in pictures])
        return [
            patch_map(patches, embeddings[text], image.size)
            for patches, (image, text) in zip(features, pictures, strict=True)
        ]

    def patch_features(self, images: Sequence[Image.Image]) -> list[torch.Tensor]:
        """Features (rows, columns, dimension), float32 on the CPU, whose product with a text's embedding is its map.

        Made by `recipe` (see `patches`). At the first call the map is tried on a constructed picture (not with random
        weights).
        """
        from semclip_eval.relevance import patches

        place = f"psi.model={self.model}"
        visual = self.loaded_model.visual
        recipe = patches.check_tower(visual, self.recipe, place)
        if self._recipe != recipe:
            self._recipe = recipe
            if self.load_format != "dummy":
                side = self._loaded().stretch(Image.new("RGB", (8, 8))).shape[-1]
                patches.check_sign(lambda image, text: self._map(visual, image, text, recipe), side, place)
        maps: list[torch.Tensor] = []
        for start in range(0, len(images), self.batch_size):
            maps += self._patch_features(visual, images[start : start + self.batch_size], recipe)
        return maps

    def _patch_features(self, visual: Any, images: Sequence[Image.Image], recipe: str) -> list[torch.Tensor]:
        import open_clip
        import torch

        from semclip_eval.relevance import patches

        clip = self._loaded()
        with self.part("psi_crop"):
            pixels = torch.stack(self.mapped(clip.stretch, images))
        with self.part("psi_image"), torch.inference_mode():
            pixels = pixels.to(self.device, dtype=open_clip.get_input_dtype(self.precision))
            flat = patches.sign_of(visual, recipe) * patches.patch_features(visual, pixels, recipe).cpu()
        rows, columns = visual.grid_size
        return list(flat.reshape(len(images), rows, columns, -1))

    def _map(self, visual: Any, image: Image.Image, text: str, recipe: str) -> torch.Tensor:
        return self._patch_features(visual, [image], recipe)[0] @ self._text_embedding(text)

    def _text_embedding(self, text: str) -> torch.Tensor:
        """Of a text of ours, which does not count for `truncations`."""
        return self._embed("text", self._loaded().tokenizer([text]))[0]

    def _resolved(self) -> Source:
        if self._source is None:
            from semclip_eval.relevance.open_clip_weights import resolve

            source = resolve(self.model, self.pretrained, self.load_format)
            if source.trained is not None and (text := read_provenance(source.trained).text) != self.text:
                raise ConfigError(
                    f"psi.text={self.text}: psi.pretrained={self.pretrained} learned from psi.text={text}; set that."
                )
            self._source = source
        return self._source

    def _loaded(self) -> LoadedClip:
        if self._clip is None:
            from semclip_eval.relevance.open_clip_weights import load

            self._clip = load(self._resolved(), self.device, self.precision, self.resize_mode, self.resize_with)
        return self._clip

    @property
    def loaded_model(self) -> Any:
        """The open_clip model itself, loaded if need be."""
        return self._loaded().model

    def embed_crops(self, requests: Sequence[RelevanceRequest]) -> list[torch.Tensor]:
        """Unit-norm float32 embeddings (boxes, dimension) on the CPU, one tensor a request."""
        import torch

        keys = [image_key(request) for request in requests]
        crops = self._crop_embeddings(requests, keys)
        return [
            torch.stack([crops[key][box] for box in request.boxes]) for request, key in zip(requests, keys, strict=True)
        ]

    def crop_pixels(self, image: Image.Image, boxes: Sequence[Box]) -> torch.Tensor:
        """What the image tower is given of each box: (boxes, 3, side, side), float32 on the CPU."""
        import torch

        preprocess = self._loaded().preprocess
        return torch.stack([preprocess(image.crop(box)) for box in boxes])

    def flops(self, boxes: int, texts: int) -> int | None:
        """See `Relevance.flops`; None for towers that are no plain transformers of open_clip or timm."""
        image, text = flops.open_clip_image(self.loaded_model.visual), flops.open_clip_text(self.loaded_model)
        return None if image is None or text is None else boxes * image + texts * text

    def map_flops(self, pictures: int) -> int | None:
        """See `Relevance.map_flops`."""
        image, text = self.picture_flops(), flops.open_clip_text(self.loaded_model)
        return None if image is None or text is None else pictures * image + text

    def picture_flops(self) -> int | None:
        """Of the patches of one picture; None where not known."""
        from semclip_eval.relevance import patches

        visual = self.loaded_model.visual
        return flops.open_clip_patches(visual, patches.check_tower(visual, self.recipe, f"psi.model={self.model}"))

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids (texts, context length), cut and padded."""
        ids: torch.Tensor = self._loaded().tokenizer(list(texts))
        return ids

    def embed_texts(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """Unit-norm float32 embeddings on the CPU, one a text; the texts count for `truncations`."""
        import torch

        clip = self._loaded()
        with self.part("psi_text"):
            for text in texts:
                self._text_lengths.setdefault(text, clip.text_length(text))
            store = self._open_store() if self.cache is not None else None
            found: dict[str, torch.Tensor] = {}
            if store is not None:
                known = {text: store.get(text_digest(text), [NO_BOX]) for text in texts}
                found = {text: torch.from_numpy(each[NO_BOX].copy()) for text, each in known.items() if each}
            missing = [text for text in texts if text not in found]
            for start in range(0, len(missing), self.batch_size):
                part = missing[start : start + self.batch_size]
                found |= zip(part, self._embed("text", clip.tokenizer(part)), strict=True)
            if store is not None:
                for text in missing:
                    store.put(text_digest(text), {NO_BOX: found[text].numpy()})
                store.commit()
        return [found[text] for text in texts]

    def _crop_embeddings(
        self, requests: Sequence[RelevanceRequest], keys: Sequence[ImageKey]
    ) -> dict[ImageKey, dict[Box, torch.Tensor]]:
        """Embeddings of all boxes of all requests: the cached ones, and the others in full batches across requests."""
        import torch

        clip = self._loaded()
        found = {key: dict(self._cache.get(key, {})) for key in keys}
        missing: dict[tuple[ImageKey, Box], Image.Image] = {}
        for request, key in zip(requests, keys, strict=True):
            missing |= {(key, box): request.image for box in request.boxes if box not in found[key]}
        store = self._open_store()
        digests: dict[ImageKey, bytes] = {}
        if store is not None and missing:
            images = {key: image for (key, _), image in missing.items()}
            digests = {key: pixel_digest(image) for key, image in images.items()}
            for key, digest in digests.items():
                known = store.get(digest, [box for other, box in missing if other == key])
                found[key] |= {box: torch.from_numpy(vector.copy()) for box, vector in known.items()}
            missing = {place: image for place, image in missing.items() if place[1] not in found[place[0]]}
        work = list(missing.items())
        for start in range(0, len(work), self.batch_size):
            chunk = work[start : start + self.batch_size]
            with self.part("psi_crop"):
                pixels = torch.stack(self.mapped(lambda work: clip.preprocess(work[1].crop(work[0][1])), chunk))
            with self.part("psi_image"):
                embeddings = self._embed("image", pixels)
            for ((key, box), _), embedding in zip(chunk, embeddings, strict=True):
                found[key][box] = embedding
        if store is not None:
            for key, digest in digests.items():
                made = {box: found[key][box].numpy() for other, box in missing if other == key}
                if made:
                    store.put(digest, made)
            store.commit()
        for key in keys:
            self._cache[key] = found[key]
            self._cache.move_to_end(key)
        while len(self._cache) > self.cache_images:
            self._cache.popitem(last=False)
        return found

    def _open_store(self) -> EmbeddingStore | EmbeddingFiles | None:
        """None where nothing may be kept: latency mode, random weights, `store_mib: 0`."""
        if not self.store_mib or not self._keeps or self.load_format == "dummy":
            return None
        if self._store is None:
            import open_clip
            import torch

            from semclip_eval.paths import default_cache_folder

            resize = self.resize_mode + ("" if self.resize_with == "pillow" else f" {self.resize_with}")
            made_by = (
                self.model, self.revision, self.precision, resize, self.device.partition(":")[0],
                torch.__version__, open_clip.__version__, STORE_VERSION,
            )  # fmt: skip
            if self.cache is None:
                self._store = EmbeddingStore(default_cache_folder(), repr(made_by), self.store_mib)
            else:
                self._store = EmbeddingFiles(self.cache, repr(made_by), self.store_mib)
        return self._store

    def _embed(self, kind: Literal["image", "text"], batch: torch.Tensor) -> list[torch.Tensor]:
        """Unit-norm float32 embeddings on the CPU, one a row of `batch` (pixels N x 3 x H x W or token ids N x L)."""
        import open_clip
        import torch

        clip = self._loaded()
        with torch.inference_mode():
            if kind == "image":
                pixels = batch.to(self.device, dtype=open_clip.get_input_dtype(self.precision))
                features = clip.model.encode_image(pixels)
            else:
                features = clip.model.encode_text(batch.to(self.device))
            return list(torch.nn.functional.normalize(features.float(), dim=-1).cpu())


def patch_map(features: torch.Tensor, text: torch.Tensor, size: tuple[int, int]) -> PatchMap:
    """The map of a picture of `size` (width, height) from its features (rows, columns, dimension)."""
    rows, columns = features.shape[:2]
    x, y = np.linspace(0, size[0], columns + 1), np.linspace(0, size[1], rows + 1)
    left, top = np.meshgrid(x[:-1], y[:-1])
    right, bottom = np.meshgrid(x[1:], y[1:])
    boxes = np.stack([left, top, right, bottom], axis=-1).reshape(-1, 4)
    return PatchMap(boxes, (features @ text).reshape(-1).double().numpy())


def image_key(request: RelevanceRequest) -> ImageKey:
    sample = request.image.resize((16, 16), Image.Resampling.NEAREST).tobytes()
    return request.image_id, request.image.size, sample
