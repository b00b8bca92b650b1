"""Next-token logits reduced to sparse targets: the k most likely ids and the mass of all others, or random draws."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from distill_dagster.errors import LogitsError
from distill_dagster.logits.sparse import Draws

# Columns whose maximum stands for them all in the first pass of `largest`: the fastest of 16 to 256.
BLOCK = 64


@dataclass(frozen=True)
class Reduced:
    """The k most likely ids at each position, as `sparse.TopK` describes them.

    Attributes:
        ids: [positions, k] int64, ascending.
        log_probs: [positions, k].
        log_tail, log_z: [positions, temperatures].
        log_z_one: [positions].
        tail_counts: [positions] int64.
        tail_ids: [Σ tail_counts] int64.
    """

    ids: Tensor
    log_probs: Tensor
    log_tail: Tensor
    log_z: Tensor
    log_z_one: Tensor
    tail_counts: Tensor
    tail_ids: Tensor


def top_k(
    logits: Tensor, k: int, temperatures: Sequence[float], starts: Tensor | None = None, draws: int = 0
) -> Reduced:
    """Reduces logits to their k largest and draws from the others; destroys the logits.

    The mass of the other ids is summed relative to the largest of them, so that it keeps its precision however small
    it is, and the whole is the sum of the two parts: no mass is ever the difference of two others.

    Args:
        logits: [positions, vocabulary] float32.
        k: ids to keep; all of a vocabulary that has fewer.
        temperatures: those with a tail mass and a log Z of their own; 1 is among them where anything is drawn.
        starts: [positions, 1] float64 in [0, 1), the random numbers that the draws are made from.
        draws: from the ids that are not kept, so many for each unit of their mass and at least one; none where all are
            kept. Where they have more mass there is more to know, and every drawn id stands for about 1 / draws.
    """
    vocabulary = logits.shape[1]
    k = min(k, vocabulary)
    ids = largest(logits, min(k + 1, vocabulary))
    values = logits.gather(1, ids)
    if k < vocabulary:
        ids, values, others_most = _without_least(ids, values)
    else:
        others_most = torch.full_like(values[:, :1], -torch.inf)
    logits.scatter_(1, ids, -torch.inf)
    logits.sub_(others_most.clamp(min=torch.finfo(logits.dtype).min))
    others = {t: _log_sum(logits / t, others_most / t) for t in temperatures if t != 1.0}
    others[1.0] = _log_sum(logits, others_most)
    log_z = {t: torch.logaddexp(torch.logsumexp(values / t, -1), mass) for t, mass in others.items()}
    counts, drawn = ids.new_zeros(len(ids)), ids.new_zeros(0)
    if starts is not None and k < vocabulary:
        counts = ((others[1.0] - log_z[1.0]).exp() * draws).round_().long().clamp_(min=1)
        # `_log_sum` has left the others' masses, as shares of the largest, in the memory of the logits.
        drawn = _draw_evenly(logits, starts, counts)
    return Reduced(
        ids=ids,
        log_probs=values - log_z[1.0][:, None],
        log_tail=torch.stack([others[t] - log_z[t] for t in temperatures], 1),
        log_z=torch.stack([log_z[t] for t in temperatures], 1),
        log_z_one=log_z[1.0],
        tail_counts=counts,
        tail_ids=drawn,
    )


def largest(values: Tensor, k: int) -> Tensor:
    """Ids of the k largest values of each row, ascending: [rows, columns] → [rows, k]. Of equals the lowest ids win.

    The k largest lie in the k blocks of neighbouring columns with the largest maxima: any other block is beaten by one
    value of each of these. Only those blocks are searched, which takes half the time of searching every column.
    """
    rows, columns = values.shape
    blocks = columns // BLOCK
    if blocks <= 2 * k:
        return largest_plain(values, k)
    even = values[:, : blocks * BLOCK].view(rows, blocks, BLOCK)
    chosen = largest_plain(even.amax(-1), k)
    found = even.gather(1, chosen[:, :, None].expand(rows, k, BLOCK)).flatten(1)
    rest = torch.arange(blocks * BLOCK, columns, device=values.device)  # fewer than one block, always searched
    place = largest_plain(torch.cat([found, values[:, blocks * BLOCK :]], 1), k)
    ids = (chosen[:, :, None] * BLOCK + torch.arange(BLOCK, device=values.device)).flatten(1)
    return torch.cat([ids, rest.expand(rows, -1)], 1).gather(1, place)


def largest_plain(values: Tensor, k: int) -> Tensor:
    """The same as `largest`, searching every column."""
    ordered = torch.topk(values, k, dim=-1).values
    _refuse_nan(ordered[:, 0])  # where one would be first
    least = ordered[:, -1:]
    above, equal = values > least, values == least
    room = k - above.sum(-1, keepdim=True, dtype=torch.int32)
    chosen = above | (equal & (equal.cumsum(-1, dtype=torch.int32) <= room))
    return chosen.nonzero()[:, 1].view(len(values), k)


def uniforms(seed: int, request_key: str, ids_hash: str, shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """Random numbers in [0, 1) that a sequence's draws are made from, its own whatever shares its batch.

    Args:
        shape: (draw sets, tokens, draws). Another number of sets leaves the first ones as they are.
    """
    named = hashlib.sha256(f"{seed}\n{request_key}\n{ids_hash}".encode()).digest()
    return np.random.default_rng(int.from_bytes(named)).random(shape)


def draw(logits: Tensor, chances: Tensor, temperature: float) -> Tensor:
    """Draws ids from softmax(logits / temperature), with replacement, by inverting the cumulative distribution.

    Args:
        logits: [positions, vocabulary] float32; destroyed.
        chances: [positions, draws] float64 in [0, 1).

    Returns:
        [positions, draws] int64, the id that each chance falls on.
    """
    logits.sub_(logits.amax(-1, keepdim=True)).div_(temperature).exp_()
    # In float32, ids of less than 6e-8 would be lost in the sum.
    mass = logits.cumsum(-1, dtype=torch.float64)
    _refuse_nan(mass[:, -1])
    return _invert(mass, chances * mass[:, -1:])


def _draw_evenly(masses: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    """Systematic sampling: the points (start + 0 … count - 1) / count of the cumulative distribution, ascending.

    Each id is drawn as often as its share of the mass times the count, rounded up or down at random: the mean over
    `starts` is the distribution, as with independent draws, and the variance smaller. (W. G. Madow and L. H. Madow, On
    the theory of systematic sampling, 1944.) Only the blocks of columns that the points fall in are summed one by one.

    Args:
        masses: [positions, vocabulary], not negative.
        starts: [positions, 1] float64 in [0, 1).
        counts: [positions], ids to draw.

    Returns:
        [Σ counts] int64, position after position. Where there is no mass at all they mean nothing.
    """
    numbers = torch.arange(int(counts.max()) if len(counts) else 0, device=masses.device)
    points = ((starts + numbers) / counts[:, None]).clamp_(max=1.0)
    rest = -masses.shape[1] % BLOCK
    blocks = (pad(masses, (0, rest)) if rest else masses).view(len(masses), -1, BLOCK)
    ends = blocks.sum(-1).double().cumsum(-1)  # a float32 sum holds a block's 64 masses, but not all 50,000
    points = points * ends[:, -1:]
    block = _invert(ends, points)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).cumsum(-1, dtype=torch.float64)
    points = points - pad(ends, (1, 0)).gather(1, block)
    drawn = block * BLOCK + _invert(inside, points[:, :, None])[:, :, 0]
    return drawn[numbers < counts[:, None]]


def _invert(cumulative: Tensor, points: Tensor) -> Tensor:
    """Where points [..., draws] fall in a cumulative mass [..., parts]: not on a part without mass."""
    whole = cumulative[..., -1:]
    inside = torch.minimum(points, whole.nextafter(torch.zeros_like(whole)))
    return torch.searchsorted(cumulative, inside, right=True).clamp_(max=cumulative.shape[-1] - 1)


def count_draws(ids: npt.NDArray[np.int64]) -> Draws:
    """What was drawn for one sequence, counted: ids is [draw sets, tokens, draws]."""
    ordered = np.sort(ids, axis=-1)
    first = np.ones(ordered.shape, dtype=bool)
    first[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    starts = np.flatnonzero(first)
    return Draws(
        distinct=first.sum(-1, dtype=np.int32),
        ids=ordered[first].astype(np.int32),
        counts=np.diff(starts, append=first.size).astype(np.int32),
        draws=ids.shape[-1],
    )


def _without_least(ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Splits [positions, k + 1] into the k largest and, [positions, 1], the least (of equals the highest id)."""
    least = values.amin(-1, keepdim=True)
    kept = torch.ones_like(ids, dtype=torch.bool)
    last = ids.shape[1] - 1 - (values == least).flip(-1).int().argmax(-1, keepdim=True)
    kept.scatter_(1, last, False)
    shape = (len(ids), ids.shape[1] - 1)
    return ids[kept].view(shape), values[kept].view(shape), least


def _log_sum(shifted: Tensor, most: Tensor) -> Tensor:
    """log Σ exp(z), [positions], of logits less their largest, `most` [positions, 1]; destroys them."""
    return shifted.exp_().sum(-1).log_() + most[:, 0]


def _refuse_nan(values: Tensor) -> None:
    if values.isnan().any():
        raise LogitsError(
            "the teacher's logits are not numbers, which a narrow precision may cause; write another `teacher.dtype`, "
            "such as bfloat16 or float32"
        )
