"""What a run made and could not say, because it died, Dagster hears of from the next one."""

import dagster as dg

from distill_dagster.graph.keys import VERSION_TAG, asset_key
from distill_dagster.graph.run import Runner
from distill_dagster.graph.untold import NOTE, tell_untold
from distill_dagster.plan import Request
from distill_dagster.storage import read_current
from tests.fakes.anthropic_server import AnthropicServer
from tests.graph.hosted import Declare, rows, spec
from tests.teachers.hosted import answer


def test_versions_that_dagster_never_heard_of_are_told_by_the_next_run(
    declare: Declare, claude: AnthropicServer, instance: dg.DagsterInstance
) -> None:
    distillation = declare(spec(), rows__jsonl=rows(birds=20, fish=3))
    answer(distillation)  # outside of Dagster, as a run that is killed before it logs anything leaves it

    outcome = Runner(distillation, instance, lambda said: None).run(Request())

    assert outcome.done == ["dataset"]
    for kind in ("prompts", "teacher_outputs"):
        for partition in ("birds", "fish"):
            current = read_current(distillation.files.asset(kind, partition))
            wanted = dg.AssetRecordsFilter(asset_key("demo", kind), asset_partitions=[partition])
            [record] = instance.fetch_materializations(wanted, limit=9).records
            assert current is not None
            assert record.asset_materialization is not None
            assert record.asset_materialization.description == NOTE
            assert dict(record.asset_materialization.tags or {})[VERSION_TAG] == current.version
    assert tell_untold(distillation, instance) == 0
