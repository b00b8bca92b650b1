"""What one token costs the student and how that pulls at its logits, on a block of tokens and in place.

p is the teacher, q the student, both softmax(z / T). What is called a block here takes the student's z / T ([tokens,
vocabulary], float32 or float64) and leaves the gradient of the loss with respect to it in the same memory. It is small
enough for a CPU's cache, so that a dozen passes over it cost little more than one over main memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

_SMALLEST_LOG_MASS = -149 * math.log(2)  # of the smallest positive float32
_NO_LOGIT = -1e30  # stands for a maximum over no logits at all; finite, since 0 · inf is nan
_RATIO_LIMIT = 80.0  # e^80 fits float32, and a token with |log p/q| above it adds nothing that float32 could hold


class Divergence(StrEnum):
    """How far the student's distribution q is from the teacher's p."""

    FORWARD_KL = "forward_kl"  # Σ p log(p/q)
    REVERSE_KL = "reverse_kl"  # Σ q log(q/p)
    JSD = "jsd"  # β Σ p log(p/m) + (1-β) Σ q log(q/m), m = βp + (1-β)q


@dataclass(frozen=True)
class Pull:
    """Weights of the gradient that is left in the logits' memory.

    Attributes:
        divergence: of the divergence's gradient.
        softmax: of q, which is the part of cross-entropy's gradient that does not depend on the label.
    """

    divergence: float
    softmax: float


class Reference(Protocol):
    """The teacher at the tokens of one chunk."""

    def block(self, logits: Tensor, rows: slice, labels: Tensor, pull: Pull | None) -> tuple[Tensor, Tensor]:
        """Compares tokens `rows` of the chunk with the student.

        Args:
            logits: [rows, vocabulary], overwritten: by `pull.divergence` · dD/dz + `pull.softmax` · q, or by anything
                if `pull` is None.
            rows: which tokens of the chunk they are.
            labels: [rows, 1] ids.

        Returns:
            The divergence [rows] and -log q(label) [rows], in nats.
        """


class Source(Protocol):
    """The teacher at all tokens of a batch."""

    def chunk(self, tokens: slice) -> Reference:
        """The teacher at some of them; the chunk before may no longer be used then."""


@dataclass(frozen=True)
class Buckets:
    """The teacher's k ids and one bucket for all others: log p [tokens, k + 1] with the tail last, finite."""

    ids: Tensor  # [tokens, k], different ids within a token
    log_p: Tensor
    kind: Divergence
    beta: float

    def chunk(self, tokens: slice) -> "Buckets":
        """See `Source`."""
        return Buckets(self.ids[tokens], self.log_p[tokens], self.kind, self.beta)

    def block(self, logits: Tensor, rows: slice, labels: Tensor, pull: Pull | None) -> tuple[Tensor, Tensor]:
        """See `Reference`. The maximum is the tail's own, so that its mass never underflows beside the head's."""
        ids = self.ids[rows]
        head, label = logits.gather(1, ids), logits.gather(1, labels)
        top = logits.scatter_(1, ids, -math.inf).amax(1, keepdim=True).clamp_(min=_NO_LOGIT)
        mass = (
            logits.sub_(top).exp_().sum(1, keepdim=True).clamp_(min=1.0)
        )  # below 1 only where the ids are all there is
        log_q = torch.cat([head, top + mass.log()], dim=1)
        peak = log_q.amax(1, keepdim=True)
        log_q.sub_(peak)
        log_z = log_q.logsumexp(1, keepdim=True)
        log_q.sub_(log_z)
        loss, slope = bucket_divergence(self.log_p[rows], log_q, self.kind, self.beta)
        if pull is not None:
            slope_sum = slope.sum(1, keepdim=True)
            bucket = slope.mul_(pull.divergence).add_(log_q.exp() * (pull.softmax - pull.divergence * slope_sum))
            logits.mul_(bucket[:, -1:] / mass).scatter_(1, ids, bucket[:, :-1])
        return loss, (log_z - (label - peak)).squeeze(1)


