"""Distillation losses: how far a student's next-token distributions are from what is kept of a teacher's."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_dagster.errors import StudentError
from distill_dagster.students.chunked_loss import LossWeights, chunked_loss, token_losses
from distill_dagster.students.divergences import (
    Buckets,
    Divergence,
    Draws,
    Reference,
    Source,
    Whole,
    compare_whole,
    finite_log_mass,
)
from distill_dagster.students.heads import Head, Projection

__all__ = [
    "DenseTargets",
    "Divergence",
    "DrawnTargets",
    "Head",
    "LossSettings",
    "Targets",
    "TopKTargets",
    "divergence_loss",
    "full_kl",
    "sparse_kl",
    "token_nll",
]


@dataclass(frozen=True)
class LossSettings:
    """What is minimised: (1 - ce_weight) · T² · divergence at T + ce_weight · cross-entropy at temperature 1.

    Attributes:
        divergence: of the student from the teacher.
        beta: of the generalised JSD, in (0, 1). Neither end is a KL divergence here: towards 0 the JSD goes to 0 as
            beta · forward KL.
        temperature: T, which divides both models' logits.
        t_squared: whether the divergence is multiplied by T², which keeps its gradient about as large at every T.
        ce_weight: share of the cross-entropy on the completion's own tokens, from 0 to 1.
    """

    divergence: Divergence = Divergence.FORWARD_KL
    beta: float = 0.5
    temperature: float = 1.0
    t_squared: bool = True
    ce_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.divergence is Divergence.JSD and not 0 < self.beta < 1:
            raise StudentError(f"beta of the JSD is {self.beta}; write a number between 0 and 1, both excluded.")
        if not self.temperature > 0:
            raise StudentError(f"the loss's temperature is {self.temperature}; write a number above 0.")
        if not 0 <= self.ce_weight <= 1:
            raise StudentError(f"ce_weight is {self.ce_weight}; write a number from 0 to 1.")


@dataclass(frozen=True)
class TopKTargets:
    """The teacher's most likely tokens and the mass of all others, at the training temperature.

    Attributes:
        ids: [tokens, k] int64, different within a token.
        log_probs: [tokens, k], of the ids.
        log_tail: [tokens], log of the mass of all other ids; -inf where there is none.
    """

    ids: Tensor
    log_probs: Tensor
    log_tail: Tensor

    def normalised(self) -> "TopKTargets":
        """The same with masses that add up to 1 again, whatever rounding they went through."""
        log_p = torch.cat([self.log_probs, self.log_tail.unsqueeze(1)], dim=1).log_softmax(1)
        return TopKTargets(self.ids, log_p[:, :-1], log_p[:, -1])


@dataclass(frozen=True)
class DrawnTargets:
    """Ids with weights whose mean over draws is the teacher's distribution at the training temperature.

    Attributes:
        ids: [Σ counts] integers, token after token; one may be there repeatedly.
        weights: [Σ counts], which sum to 1 over a token: how often an id was drawn / number of draws; its probability
            where it is kept for certain, and an equal share of the others' mass where it is drawn from these.
        counts: [tokens] int64, how many ids each token has.
    """

    ids: Tensor
    weights: Tensor
    counts: Tensor


@dataclass(frozen=True)
class DenseTargets:
    """The teacher itself: its hidden states, [tokens, its hidden size], and its head."""

    hidden: Tensor
    head: Head


Targets = TopKTargets | DrawnTargets | DenseTargets


def divergence_loss(
    hidden: Tensor, head: Head, targets: Targets, labels: Tensor, settings: LossSettings, *, scale: float = 1.0
) -> Tensor:
    """Sum of the loss over tokens, times `scale`; differentiable once, in `hidden` and the head's weight and bias.

    With 1 / (number of tokens) as `scale`, and not as a factor outside, `backward` need not go over the gradients
    again. Under autocast the products run in its precision, softmax and loss in float32. Drawn targets leave out the
    constant Σ p log p, so that their loss is not 0 at q = p. Dense targets do not go through TRL's chunked divergence:
    off a GPU it multiplies in float32 whatever autocast says, and it projects both models again for the gradient.

    Args:
        hidden: [tokens, hidden], from which the tokens are predicted.
        head: the student's.
        targets: the teacher at the same tokens. A dense teacher's vocabulary and the student's are cut to the shorter.
        labels: [tokens] int64, the completion's own tokens.
        settings: of the loss.
        scale: factor of the loss.

    Raises:
        StudentError: drawn targets with another divergence than the forward KL.
    """
    if isinstance(targets, DrawnTargets) and settings.divergence is not Divergence.FORWARD_KL:
        raise StudentError(
            f"`{settings.divergence.value}` cannot be trained on drawn ids: draws from the teacher estimate without "
            "bias only what is linear in its probabilities, and of the divergences only the forward KL's gradient is. "
            "Write `forward_kl`, or capture the most likely ids instead of draws."
        )
    if not len(hidden) == _count(targets) == len(labels):
        raise ValueError(f"{len(hidden)} hidden states, {_count(targets)} targets and {len(labels)} labels")
    student = Projection.of(hidden, head, _vocabulary(head, targets))
    weights = LossWeights(
        temperature=settings.temperature,
        divergence=scale * (1.0 - settings.ce_weight) * (settings.temperature**2 if settings.t_squared else 1.0),
        cross_entropy=scale * settings.ce_weight,
    )
    return chunked_loss(hidden, head, student, _source(targets, student, settings), labels, weights)


@torch.no_grad()
def full_kl(hidden: Tensor, head: Head, teacher: DenseTargets, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Forward KL over the whole vocabulary, the surprise of the tokens that came, and whether first choices agree.

    Args:
        hidden: [tokens, hidden], from which the tokens are predicted.
        head: the student's.
        teacher: at the same tokens; the shorter of both vocabularies counts.
        labels: [tokens] int64, the completion's own tokens.

    Returns:
        [tokens] float32, nats at temperature 1; -log q(label), likewise; [tokens] bool.
    """
    vocabulary = _vocabulary(head, teacher)
    student, model = Projection.of(hidden, head, vocabulary), Projection.of(teacher.hidden, teacher.head, vocabulary)
    divergence = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    surprise = torch.empty_like(divergence)
    agreement = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
    for tokens in student.chunks():
        product, taught = student.product(tokens), model.product(tokens)
        for rows in student.blocks(product):
            q, p = student.logits(product[rows], 1.0)[0], model.logits(taught[rows], 1.0)[0].to(student.precise)
            agreement[tokens][rows] = q.argmax(1) == p.argmax(1)
            said = labels[tokens][rows].unsqueeze(1)
            found = compare_whole(q, p, said, Divergence.FORWARD_KL, 0.0, None)
            divergence[tokens][rows], surprise[tokens][rows] = found
    return divergence, surprise, agreement


