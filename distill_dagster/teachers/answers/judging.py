"""What a judge is asked about a partition's answers, and its verdicts out of the store."""

from collections.abc import Callable, Iterator, Sequence

import polars as pl

from distill_dagster.teachers.answers.assessment import Assessor
from distill_dagster.teachers.protocol import REQUEST_COLUMNS, TeacherIdentity
from distill_dagster.teachers.store.responses import ResponseStore

Rows = Callable[[str], Iterator[pl.DataFrame]]


class JudgeRequests:
    """The judge's requests on the answers of some partitions, as far as these are there."""

    def __init__(self, partitions: Sequence[str], rows: Rows, assessor: Assessor, judge: TeacherIdentity) -> None:
        """Args:
        rows: a partition's prompts with their answers, a chunk at a time.
        judge: the judge's identity.
        """
        self._partitions = partitions
        self._rows = rows
        self._assessor = assessor
        self._judge = judge

    def __iter__(self) -> Iterator[pl.DataFrame]:
        for partition in self._partitions:
            for rows in self._rows(partition):
                yield _asked(rows, self._assessor, self._judge).select(REQUEST_COLUMNS)


def verdicts(rows: pl.DataFrame, assessor: Assessor, judge: TeacherIdentity, store: ResponseStore) -> pl.DataFrame:
    """The judge's answers on a chunk of rows: prompt_id, sample, completion, status; null where it has not answered."""
    asked = _asked(rows, assessor, judge)
    answers = store.fetch(asked["request_key"].unique())
    joined = asked.join(answers, on="request_key", how="left", maintain_order="left")
    return joined.select("prompt_id", "sample_judged", "completion", "status").rename({"sample_judged": "sample"})


def _asked(rows: pl.DataFrame, assessor: Assessor, judge: TeacherIdentity) -> pl.DataFrame:
    """One request for each usable answer; equal answers to a prompt are one request, so the judge's sample is 0."""
    prompts = assessor.judge_prompts(rows.filter(pl.col("status").is_not_null()))
    prompts = prompts.rename({"sample": "sample_judged"}).with_columns(sample=pl.lit(0, dtype=pl.Int32))
    return prompts.with_columns(judge.request_keys(prompts))
