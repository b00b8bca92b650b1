"""The checks on the dataset, which run behind it in the same run."""

import dagster as dg
import polars as pl

from distill_dagster.dataset.build import ASSET
from distill_dagster.graph.dataset_checks import LEAKAGE, no_leakage
from distill_dagster.graph.finding import SCHEMA
from distill_dagster.graph.keys import asset_key
from distill_dagster.graph.run import Runner
from distill_dagster.plan import Asset, Request
from distill_dagster.storage import read_current
from tests.fakes.anthropic_server import AnthropicServer
from tests.graph.hosted import Declare, rows, spec


def test_a_run_checks_the_dataset_it_made(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(spec(), rows__jsonl=rows(birds=30, fish=30))
    assert no_leakage(distillation).description == "no dataset yet"

    outcome = Runner(distillation, instance, lambda said: None).run(Request(until=Asset.DATASET))

    assert outcome.failure is None
    for name in (SCHEMA, LEAKAGE):
        key = dg.AssetCheckKey(asset_key("demo", ASSET), name)
        (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=2)
        assert isinstance(record.evaluation, dg.AssetCheckEvaluation)
        assert record.evaluation.passed
        assert record.evaluation.target_materialization_data is not None

    current = read_current(distillation.files.asset(ASSET))
    assert current is not None
    folder = distillation.files.asset(ASSET) / current.version
    test, train = (pl.read_parquet(folder / f"{split}.parquet") for split in ("test", "train"))
    pl.concat([test, train.head(1)]).write_parquet(folder / "test.parquet")
    found = no_leakage(distillation)
    assert not found.passed
    assert "a group is in more than one split" in found.description
