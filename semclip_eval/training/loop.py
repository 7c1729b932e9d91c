"""The training itself: the text tower on kept crop embeddings, then both towers, stopped by held-out regret."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from semclip_eval.relevance.base import RelevanceRequest
from semclip_eval.relevance.open_clip_relevance import OpenClipRelevance
from semclip_eval.training import objectives
from semclip_eval.training.labels import Label
from semclip_eval.training.settings import TrainSettings
from semclip_eval.types import Question

STAGES = ("text", "both")


@dataclass(frozen=True)
class Example:
    """A question with its gains. `question` gives the image again, for the stage that trains the image tower."""

    question: Question
    label: Label
    gains: tuple[float, ...]


@dataclass(frozen=True)
class Epoch:
    """Held-out numbers after an epoch (0: before any): regret in nats a token, how often the best crop is chosen."""

    stage: str
    epoch: int
    loss: float | None
    regret: float
    best_chosen: float


def is_held_out(image: str, share: float) -> bool:
    """By image, so that no image is on both sides; the same for every seed."""
    return int(hashlib.sha256(image.encode()).hexdigest()[:8], 16) / 2**32 < share


def shuffled_gains(examples: Sequence[Example], seed: int) -> list[Example]:
    """The gains of each question permuted among its crops: nothing is left in them that a text or crop could tell."""
    shuffled = []
    for example in examples:
        gains = list(example.gains)
        random.Random(f"{seed}/{example.label.question_id}").shuffle(gains)
        shuffled.append(Example(example.question, example.label, tuple(gains)))
    return shuffled


def text_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """All parameters outside of the image tower, with the logit's scale and bias."""
    return {name: value for name, value in model.named_parameters() if not name.startswith("visual.")}


