"""Prompts and teacher outputs as frames, and their place on disk."""

from collections.abc import Iterable
from typing import Any

import polars as pl

from distill_dagster.dataset.curate import ROW, Curated, Curation
from distill_dagster.lineage.hashing import canonical_json, frame_version, sha256_text
from distill_dagster.project import Distillation
from distill_dagster.prompts.store import PROMPTS_SCHEMA, VERSIONED, PartitionPrompts, write_prompts
from distill_dagster.spec.curation import CurationSpec
from distill_dagster.storage import Current, write_current, write_file

OUTPUTS_SCHEMA = {
    "prompt_id": pl.String,
    "sample": pl.Int32,
    "request_key": pl.String,
    "status": pl.String,
    "stop_reason": pl.String,
    "completion": pl.String,
    "thinking": pl.String,
    "token_ids": pl.List(pl.Int32),
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "cost_microusd": pl.Int64,
    "detail": pl.String,
}
Rows = Iterable[dict[str, Any]]


def prompt(prompt_id: str, text: str | None = None, split: str = "train", system: str | None = None) -> dict[str, Any]:
    """A PROMPTS row of one user turn; its text is its id unless given."""
    text = text if text is not None else f"prompt {prompt_id * 7}"
    turns = [{"role": "user", "content": text}]
    messages = canonical_json([{"role": "system", "content": system}, *turns] if system else turns)
    return {
        "prompt_id": prompt_id,
        "group_id": sha256_text(text)[:32],
        "split": split,
        "partition": "all",
        "row_hash": sha256_text(prompt_id),
        "messages": messages,
        "student_messages": messages,
        "text": text,
        "reference": None,
    }


def output(prompt_id: str, completion: str | None = "answer", sample: int = 0, **columns: Any) -> dict[str, Any]:
    """An OUTPUTS row, answered unless said otherwise."""
    row = {"prompt_id": prompt_id, "sample": sample, "request_key": sha256_text(f"{prompt_id}/{sample}")}
    return dict.fromkeys(OUTPUTS_SCHEMA) | row | {"status": "answered", "completion": completion} | columns


def prompts_frame(rows: Rows) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=PROMPTS_SCHEMA)


def outputs_frame(rows: Rows) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=OUTPUTS_SCHEMA)


def publish_prompts(distillation: Distillation, partition: str, rows: Rows) -> None:
    frame = prompts_frame({**row, "partition": partition} for row in rows).sort("prompt_id")
    write_prompts(distillation, partition, PartitionPrompts(frame, frame_version(frame, VERSIONED), 0, (), "settings"))


def publish_outputs(distillation: Distillation, partition: str, rows: Rows) -> None:
    frame = outputs_frame(rows).sort("prompt_id", "sample")
    version = frame_version(frame, ["prompt_id", "sample", "completion", "status"])
    folder = distillation.files.asset("teacher_outputs", partition)
    write_file(folder / f"{version}.parquet", lambda aside: frame.write_parquet(aside))
    write_current(folder, Current(version))


def curate(prompts: pl.DataFrame, outputs: pl.DataFrame, spec: CurationSpec, parts: int = 1) -> Curated:
    """What `Curation` makes of prompts that come in some parts; `kept` has all KEPT columns."""
    curation = Curation(spec)
    height = -(-max(len(prompts), 1) // parts)
    rows = pl.concat(
        curation.add(part, outputs.join(part, on="prompt_id", how="semi"))
        for part in (prompts.slice(number * height, height) for number in range(parts))
    )
    asked = rows.unique("prompt_id").select("prompt_id", "split", "text", student_messages="messages")
    curated = curation.finish(lambda ids: asked.filter(pl.col("prompt_id").is_in(ids.implode())).iter_slices(2))
    return Curated(rows.join(curated.kept, on=ROW, how="semi").sort(ROW), curated.dropped)