@torch.no_grad()
def token_nll(hidden: Tensor, head: Head, labels: Tensor) -> Tensor:
    """-log q(label) of each token, [tokens] float32 in nats at temperature 1.

    Args:
        hidden: [tokens, hidden], from which the tokens are predicted.
        head: the model's.
        labels: [tokens] int64, the tokens that came.
    """
    model = Projection.of(hidden, head, head.vocabulary)
    nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    for tokens in model.chunks():
        product = model.product(tokens)
        for rows in model.blocks(product):
            logits = model.logits(product[rows], 1.0)[0]
            said = logits.gather(1, labels[tokens][rows].unsqueeze(1)).squeeze(1)
            nll[tokens][rows] = logits.logsumexp(1) - said
    return nll


@torch.no_grad()
def sparse_kl(hidden: Tensor, head: Head, targets: TopKTargets) -> Tensor:
    """Forward KL of the ids and their tail, [tokens] float32 in nats: a lower bound of the full one.

    `targets` are at temperature 1 here, as the student is read.
    """
    student = Projection.of(hidden, head, head.vocabulary)
    source = _buckets(targets, student, LossSettings(Divergence.FORWARD_KL))
    weights = LossWeights(temperature=1.0, divergence=1.0, cross_entropy=0.0)
    losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    for tokens in student.chunks():
        product, labels = student.product(tokens), targets.ids[tokens, :1]
        losses[tokens] = token_losses(student, product, source.chunk(tokens), labels, weights, gradient=False)
    return losses


@dataclass(frozen=True)
class _Teacher:
    """A dense teacher as a source."""

    projection: Projection
    settings: LossSettings
    dtype: torch.dtype  # of the student's logits

    def chunk(self, tokens: slice) -> Reference:
        product, settings = self.projection.product(tokens), self.settings

        def read(rows: slice) -> Tensor:
            return self.projection.logits(product[rows], settings.temperature)[0].to(self.dtype)

        return Whole(read, settings.divergence, settings.beta)


def _source(targets: Targets, student: Projection, settings: LossSettings) -> Source:
    if isinstance(targets, TopKTargets):
        return _buckets(targets, student, settings)
    if isinstance(targets, DrawnTargets):
        return Draws.of(targets.ids, targets.weights.to(student.precise), targets.counts)
    vocabulary = len(student.weight)
    return _Teacher(Projection.of(targets.hidden, targets.head, vocabulary), settings, student.precise)


def _buckets(targets: TopKTargets, student: Projection, settings: LossSettings) -> Buckets:
    log_probs, log_tail = targets.log_probs.to(student.precise), targets.log_tail.to(student.precise)
    if targets.ids.shape[1] >= len(student.weight):
        log_tail = torch.full_like(log_tail, -math.inf)  # no id is left; whatever mass there is came by rounding
    whole = TopKTargets(targets.ids, log_probs, log_tail).normalised()
    log_p = torch.cat([whole.log_probs, whole.log_tail.unsqueeze(1)], dim=1)
    return Buckets(targets.ids, finite_log_mass(log_p), settings.divergence, settings.beta)


def _vocabulary(head: Head, targets: Targets) -> int:
    return min(head.vocabulary, targets.head.vocabulary) if isinstance(targets, DenseTargets) else head.vocabulary


def _count(targets: Targets) -> int:
    if isinstance(targets, DrawnTargets):
        return len(targets.counts)
    return len(targets.hidden) if isinstance(targets, DenseTargets) else len(targets.ids)
