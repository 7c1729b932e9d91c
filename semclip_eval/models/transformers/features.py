"""What the vision tower made of views, kept so that no view passes it twice.

A view is known by the digest of what the tower reads, its preprocessed pixels: two questions about one image, two
selectors over one benchmark, and a ψ that embeds through the VLM's own tower share entries because the key is the
content.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    import torch

MIB = 2**20


@dataclass(frozen=True)
class ViewFeatures:
    """One view after the tower: `selected` (tokens, width) is what the family keeps.

    For LLaVA-1.5 that is what the projector reads, elsewhere what it made of it. `embedding` (dimension) is the view's
    unit-norm float32 embedding for ψ, None where no ψ asked for one; `space` names the weights that made it.
    `class_attention` (tokens): None where nobody asked for it (`ViewTokens`).
    """

    selected: torch.Tensor
    embedding: torch.Tensor | None = None
    space: str = ""
    class_attention: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        tensors = [each for each in (self.selected, self.embedding, self.class_attention) if each is not None]
        return sum(tensor.nelement() * tensor.element_size() for tensor in tensors)


class FeatureStore:
    """Features by pixel digest. What is over `limit_mib` goes, least recently used first.

    Within a block what ψ embedded stays, so that it is still there when the VLM wants it, and only other views go: a
    selector that probes many crops does not fill the memory. With a limit of 0 nothing is carried from one block to the
    next. `passes` counts views that went through the tower, `reused` those
    that were found here.
    """

    def __init__(self, limit_mib: int) -> None:
        self.limit = limit_mib * MIB
        self.passes = 0
        self.reused = 0
        self._features: OrderedDict[bytes, ViewFeatures] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._features)

    def begin_block(self, keep: bool = True) -> None:
        """Let go of what is over the limit, or of everything where nothing may be kept."""
        while self._size > (self.limit if keep else 0):
            _, features = self._features.popitem(last=False)
            self._size -= features.size

    def __contains__(self, key: object) -> bool:
        return key in self._features

    def clear(self) -> None:
        """Let go of everything, also within a block."""
        self._features.clear()
        self._size = 0

    def embedding(self, key: bytes, space: str) -> torch.Tensor | None:
        """The view's embedding in that space; None where the view is not here or no ψ of that space looked at it."""
        features = self._features.get(key)
        return features.embedding if features is not None and features.space == space else None

    def get(self, key: bytes) -> ViewFeatures | None:
        """The view's features, which count as used now; None where they are not here."""
        features = self._features.get(key)
        if features is not None:
            self._features.move_to_end(key)
            self.reused += 1
        return features

    def put(self, key: bytes, features: ViewFeatures) -> None:
        """Keep the features of a view that has just passed the tower."""
        self.passes += 1
        before = self._features.pop(key, None)
        self._size += features.size - (before.size if before is not None else 0)
        self._features[key] = features
        if self._size > self.limit:
            for other in [name for name, kept in self._features.items() if kept.embedding is None]:
                self._size -= self._features.pop(other).size
                if self._size <= self.limit:
                    break


def pixel_keys(pixels: torch.Tensor) -> tuple[bytes, ...]:
    """A digest for each view of `pixels` (views, 3, height, width; float32 on the CPU)."""
    # Not a cryptographic hash: nobody gains by forging a view, and this one runs at the speed of memory.
    return tuple(xxhash.xxh3_128_digest(view.numpy()) for view in pixels.contiguous())


def view_key(pixels: torch.Tensor, extras: Mapping[str, torch.Tensor]) -> bytes:
    """A digest of one view whose pixels alone do not say how they are read: of both, their names and shapes."""
    digest = xxhash.xxh3_128()
    for name, tensor in (("pixels", pixels), *sorted(extras.items())):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.digest()
