"""Which completions of a partition are to be captured: those that a student may train or validate on."""

import hashlib

import polars as pl

from distill_dagster.logits.sparse import ids_hash
from distill_dagster.project import Distillation
from distill_dagster.prompts.splits import LEARNT_FROM
from distill_dagster.prompts.store import read_prompts
from distill_dagster.storage import read_current
from distill_dagster.teachers.outputs import read_outputs

WANTED = ("prompt_id", "sample", "split", "request_key", "ids_hash", "tokens", "has_hidden")
_READ = ("prompt_id", "sample", "request_key", "status", "completion", "token_ids", "selected")


def wanted_completions(distillation: Distillation, partition: str) -> pl.DataFrame:
    """Usable answers to the training and validation prompts of a partition.

    Test and held-out rows are left out: they are measured with the teacher itself. An answer without token ids is a
    server's: it is captured at the ids that the named tokenizer gives its text, which the capture finds out.

    Returns:
        The columns of WANTED (an index without places; ids_hash and tokens are null where only the text is known),
        messages, completion and completion_ids, by prompt_id and sample.
    """
    outputs = read_outputs(distillation, partition).select(_READ)
    usable = ["answered"] if "truncated" in distillation.spec.curation.drop else ["answered", "truncated"]
    prompts = read_prompts(distillation, partition).select("prompt_id", "split", "messages")
    rows = (
        outputs.filter(pl.col("status").is_in(usable) & pl.col("selected").fill_null(True))
        .join(prompts.filter(pl.col("split").is_in(LEARNT_FROM)), on="prompt_id")
        .rename({"token_ids": "completion_ids"})
        .sort("prompt_id", "sample")
    )
    hashes = [None if ids is None else ids_hash(ids) for ids in rows["completion_ids"]]
    hidden = _with_hidden(rows, distillation.spec.logits.validation_rows if distillation.spec.teacher.is_local else 0)
    return rows.with_columns(
        pl.Series("ids_hash", hashes, dtype=pl.String),
        tokens=pl.col("completion_ids").list.len().cast(pl.Int32),
        has_hidden=pl.col("prompt_id").is_in(hidden),
    ).select(*WANTED, "messages", "completion", "completion_ids")


def inputs_of(distillation: Distillation, partition: str) -> dict[str, str] | None:
    """Versions that the wanted completions follow from; None while there are no answers."""
    prompts = read_current(distillation.files.asset("prompts", partition))
    outputs = read_current(distillation.files.asset("teacher_outputs", partition))
    if prompts is None or outputs is None:
        return None
    return {"prompts": prompts.version, "teacher_outputs": outputs.version}


def _with_hidden(rows: pl.DataFrame, most: int) -> list[str]:
    """Validation prompts whose full distributions are kept: few, and the same ones whatever else is asked."""
    names = rows.filter(pl.col("split") == "validation")["prompt_id"].unique().to_list()
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:most]