@dataclass(frozen=True)
class Draws:
    """Ids drawn from the teacher with weights that estimate p: -Σ w log q, without the constant Σ p log p.

    Tokens have different numbers of ids, which lie one after another.
    """

    ids: Tensor  # [Σ counts], of any integer type
    weights: Tensor  # [Σ counts]
    counts: Tensor  # [tokens]
    ends: tuple[int, ...]  # where the ids of each token end
    start: int = 0  # where those of the first token start

    @classmethod
    def of(cls, ids: Tensor, weights: Tensor, counts: Tensor) -> "Draws":
        """The draws of all tokens."""
        return cls(ids, weights, counts, tuple(counts.cumsum(0).tolist()))

    def chunk(self, tokens: slice) -> "Draws":
        """See `Source`."""
        start = self.ends[tokens.start - 1] if tokens.start else self.start
        return Draws(self.ids, self.weights, self.counts[tokens], self.ends[tokens], start)

    def block(self, logits: Tensor, rows: slice, labels: Tensor, pull: Pull | None) -> tuple[Tensor, Tensor]:
        """See `Reference`."""
        one = self.chunk(rows)
        drawn = slice(one.start, one.ends[-1])
        weights = self.weights[drawn]
        token = torch.arange(len(logits), device=logits.device)
        token = token.repeat_interleave(one.counts, output_size=len(weights))
        at = (token, self.ids[drawn].long())
        surprise, label = logits[at], logits.gather(1, labels)
        top = logits.amax(1, keepdim=True)
        mass = logits.sub_(top).exp_().sum(1, keepdim=True)
        log_z = mass.log()
        surprise.sub_((top + log_z).squeeze(1)[token]).mul_(weights).neg_()
        nothing = torch.zeros_like(logits[:, 0])
        if pull is not None:
            total = nothing.index_add(0, token, weights).unsqueeze(1)
            logits.mul_((pull.divergence * total + pull.softmax) / mass)
            logits.index_put_(at, -pull.divergence * weights, accumulate=True)
        return nothing.index_add(0, token, surprise), (log_z - (label - top)).squeeze(1)


@dataclass(frozen=True)
class Whole:
    """The teacher over the whole vocabulary: `read` gives its z / T [rows, vocabulary], which may be overwritten."""

    read: Callable[[slice], Tensor]
    kind: Divergence
    beta: float

    def block(self, logits: Tensor, rows: slice, labels: Tensor, pull: Pull | None) -> tuple[Tensor, Tensor]:
        """See `Reference`."""
        return compare_whole(logits, self.read(rows), labels, self.kind, self.beta, pull)


def compare_whole(
    logits: Tensor, teacher: Tensor, labels: Tensor, kind: Divergence, beta: float, pull: Pull | None
) -> tuple[Tensor, Tensor]:
    """As `Reference.block`, of both models' z / T [rows, vocabulary]; both are overwritten."""
    log_q, log_p = logits.log_softmax(1), teacher.log_softmax(1)
    surprise = log_q.gather(1, labels).neg_().squeeze(1)
    q, p = torch.exp(log_q, out=logits), torch.exp(log_p, out=teacher)
    ratio = log_p.sub_(log_q)
    product = log_q  # its memory
    if kind is Divergence.FORWARD_KL:
        loss = torch.mul(p, ratio, out=product).sum(1)
        if pull is not None:
            q.mul_(pull.divergence + pull.softmax).sub_(p, alpha=pull.divergence)
        return loss, surprise
    if kind is Divergence.REVERSE_KL:
        student, share = ratio.neg_(), 1.0
        loss = gap = torch.mul(q, student, out=product).sum(1)
    else:
        student, share = log_student_to_mean(ratio, beta), 1.0 - beta
        gap = torch.mul(q, student, out=product).sum(1)
        taught = ratio.clamp_(-_RATIO_LIMIT, _RATIO_LIMIT).add_(student)
        loss = beta * p.mul_(taught).sum(1) + share * gap
    if pull is not None:
        factor = share * pull.divergence
        q.mul_(student.mul_(factor).add_((pull.softmax - factor * gap).unsqueeze(1)))
    return loss, surprise


def bucket_divergence(log_p: Tensor, log_q: Tensor, kind: Divergence, beta: float) -> tuple[Tensor, Tensor]:
    """The divergence [tokens] of two distributions [tokens, buckets], and its slope [tokens, buckets] in log q.

    Terms of the slope that are the same multiple of q in every bucket are left out: they cancel in the logits' gradient
    slope - q Σ slope.
    """
    ratio = log_p - log_q
    if kind is Divergence.FORWARD_KL:
        p = log_p.exp()
        return (p * ratio).sum(1), p.neg_()
    q = log_q.exp()
    if kind is Divergence.REVERSE_KL:
        slope = q.mul_(ratio.neg_())
        return slope.sum(1), slope
    student = log_student_to_mean(ratio, beta)
    slope = q.mul_(student).mul_(1.0 - beta)
    teacher = ratio.clamp_(-_RATIO_LIMIT, _RATIO_LIMIT).add_(student)
    return beta * (log_p.exp() * teacher).sum(1) + slope.sum(1), slope


def log_student_to_mean(ratio: Tensor, beta: float) -> Tensor:
    """log(q / (βp + (1-β)q)) from log(p/q); exact to rounding where p and q are close."""
    return ratio.clamp(-_RATIO_LIMIT, _RATIO_LIMIT).expm1_().mul_(beta).log1p_().neg_()


def finite_log_mass(log_mass: Tensor) -> Tensor:
    """A mass that float32 rounds to zero counts as its smallest number, so that the reverse KL stays finite."""
    return log_mass.clamp(min=_SMALLEST_LOG_MASS)
