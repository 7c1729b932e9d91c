"""Losses between ψ's scores and the gains that the VLM had from each crop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def standardised(gains: torch.Tensor) -> torch.Tensor:
    """Gains (questions, crops) with mean 0 and standard deviation 1 over the crops of each question."""
    spread = gains.std(-1, correction=0, keepdim=True)
    return (gains - gains.mean(-1, keepdim=True)) / spread.clamp_min(1e-6)


def kl(cosines: torch.Tensor, gains: torch.Tensor, scale: torch.Tensor, gain_temperature: float) -> torch.Tensor:
    """KL(Q || P), mean over questions; Q = softmax(standardised gains / temperature), P = softmax(scale x cosines).

    Perplexity distillation of Atlas (Izacard et al., arXiv 2208.03299, `ppmean`) with a standardised gain, since the
    gains' scale is the VLM's. Atlas's code calls KLDivLoss with its default reduction, which also divides by the number
    of documents; here it is divided by the number of questions. cosines, gains: (questions, crops).
    """
    wanted = (standardised(gains) / gain_temperature).log_softmax(-1)
    given = (scale * cosines).log_softmax(-1)
    loss: torch.Tensor = (wanted.exp() * (wanted - given)).sum(-1).mean()
    return loss


def infonce(
    cosines: torch.Tensor, gains: torch.Tensor, scale: torch.Tensor, others: torch.Tensor, excluded: torch.Tensor
) -> torch.Tensor:
    """The crop with the highest gain against the other crops of its image and the best crops of the other questions.

    cosines, gains: (questions, crops). others: (questions, questions), the cosine of question i with the best crop of
    question j. excluded: (questions, questions), where that is no negative (the question itself, the same image).
    """
    import torch

    logits = torch.cat([scale * cosines, (scale * others).masked_fill(excluded, float("-inf"))], dim=-1)
    return torch.nn.functional.cross_entropy(logits, gains.argmax(-1))


def sigmoid(
    cosines: torch.Tensor, gains: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, neutral: float
) -> torch.Tensor:
    """-log sigmoid(z (scale x cosine + bias)), mean over the crops with z = 1 (gain above `neutral`) or -1 (below it).

    SigLIP's loss (Zhai et al., arXiv 2303.15343) with the sign of the standardised gain as the label: a crop without
    what is asked about has no gain over the overview, so that the raw gain of most crops is 0 and not below it.
    """
    import torch

    values = standardised(gains)
    known = values.abs() > neutral
    signs = torch.where(values > 0, 1.0, -1.0)
    losses = -torch.nn.functional.logsigmoid(signs * (scale * cosines + bias))
    mean: torch.Tensor = (losses * known).sum() / known.sum().clamp_min(1)
    return mean


def regret(cosines: torch.Tensor, gains: torch.Tensor) -> torch.Tensor:
    """(questions,) the highest gain minus the gain of the crop that ψ scores highest."""
    chosen = gains.gather(-1, cosines.argmax(-1, keepdim=True)).squeeze(-1)
    values: torch.Tensor = gains.max(-1).values - chosen
    return values
