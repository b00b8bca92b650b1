"""What each column of an asset holds, and from which columns of other assets it comes."""

from collections.abc import Mapping

import dagster as dg

from distill_dagster.graph.keys import asset_key

_MESSAGES = "JSON list of {role, content}: "
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "prompts": {
        "prompt_id": "The declared id column, else a hash of the source row, whatever the template.",
        "group_id": "Rows of a group are always in the same split.",
        "split": "train, validation, test or held_out, by hash of the group.",
        "partition": "The partition that the row is in.",
        "row_hash": "SHA-256 of the source row's columns.",
        "messages": _MESSAGES + "what the teacher reads.",
        "student_messages": _MESSAGES + "what students read.",
        "text": "The rendered prompt: the last user turn.",
        "reference": "A human answer, where the source has one.",
    },
    "teacher_outputs": {
        "prompt_id": "The prompt that is answered.",
        "sample": "Number of the sample, from 0.",
        "request_key": "SHA-256 of all that affects the answer; the stored response lies under it.",
        "status": "answered, refused, truncated, error, …",
        "stop_reason": "Why the teacher stopped, in the provider's word.",
        "completion": "Text of the answer.",
        "thinking": "The teacher's thinking, where it gives it.",
        "token_ids": "Tokens of a local teacher's answer, stop token included.",
        "input_tokens": "Tokens that the provider counted as read.",
        "output_tokens": "Tokens of the answer.",
        "cost_microusd": "Cost of the call in millionths of a dollar.",
        "cache_write_tokens": "Tokens written to the provider's prompt cache.",
        "cache_read_tokens": "Tokens read from the provider's prompt cache.",
        "detail": "An error's text, or a refusal's category.",
        "problem": "What makes the answer invalid: label or JSON.",
        "label": "The declared label that the answer names.",
        "label_shares": "JSON object: share of the prompt's samples by label.",
        "score": "What the sample was chosen by.",
        "selected": "Whether students may learn this sample.",
    },
    "teacher_logits": {
        "prompt_id": "The prompt that was answered.",
        "sample": "Number of the sample, from 0.",
        "split": "The prompt's split.",
        "request_key": "The stored response that was captured.",
        "ids_hash": "Hash of the sequence's token ids.",
        "tokens": "Tokens of the answer.",
        "has_hidden": "Whether the teacher's hidden states are kept too.",
        "shard": "The append-only file that holds the distributions.",
        "row": "The sequence's row in it.",
    },
    "dataset": {
        "prompt_id": "The prompt.",
        "sample": "Number of the sample, from 0.",
        "partition": "The partition that the prompt is in.",
        "group_id": "Rows of a group are always in the same split.",
        "request_key": "The stored response that the completion is.",
        "messages": _MESSAGES + "what students read.",
        "text": "The rendered prompt: the last user turn.",
        "completion": "What students learn to answer.",
        "completion_ids": "Its tokens as a local teacher wrote them.",
        "reference": "A human answer, where the source has one.",
        "label_shares": "JSON object: share of the prompt's samples by label.",
    },
    "golden_set": {
        "prompt_id": "Hash of the golden row's columns.",
        "group_id": "Rows that ask the same are one group.",
        "messages": _MESSAGES + "what the teacher reads.",
        "student_messages": _MESSAGES + "what students read.",
        "text": "The rendered prompt: the last user turn.",
        "reference": "The human answer.",
        "slice": "The part of the set that the row belongs to.",
        "verified": "Whether a person has checked the row; others decide nothing.",
    },
}

_PROMPT = {name: ("prompts", name) for name in ("prompt_id", "partition", "group_id", "text", "reference")}
_ANSWER = {name: ("teacher_outputs", name) for name in ("sample", "request_key", "label_shares")}
_SOURCES: Mapping[str, Mapping[str, tuple[tuple[str, str], ...]]] = {
    "teacher_outputs": {
        "prompt_id": (("prompts", "prompt_id"),),
        "request_key": (("prompts", "messages"),),
        "completion": (("prompts", "messages"),),
        "thinking": (("prompts", "messages"),),
        "token_ids": (("prompts", "messages"),),
        "label": (("prompts", "messages"),),
    },
    "teacher_logits": {
        "prompt_id": (("teacher_outputs", "prompt_id"),),
        "sample": (("teacher_outputs", "sample"),),
        "split": (("prompts", "split"),),
        "request_key": (("teacher_outputs", "request_key"),),
        "ids_hash": (("teacher_outputs", "token_ids"),),
        "tokens": (("teacher_outputs", "token_ids"),),
    },
    "dataset": {
        **{column: (source,) for column, source in {**_PROMPT, **_ANSWER}.items()},
        "messages": (("prompts", "student_messages"),),
        "completion": (("teacher_outputs", "completion"), ("teacher_outputs", "thinking")),
        "completion_ids": (("teacher_outputs", "token_ids"),),
    },
}


def column_schema(asset: str, schema: Mapping[str, object]) -> dg.TableSchema:
    """Dagster's schema of a Polars one, each column with what it holds."""
    described = COLUMNS[asset]
    return dg.TableSchema(columns=[dg.TableColumn(name, str(kind), described[name]) for name, kind in schema.items()])


def column_lineage(distillation: str, asset: str) -> dict[str, dg.MetadataValue]:
    """`dagster/column_lineage` of an asset, as metadata of a materialisation; none where it stands at the beginning."""
    sources = _SOURCES.get(asset)
    if sources is None:
        return {}
    deps = {
        column: [dg.TableColumnDep(asset_key(distillation, source), name) for source, name in named]
        for column, named in sources.items()
    }
    return {"dagster/column_lineage": dg.MetadataValue.column_lineage(dg.TableColumnLineage(deps_by_column=deps))}
