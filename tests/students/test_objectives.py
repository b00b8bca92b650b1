"""What an objective hands the loss, from targets on disk."""

import numpy as np
import polars as pl
import pytest
import torch

from distill_dagster.logits.shards import read_keys, write_shard
from distill_dagster.logits.targets_file import TargetsFile, build_targets_file
from distill_dagster.students.losses import Divergence, LossSettings
from distill_dagster.students.objectives import LogitObjective
from tests.logits.targets import VOCABULARY, make_sequence, topk_identity

NAMES = ["a", "b", "c"]


def targets_of(folder, identity, temperature=1.0) -> tuple[TargetsFile, list]:
    sequences = [make_sequence(identity, name, tokens=at + 1) for at, name in enumerate(NAMES)]
    write_shard(folder / "shard.parquet", identity, VOCABULARY, sequences)
    keys = read_keys(folder / "shard.parquet").with_columns(shard=pl.lit("shard.parquet"))
    wanted = keys.select("request_key", "ids_hash", "shard", "row")
    return build_targets_file(folder / "scratch", wanted, folder, identity, VOCABULARY, temperature), sequences


def objective(targets: TargetsFile, **settings) -> LogitObjective:
    return LogitObjective(LossSettings(**settings), targets, targets, None, VOCABULARY)


def test_kept_ids_have_their_probability_and_drawn_ones_share_the_others(tmp_path):
    targets, sequences = targets_of(tmp_path, topk_identity(k=4, draws=3))

    found = objective(targets).targets([2, 0], epoch=1)

    written = [sequences[2].targets, sequences[0].targets]
    kept, counts, drawn = (
        np.concatenate([getattr(one, name) for one in written]) for name in ("ids", "tail_counts", "tail_ids")
    )
    p, tail = (np.exp(np.concatenate([getattr(one, name) for one in written])) for name in ("log_probs", "log_tail"))
    np.testing.assert_array_equal(found["counts"], counts + 4)
    ends = np.cumsum(counts)
    tokens = zip(*(found[name].split((counts + 4).tolist()) for name in ("ids", "weights")), strict=True)
    for at, (ids, weights) in enumerate(tokens):
        np.testing.assert_array_equal(ids, [*kept[at], *drawn[ends[at] - counts[at] : ends[at]]])
        np.testing.assert_allclose(weights[:4], p[at], rtol=5e-3)
        np.testing.assert_allclose(weights[4:], tail[at, 0] / counts[at], rtol=5e-3)
        assert weights.sum().item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    "settings", [{"divergence": Divergence.REVERSE_KL}, {"divergence": Divergence.JSD}, {"temperature": 2.0}]
)
def test_what_the_draws_do_not_estimate_is_learnt_from_the_tails_mass(tmp_path, settings):
    identity = topk_identity(k=4, draws=3, temperatures=(1.0, 2.0))
    targets, _ = targets_of(tmp_path, identity, settings.get("temperature", 1.0))

    found = objective(targets, **settings).targets([1], epoch=0)

    assert found.keys() == {"ids", "log_probs", "log_tail"}
    assert found["ids"].shape == (2, 4)


def test_a_capture_without_draws_leaves_the_tail_one_mass(tmp_path):
    targets, _ = targets_of(tmp_path, topk_identity(k=4, draws=None))
    found = objective(targets).targets([0], epoch=0)
    assert found.keys() == {"ids", "log_probs", "log_tail"}
    assert torch.isfinite(found["log_tail"]).all()
