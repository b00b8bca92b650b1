"""Takes captured sequences as they come, writes them in shards into the job's folder, and tells how far it is."""

from pathlib import Path
from time import monotonic
from typing import Any

from distill_dagster.jobs import CaptureJob
from distill_dagster.logits.capture_queue import CaptureQueue, Key
from distill_dagster.logits.packing import size_bytes
from distill_dagster.logits.shards import check_identity, read_keys, write_shard
from distill_dagster.logits.sparse import Sequence
from distill_dagster.process import peak_memory_bytes
from distill_dagster.progress_file import ProgressWriter

STAGE = "capture"
SHARD_SEQUENCES = 256
SHARD_BYTES = 32 << 20
_REPORT_S = 0.5


def captured_keys(job: CaptureJob) -> set[Key]:
    """What shards of an earlier start of this job hold.

    Raises:
        LogitsError: a shard is damaged, or of another capture.
    """
    keys: set[Key] = set()
    for path in _shards(job.out):
        check_identity(path, job.identity)
        keys.update(read_keys(path).select("request_key", "ids_hash").iter_rows())
    return keys


class CaptureShards:
    """Collects the sequences of one job.

    A kill loses what is not in a shard yet: at most `SHARD_SEQUENCES` sequences or `SHARD_BYTES` in memory.
    """

    def __init__(self, job: CaptureJob, vocabulary: int, queue: CaptureQueue, progress: ProgressWriter) -> None:
        self._job = job
        self._vocabulary = vocabulary
        self._queue = queue
        self._progress = progress
        self._numbers = iter(range(_next_number(job.out), 1 << 31))
        self._waiting: list[Sequence] = []
        self._waiting_bytes = self._done = self._tokens = self._read_tokens = self._written_bytes = 0
        self._began = self._reported = monotonic()
        self._report()

    def add(self, sequence: Sequence, prompt_tokens: int) -> None:
        """Takes one sequence, whose prompt has so many tokens."""
        self._waiting.append(sequence)
        self._waiting_bytes += size_bytes(sequence)
        self._done += 1
        self._tokens += sequence.tokens
        self._read_tokens += prompt_tokens + sequence.tokens
        if len(self._waiting) == SHARD_SEQUENCES or self._waiting_bytes >= SHARD_BYTES:
            self.save()
        if monotonic() - self._reported >= _REPORT_S:
            self._report()

    def finish(self) -> dict[str, Any]:
        """Writes what is left; returns counts and measurements for result.json."""
        self.save()
        self._report()
        seconds = monotonic() - self._began
        return {
            "sequences": self._done,
            "tokens": self._tokens,
            "bytes": self._written_bytes,
            "reused": self._queue.reused,
            "over_context": self._queue.over_context_count,
            "over_context_keys": self._queue.over_context,
            "measurements": {
                "seconds": seconds,
                "tokens_per_second": self._tokens / seconds if seconds else 0.0,
                "peak_memory_bytes": peak_memory_bytes(),
            },
        }

    def save(self) -> None:
        """Writes what is not in a shard yet."""
        if not self._waiting:
            return
        path = self._job.out / f"logits-{next(self._numbers):05d}.parquet"
        write_shard(path, self._job.identity, self._vocabulary, self._waiting)
        self._written_bytes += path.stat().st_size
        self._waiting, self._waiting_bytes = [], 0

    def _report(self) -> None:
        self._reported = monotonic()
        seconds = self._reported - self._began
        metrics = {}
        if self._read_tokens and seconds:
            left = seconds * (self._queue.total_tokens - self._read_tokens) / self._read_tokens
            metrics = {"tokens_per_second": round(self._tokens / seconds, 1), "seconds_left": round(left, 3)}
        done, reused = self._done, self._queue.reused
        self._progress.report(STAGE, reused + done, reused + self._queue.count, "sequences", **metrics)


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("logits-*.parquet"))


def _next_number(folder: Path) -> int:
    return max((int(path.stem.removeprefix("logits-")) for path in _shards(folder)), default=-1) + 1
