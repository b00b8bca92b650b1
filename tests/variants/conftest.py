"""One comparison over the local server, made once for the tests that only read it."""

from collections.abc import Callable

import polars as pl
import pytest

from distill_dagster.project import Distillation
from distill_dagster.variants.ask import Inquiry, ask, prepare
from distill_dagster.variants.compare import compare, score_answers
from distill_dagster.variants.model import VariantsReport
from distill_dagster.worker_process import no_launch
from tests.fakes.anthropic_server import AnthropicServer
from tests.variants.designs import SPEC, rows, script

Compared = tuple[Inquiry, pl.DataFrame, VariantsReport]


@pytest.fixture
def run(claude: AnthropicServer) -> Callable[..., Compared]:
    """Asks the local server in every design, and compares."""
    claude.script = script

    def compared(distillation: Distillation, wanted: int = 50) -> Compared:
        inquiry = prepare(distillation, wanted, no_launch)
        scored = score_answers(inquiry, ask(inquiry))
        return inquiry, scored, compare(inquiry, scored)

    return compared


@pytest.fixture
def compared(declare: Callable[..., Distillation], run: Callable[..., Compared]) -> Compared:
    """The three designs on 50 rows of several customers."""
    return run(declare(SPEC, rows__jsonl=rows(150, customers=110)))
