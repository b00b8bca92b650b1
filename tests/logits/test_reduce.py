"""Reducing logits, against the same sums over the whole vocabulary in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_dagster.errors import LogitsError
from distill_dagster.logits import reduce
from distill_dagster.logits.reduce import count_draws, draw, largest, largest_plain, top_k, uniforms


@st.composite
def logits(draw_value, most_columns: int = 40) -> torch.Tensor:
    """[rows, columns] of few different values, so that many are equal, at a scale from flat to peaked."""
    rows, columns = draw_value(st.integers(1, 6)), draw_value(st.integers(1, most_columns))
    scale = draw_value(st.sampled_from([0.0, 0.5, 4.0, 200.0]))
    seed = draw_value(st.integers(0, 2**31))
    values = torch.randint(-6, 7, (rows, columns), generator=torch.Generator().manual_seed(seed))
    return values.float() * scale / 6


def first_of_stable_sort(values: torch.Tensor, k: int) -> torch.Tensor:
    return values.sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(-1).values


def dense(values: torch.Tensor, k: int, temperature: float):
    """Ids, log p, log tail and log Z over the whole vocabulary, in float64."""
    ids = first_of_stable_sort(values, k)
    scaled = values.double() / temperature
    log_p = scaled.log_softmax(-1)
    tail = log_p.scatter(1, ids, -torch.inf).logsumexp(-1)
    return ids, log_p.gather(1, ids), tail, scaled.logsumexp(-1)


@given(logits(), st.integers(1, 50), st.lists(st.sampled_from([0.5, 1.0, 2.0, 7.5]), min_size=1, unique=True))
def test_the_largest_and_the_mass_of_all_others_are_those_of_the_whole_vocabulary(values, k, temperatures):
    k = min(k, values.shape[1])

    found = top_k(values.clone(), k, temperatures)

    for index, temperature in enumerate(temperatures):
        ids, log_p, tail, log_z = dense(values, k, temperature)
        assert torch.equal(found.ids, ids)
        torch.testing.assert_close(found.log_tail[:, index].double(), tail, rtol=1e-6, atol=1e-5)
        torch.testing.assert_close(found.log_z[:, index].double(), log_z, rtol=1e-6, atol=1e-5)
        restored = (found.log_probs + found.log_z_one[:, None]) / temperature - found.log_z[:, [index]]
        torch.testing.assert_close(restored.double(), log_p, rtol=1e-6, atol=1e-4)


@given(logits(), st.integers(1, 12))
def test_heads_and_tail_sum_to_one(values, k):
    found = top_k(values, k, [1.0])
    total = torch.logaddexp(found.log_probs.logsumexp(-1), found.log_tail[:, 0])
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-5)


def test_a_tail_too_small_for_a_difference_keeps_its_precision():
    values = torch.full((1, 1000), -70.0)
    values[0, 7] = 0.0

    found = top_k(values, 1, [1.0, 2.0])

    assert found.ids.tolist() == [[7]]
    assert found.log_tail[0].tolist() == pytest.approx([np.log(999) - 70, np.log(999) - 35], rel=1e-6)


def test_more_ids_than_the_vocabulary_has_are_all_of_them_and_leave_no_tail():
    found = top_k(torch.tensor([[1.0, 0.0, 3.0]]), 32, [1.0])
    assert found.ids.tolist() == [[0, 1, 2]]
    assert found.log_tail.tolist() == [[-torch.inf]]
    torch.testing.assert_close(found.log_probs, torch.tensor([[1.0, 0.0, 3.0]]).log_softmax(-1))


def test_ids_that_the_teacher_rules_out_have_no_mass():
    found = top_k(torch.tensor([[2.0, -torch.inf, 2.0, -torch.inf, -torch.inf]]), 2, [1.0, 3.0])
    assert found.ids.tolist() == [[0, 2]]
    assert found.log_tail.tolist() == [[-torch.inf, -torch.inf]]
    torch.testing.assert_close(found.log_probs, torch.full((1, 2), 0.5).log())


@settings(max_examples=300)
@given(logits(most_columns=200), st.integers(1, 12), st.sampled_from([1, 2, 3, 8]))
def test_searching_blocks_finds_what_searching_all_does(values, k, block):
    k = min(k, values.shape[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduce, "BLOCK", block)
        found = largest(values, k)
    assert torch.equal(found, largest_plain(values, k))
    assert torch.equal(found, first_of_stable_sort(values, k))


def test_a_wide_vocabulary_that_is_no_multiple_of_a_block_is_searched_to_its_end():
    values = torch.randn(20, 50_021, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    values[3, -1] = 99.0
    assert torch.equal(largest(values, 33), first_of_stable_sort(values, 33))


@pytest.mark.parametrize("reducing", [lambda v: top_k(v, 2, [1.0]), lambda v: draw(v, torch.rand(2, 3).double(), 1.0)])
def test_logits_that_are_no_numbers_are_refused(reducing):
    values = torch.zeros(2, 9)
    values[1, 4] = torch.nan
    with pytest.raises(LogitsError, match=r"not numbers.*dtype"):
        reducing(values)


@given(logits(), st.integers(1, 12), st.integers(1, 60), st.integers(0, 2**31))
def test_the_tail_is_drawn_as_often_as_its_ids_are_likely(values, k, draws, seed):
    starts = torch.rand(len(values), 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    found = top_k(values.clone(), k, [1.0], starts, draws)

    if k >= values.shape[1]:
        assert found.tail_ids.tolist() == []
        assert found.tail_counts.tolist() == [0] * len(values)
        return
    tails = values.double().scatter(1, found.ids, -torch.inf)
    mass = (tails.logsumexp(-1) - values.double().logsumexp(-1)).exp() * draws
    assert torch.all((found.tail_counts - mass.clamp(min=1)).abs() <= 0.5 + 1e-4)
    shares = tails.softmax(-1) * found.tail_counts[:, None]
    for row, drawn in enumerate(found.tail_ids.split(found.tail_counts.tolist())):
        counted = torch.bincount(drawn, minlength=values.shape[1])
        assert torch.all(counted >= (shares[row] - 1e-3).floor())
        assert torch.all(counted <= (shares[row] + 1e-3).ceil())
        assert torch.equal(drawn, drawn.sort().values)


def test_over_all_random_starts_the_tails_draws_are_its_distribution():
    values = torch.randn(1, 300, generator=torch.Generator().manual_seed(3)) * 2
    repeated, starts = values.expand(4000, 300), (torch.arange(4000.0, dtype=torch.float64)[:, None] + 0.5) / 4000

    found = top_k(repeated.clone(), 4, [1.0], starts, 12)

    tail = values[0].double().scatter(0, found.ids[0], -torch.inf).softmax(-1)
    drawn = torch.bincount(found.tail_ids.flatten(), minlength=300) / found.tail_ids.numel()
    torch.testing.assert_close(drawn.double(), tail, rtol=0, atol=1 / 4000)


def test_a_tail_without_any_mass_can_be_drawn_from():
    values = torch.tensor([[2.0, -torch.inf, 2.0, -torch.inf]])
    found = top_k(values, 2, [1.0], torch.zeros(1, 1, dtype=torch.float64), 3)
    assert found.tail_counts.tolist() == [1]
    assert found.log_tail.tolist() == [[-torch.inf]]


def test_draws_are_as_frequent_as_the_teacher_says():
    values = torch.tensor([[0.0, 1.0, 2.0, -1.0, -30.0, 0.5]])
    chances = torch.from_numpy(uniforms(17, "key", "hash", (1, 1, 100_000))[0])

    counted = np.bincount(draw(values.clone(), chances, temperature=2.0)[0].numpy(), minlength=6)

    expected = (values[0].double() / 2).softmax(-1).numpy() * 100_000
    likely = expected > 1
    assert (((counted - expected) ** 2 / expected)[likely]).sum() < 30  # 4 degrees of freedom: passed with 1 - 5e-6
    assert counted[~likely].sum() == 0


def test_an_id_without_mass_is_never_drawn():
    values = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    chances = torch.tensor([[0.0, 0.25, 0.5, 1 - 2**-53]], dtype=torch.float64)
    assert draw(values, chances, 1.0).tolist() == [[1, 1, 3, 3]]


def test_the_likelihood_of_rare_ids_is_not_lost_among_many():
    values = torch.full((1, 200_001), -17.0)
    values[0, 0] = 0.0  # each other id has 4e-8, all of them together 0.8 %
    chances = torch.from_numpy(uniforms(17, "key", "hash", (1, 1, 50_000))[0])
    rare = (draw(values, chances, 1.0) > 0).double().mean().item()
    assert rare == pytest.approx(200_000 * np.exp(-17) / (1 + 200_000 * np.exp(-17)), rel=0.15)


def test_counting_draws():
    ids = np.array([[[5, 2, 5], [1, 1, 1]], [[9, 8, 7], [0, 0, 3]]])  # two sets, two tokens, three draws

    counted = count_draws(ids)

    assert counted.draws == 3
    assert counted.distinct.tolist() == [[2, 1], [3, 2]]
    assert counted.ids.tolist() == [2, 5, 1, 7, 8, 9, 0, 3]
    assert counted.counts.tolist() == [1, 2, 3, 1, 1, 1, 2, 1]


def test_chances_are_a_sequences_own():
    mine = uniforms(17, "key", "hash", (2, 3, 4))
    assert np.array_equal(mine, uniforms(17, "key", "hash", (3, 3, 4))[:2])
    for other in (uniforms(18, "key", "hash", (2, 3, 4)), uniforms(17, "key", "other", (2, 3, 4))):
        assert not np.array_equal(mine, other)
