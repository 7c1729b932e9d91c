"""A ψ that `train-psi` has trained: a folder with the changed weights and where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semclip_eval.digest import folder_digest
from semclip_eval.errors import ModelError
from semclip_eval.files import read_json

if TYPE_CHECKING:
    import torch

PROVENANCE = "psi.json"
WEIGHTS = "weights.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class Provenance:
    """Where trained weights come from. They are laid over those of `model` and `pretrained` at `base_revision`.

    text: what ψ read (`psi.text`), and has to read again. summary: a few words for the column `psi_training`. details:
    settings, data and measurements of the training.
    """

    model: str
    pretrained: str | None
    base_revision: str
    text: str
    summary: str
    details: Mapping[str, Any]


def is_trained(folder: Path) -> bool:
    """Is this a folder that `train-psi` has finished?"""
    return (folder / PROVENANCE).is_file()


def read_provenance(folder: Path) -> Provenance:
    """ModelError where the file is of another format."""
    values = read_json(folder / PROVENANCE, ModelError)
    fields = Provenance.__dataclass_fields__
    if not isinstance(values, dict) or values.get("format") != FORMAT or not fields.keys() <= values.keys():
        raise ModelError(f"{folder / PROVENANCE}: not written by this version of train-psi; train again.")
    return Provenance(**{name: values[name] for name in fields})


def revision_of(folder: Path) -> str:
    """`local:` and a digest of the trained weights; their base is pinned by the provenance."""
    try:
        return f"local:{folder_digest(folder / WEIGHTS)}"
    except OSError as error:
        raise ModelError(f"psi.pretrained={folder}: {WEIGHTS} cannot be read ({error.strerror}).") from error


def save_trained(folder: Path, weights: Mapping[str, torch.Tensor], provenance: Provenance) -> None:
    """Write both files, the provenance last: a folder without it is not finished."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    text = json.dumps({"format": FORMAT, **asdict(provenance)}, indent=1, ensure_ascii=False)
    (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8")


def load_trained(model: Any, folder: Path) -> None:
    """Lay the trained weights over those of `model`; ModelError where one does not fit."""
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / WEIGHTS)
    except Exception as error:
        raise ModelError(f"psi.pretrained={folder}: {WEIGHTS} cannot be read ({type(error).__name__}).") from error
    own = model.state_dict()
    for name, tensor in weights.items():
        if name not in own or own[name].shape != tensor.shape:
            raise ModelError(f"psi.pretrained={folder}: the weight {name} does not fit psi.model's architecture.")
    model.load_state_dict(weights, strict=False)
