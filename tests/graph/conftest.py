"""The Dagster instance of the declared project."""

from collections.abc import Iterator

import dagster as dg
import pytest

from distill_dagster.graph.instance_home import open_instance
from tests.graph.hosted import Declare, spec


@pytest.fixture
def instance(declare: Declare) -> Iterator[dg.DagsterInstance]:
    with open_instance(declare(spec(), rows__jsonl="").project) as made:
        yield made