class Training:
    """One training of one ψ; `state` is everything that an interruption must not lose."""

    def __init__(
        self,
        relevance: OpenClipRelevance,
        training: Sequence[Example],
        held_out: Sequence[Example],
        settings: TrainSettings,
        state_file: Path,
        report: Callable[[Epoch], None],
    ) -> None:
        self.relevance, self.settings = relevance, settings
        self.training, self.held_out = list(training), list(held_out)
        self.state_file, self.report = state_file, report
        # In evaluation mode throughout: CLIP models have no dropout, and running statistics are not to move.
        self.model = relevance.loaded_model.float().eval()
        self.device = next(self.model.parameters()).device
        self.kept = self._embedded([*self.training, *self.held_out])
        self.history: list[Epoch] = []
        self.best: dict[str, torch.Tensor] = {}
        self.best_regret = float("inf")

    def run(self) -> dict[str, torch.Tensor]:
        """The changed weights with the smallest held-out regret; empty where no epoch beat the weights as they were."""
        stages = [(stage, getattr(self.settings, f"{stage}_epochs")) for stage in STAGES]
        resume = self._restored()
        if not self.history:
            self._measured("start", 0, None)
            self.best_regret = self.history[-1].regret
        for stage, epochs in stages:
            if epochs and not (resume and resume["done"].get(stage)):
                self._stage(stage, epochs, resume if resume and resume["stage"] == stage else None)
        return self.best

    def _stage(self, stage: str, epochs: int, resume: Mapping[str, Any] | None) -> None:
        settings = self.settings
        if self.best:
            self.model.load_state_dict(self.best, strict=False)
        parameters = text_parameters(self.model) if stage == "text" else dict(self.model.named_parameters())
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in parameters)
        if stage == "both" and settings.gradient_checkpointing:
            self.model.set_grad_checkpointing()
        rate = settings.learning_rate if stage == "text" else settings.both_learning_rate
        optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=settings.weight_decay)
        worse, first = 0, 1
        if resume is not None:
            self.model.load_state_dict(resume["weights"], strict=False)
            optimizer.load_state_dict(resume["optimizer"])
            worse, first = resume["worse"], resume["epoch"] + 1
        for epoch in range(first, epochs + 1):
            if worse >= settings.patience:
                break
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - (epoch - 1) / epochs)
            loss = self._epoch(stage, epoch, optimizer, parameters)
            if stage == "both":
                self.kept = {**self.kept, **self._embedded(self.held_out)}
            self._measured(stage, epoch, loss)
            if self.history[-1].regret < self.best_regret - 1e-9:
                self.best_regret, worse = self.history[-1].regret, 0
                changed = self.best.keys() | parameters.keys()
                state = self.model.state_dict()
                self.best = {name: state[name].detach().cpu().clone() for name in sorted(changed)}
            else:
                worse += 1
            self._save(stage, epoch, worse, optimizer, parameters, done=False)
        self._save(stage, epochs, worse, optimizer, parameters, done=True)

    def _epoch(
        self, stage: str, epoch: int, optimizer: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
    ) -> float:
        order = list(self.training)
        random.Random(f"{self.settings.seed}/{stage}/{epoch}").shuffle(order)
        total = 0.0
        for batch in batches(order, self.settings.batch_size):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                loss = self._loss(batch, with_pixels=stage == "both")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        return total / len(order)

    def _loss(self, batch: Sequence[Example], with_pixels: bool) -> torch.Tensor:
        settings = self.settings
        texts = self._texts(batch)
        crops = self._crops(batch) if with_pixels else self._kept(batch)
        gains = torch.tensor([example.gains for example in batch], device=self.device)
        cosines = torch.einsum("qcd,qd->qc", crops, texts)
        scale = self.model.logit_scale.exp()
        if settings.objective == "kl":
            return objectives.kl(cosines, gains, scale, settings.gain_temperature)
        if settings.objective == "infonce":
            best = crops[torch.arange(len(batch)), gains.argmax(-1)]
            images = [example.label.image for example in batch]
            same = torch.tensor([[a == b for b in images] for a in images], device=self.device)
            return objectives.infonce(cosines, gains, scale, texts @ best.T, same)
        bias = getattr(self.model, "logit_bias", None)
        if bias is None:
            # CLIP has none: the middle of the question's own cosines is where a crop is as likely as not.
            bias = -(scale * cosines).detach().mean(-1, keepdim=True)
        return objectives.sigmoid(cosines, gains, scale, bias, settings.neutral)

    def _texts(self, batch: Sequence[Example]) -> torch.Tensor:
        ids = self.relevance.tokens([example.label.text for example in batch]).to(self.device)
        normalized: torch.Tensor = self.model.encode_text(ids, normalize=True)
        return normalized

    def _crops(self, batch: Sequence[Example]) -> torch.Tensor:
        pixels = [self.relevance.crop_pixels(example.question.load_image(), example.label.boxes) for example in batch]
        features = self.model.encode_image(torch.cat(pixels).to(self.device), normalize=True)
        return torch.stack(features.split([len(part) for part in pixels]))

    def _kept(self, batch: Sequence[Example]) -> torch.Tensor:
        return torch.stack([self.kept[example.label.question_id] for example in batch]).to(self.device)

    def _embedded(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Crop embeddings by question, by the image tower as it is now."""
        embedded: dict[str, torch.Tensor] = {}
        self.relevance.reset()
        for example in examples:
            image = example.question.load_image()
            request = RelevanceRequest(image, example.question.image_id, example.label.boxes, example.label.text)
            # A clone: what was made in inference mode cannot take part in a graph.
            embedded[example.label.question_id] = self.relevance.embed_crops([request])[0].clone()
        self.relevance.reset()
        return embedded

    @torch.no_grad()
    def _measured(self, stage: str, epoch: int, loss: float | None) -> None:
        regrets: list[torch.Tensor] = []
        for batch in batches(self.held_out, self.settings.batch_size):
            cosines = torch.einsum("qcd,qd->qc", self._kept(batch), self._texts(batch))
            regrets.append(objectives.regret(cosines, torch.tensor([e.gains for e in batch], device=self.device)))
        values = torch.cat(regrets)
        measured = Epoch(stage, epoch, loss, float(values.mean()), float((values <= 1e-9).float().mean()))
        self.history.append(measured)
        self.report(measured)

    def _save(
        self,
        stage: str,
        epoch: int,
        worse: int,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[str, torch.nn.Parameter],
        done: bool,
    ) -> None:
        index = STAGES.index(stage)
        state = {
            "stage": stage,
            "epoch": epoch,
            "worse": worse,
            "done": {name: place < index or (place == index and done) for place, name in enumerate(STAGES)},
            "weights": {name: value.detach().cpu() for name, value in parameters.items()},
            "optimizer": optimizer.state_dict(),
            "identity": self._identity(),
            "best": self.best,
            "best_regret": self.best_regret,
            "history": [epoch.__dict__ for epoch in self.history],
        }
        temporary = self.state_file.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self.state_file)

    def _identity(self) -> str:
        """What must be the same for an interrupted training to go on."""
        chosen = {**asdict(self.settings), "output": None}
        examples = [(example.label.question_id, example.gains) for example in (*self.training, *self.held_out)]
        text = repr((chosen, examples, self.relevance.revision))
        return hashlib.sha256(text.encode()).hexdigest()

    def _restored(self) -> Mapping[str, Any] | None:
        if not self.state_file.is_file():
            return None
        state: dict[str, Any] = torch.load(self.state_file, map_location="cpu", weights_only=True)
        if state.get("identity") != self._identity():
            return None  # of other settings or questions: begun anew
        self.best, self.best_regret = state["best"], state["best_regret"]
        self.history = [Epoch(**values) for values in state["history"]]
        for epoch in self.history:
            self.report(epoch)
        return state


def batches(examples: Sequence[Example], size: int) -> list[list[Example]]:
    """Batches of questions with equally many crops, in the order given; the last of each kind may be smaller."""
    by_count: dict[int, list[Example]] = {}
    for example in examples:
        by_count.setdefault(len(example.gains), []).append(example)
    return [group[start : start + size] for group in by_count.values() for start in range(0, len(group), size)]
