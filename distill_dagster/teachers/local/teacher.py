"""The local teacher as the graph sees it: its identity from files, its answers from the worker."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from distill_dagster.jobs import GenerateJob, ModelRef
from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.lineage.model_digest import digest_model
from distill_dagster.lineage.model_folder import find_model
from distill_dagster.project import Distillation
from distill_dagster.storage import write_file
from distill_dagster.teachers.local.engines import installed_engine, require_engine
from distill_dagster.teachers.protocol import Desk, Response, ResponseStatus, TeacherIdentity, Unanswered, Usage
from distill_dagster.teachers.store.database import open_database
from distill_dagster.teachers.store.leases import Leases
from distill_dagster.worker_process import Launch, run_job

STATUS = {
    "end_turn": ResponseStatus.ANSWERED,
    "stop_sequence": ResponseStatus.ANSWERED,
    "max_tokens": ResponseStatus.TRUNCATED,
}
REQUESTS_SCHEMA = pa.schema({"request_key": pa.large_string(), "messages": pa.large_string()})
THINK_START, THINK_END = "<think>", "</think>"


class LocalTeacher:
    """A Hugging Face model answered greedily by the worker; one worker start serves all requests."""

    def __init__(self, distillation: Distillation, launch: Launch) -> None:
        spec = distillation.spec.teacher
        self._spec = spec
        self._launch = launch
        self.folder = find_model(distillation, spec.model)
        parts = digest_model(self.folder, distillation.project.home / "digests")
        self._identity = TeacherIdentity(
            provider="transformers",
            model=parts.weights,
            parameters={
                "tokenizer": parts.tokenizer,
                "template": parts.template,
                "dtype": spec.dtype,
                "decoding": "greedy",
                "max_tokens": spec.max_tokens,
                "stop_sequences": list(spec.stop_sequences),
            },
        )
        self._files = distillation.files
        self._store_url = distillation.project.store_url
        self.transport = "worker"
        self.version = installed_engine(spec.engine)

    @property
    def identity(self) -> TeacherIdentity:
        """Digests of weights, tokenizer and template, dtype and decoding settings."""
        return self._identity

    def check(self) -> None:
        """Its folder was found and read already; its engine must be installed."""
        require_engine(self._spec.engine)

    def most_microusd(self, requests: pl.DataFrame) -> pl.Series:
        """A local answer costs no money."""
        return pl.Series("cost_microusd", [0], dtype=pl.Int64).new_from_index(0, len(requests))

    def answer(self, batches: Iterator[pl.DataFrame], desk: Desk) -> Unanswered:
        """Runs the worker once over all claimed requests and takes over each shard it finishes."""
        key = self._identity.digest[:32]
        work = self._files.work("generate", key)
        # no other process uses the folder meanwhile
        with Leases(open_database(self._store_url)).hold(f"generate/{self._files.name}/{key}"):
            left_behind = self._take_over(work, desk)  # by a run that was killed
            if write_requests(work / "requests.parquet", batches, left_behind):
                self._generate(work, desk)
        return Unanswered()

    def _generate(self, work: Path, desk: Desk) -> None:
        job = GenerateJob(
            engine=self._spec.engine,
            model=ModelRef(source=str(self.folder)),
            dtype=self._spec.dtype,
            max_tokens=self._spec.max_tokens,
            stop_sequences=self._spec.stop_sequences,
            batch_size=self._spec.batch_size,
            batch_tokens=self._spec.batch_tokens,
            requests=work / "requests.parquet",
            out=work,
        )
        run_job(job, self._launch, on_poll=lambda: self._take_over(work, desk))

    def _take_over(self, work: Path, desk: Desk) -> list[str]:
        """Stores finished shards, then removes them; returns their request keys."""
        keys: list[str] = []
        for shard in sorted(work.glob("shard-*.parquet")):
            answers = [_response(row) for row in pl.read_parquet(shard).iter_rows(named=True)]
            desk.deliver(answers)
            shard.unlink()
            keys += [answer.request_key for answer in answers]
        return keys


def write_requests(path: Path, batches: Iterator[pl.DataFrame], answered: Sequence[str]) -> int:
    """Writes the batches' requests to the worker's file as they come, one batch in memory at a time.

    Args:
        path: Parquet with request_key and messages, there whole once all batches are written.
        batches: columns request_key and messages.
        answered: request keys to leave out.

    Returns:
        How many requests were written.
    """
    rows = 0
    known = pl.Series(answered, dtype=pl.String).implode()

    def write(aside: Path) -> None:
        nonlocal rows
        with pq.ParquetWriter(aside, REQUESTS_SCHEMA) as writer:
            for batch in batches:
                requests = batch.filter(~pl.col("request_key").is_in(known)).select(REQUESTS_SCHEMA.names)
                writer.write_table(requests.to_arrow().cast(REQUESTS_SCHEMA))
                rows += len(requests)

    write_file(path, write)
    return rows


def _response(row: dict[str, object]) -> Response:
    text = str(row["text"])
    thinking, answer = split_thinking(text)
    stop_reason = str(row["stop_reason"])
    token_ids = row["token_ids"]
    return Response(
        request_key=str(row["request_key"]),
        status=STATUS[stop_reason],
        stop_reason=stop_reason,
        text=answer or None,
        thinking=thinking,
        content=canonical_json([{"type": "text", "text": text}]),
        usage=Usage(int(str(row["input_tokens"])), int(str(row["output_tokens"]))),
        token_ids=token_ids if isinstance(token_ids, list) else None,
    )


def split_thinking(text: str) -> tuple[str | None, str]:
    """A leading `<think>…</think>` and what follows it; an unclosed one is all thinking and no answer."""
    opened = text.lstrip()
    if not opened.startswith(THINK_START):
        return None, text
    thinking, _, answer = opened.removeprefix(THINK_START).partition(THINK_END)
    return thinking.strip(), answer.lstrip("\n")
