"""What a history's project declares: rows, and one choice of each thing that may be flipped."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

TEXTS = (
    "How do I reset my password?",
    "How do I  reset my password?",
    "How do I reset my password, please?",
    "Where is my parcel?",
    "Where is my parcel now?",
    "Who are you?",
    "Tell me a joke.",
    "What is the capital of France?",
    "Où est mon colis ?",
    "Explain the lazy dog.",
    "question number one",
    "question number two",
)
TOPICS = ("birds", "fish & chips", "été")
DAYS = ("2026-01-01", "2026-01-02", "2026-02-01")
BROKEN = ""
Row = Mapping[str, str]

PARTITIONS: tuple[dict[str, Any] | None, ...] = (
    {"by": "topic"},
    {"shards": 2},
    {"shards": 3},
    {"daily": "day", "start": "2026-01-01"},
    {"monthly": "day", "start": "2026-01-01"},
    None,
)
PROMPTS: dict[str, tuple[Any, ...]] = {
    "prompt": ("{{ question }}", "{{ question }} ({{ topic }})", "Tell me of {{ topic }}."),
    "system": (None, "Be brief.", "You know all of {{ topic }}."),
    "few_shot": (None, [{"prompt": "Hello?", "completion": "Yes?"}]),
    "reference": (None, "answer"),
    "split": ({"validation": 0.3, "test": 0.4}, {"validation": 0.2, "test": 0.5}),
    "partition": PARTITIONS,
}
CURATION: dict[str, tuple[Any, ...]] = {
    "drop": (
        ["refused", "truncated", "empty", "duplicate", "near_duplicate", "test_leakage"],
        ["refused", "empty"],
        ["duplicate", "test_leakage"],
    ),
    "near_duplicate_threshold": (0.85, 0.5),
}
STUDENT_PROMPT: dict[str, tuple[Any, ...]] = {"system": (True, False), "few_shot": (False, True)}
HOSTED: dict[str, tuple[Any, ...]] = {
    "max_tokens": (50, 60),
    "samples": (1, 2),
    "transport": ("messages", "batches"),
}
LOCAL: dict[str, tuple[Any, ...]] = {"max_tokens": (16, 12), "batch_size": (4, 3)}
LOGITS: dict[str, tuple[Any, ...]] = {"k": (8, 4), "validation_rows": (2, 4)}
GOLDEN: tuple[tuple[str, ...], ...] = ((), (TEXTS[3],), (TEXTS[5], TEXTS[8]))


@dataclass(frozen=True)
class Declared:
    """The inputs of a project at one time.

    Attributes:
        rows: the source.
        blocks: the declaration's blocks as they are written.
        golden: prompts of the golden set; none for no golden set.
        held_out: a topic that is held out whole, where the partitions are topics.
    """

    rows: tuple[Row, ...]
    blocks: Mapping[str, Mapping[str, Any]]
    golden: tuple[str, ...] = ()
    held_out: str | None = None
    further: Mapping[str, Any] = field(default_factory=dict)

    def flipped(self, block: str, key: str, value: Any) -> "Declared":
        """With one key of a block set, or left out where the value is None."""
        content = {name: old for name, old in self.blocks.get(block, {}).items() if name != key}
        if value is not None:
            content[key] = value
        return replace(self, blocks={**self.blocks, block: content})

    def otherwise(self, block: str, key: str, values: Sequence[Any]) -> "Declared":
        """With the last of a key's values that is not there now."""
        current = self.blocks.get(block, {}).get(key)
        return self.flipped(block, key, next(value for value in reversed(values) if value != current))

    @property
    def is_broken(self) -> bool:
        """Whether a row can be no prompt, or has the id of another."""
        return self.mended() != self

    @property
    def partitions(self) -> tuple[str, ...]:
        """Names that partitions may have, as they are cut now."""
        cut = self.blocks["prompts"].get("partition")
        if cut is None:
            return ("all",)
        if "shards" in cut:
            return tuple(map(str, range(cut["shards"])))
        return TOPICS if "by" in cut else DAYS

    def mended(self) -> "Declared":
        """Without the rows that can be no prompts."""
        prompts = self.blocks["prompts"]
        kept: list[Row] = []
        first: dict[str, Row] = {}
        for one in self.rows:
            is_empty = one["question"] == BROKEN and "question" in prompts["prompt"]
            if not is_empty and ("id" not in prompts or first.setdefault(one["ticket"], one) == one):
                kept.append(one)
        return replace(self, rows=tuple(kept))

    def files(self) -> dict[str, str]:
        """The files of the distillation's folder."""
        attributes: dict[str, Any] = {**self.blocks, **self.further}
        by_topic = self.blocks["prompts"].get("partition") == {"by": "topic"}
        topics = {row["topic"] for row in self.rows}
        if self.held_out is not None and by_topic and self.held_out in topics and len(topics) > 1:
            evaluation = {**attributes.get("evaluation", {}), "held_out_partitions": [self.held_out]}
            attributes["evaluation"] = evaluation
        files = {"rows.jsonl": lines(self.rows)}
        if self.golden:
            attributes["golden_set"] = {"jsonl": "golden.jsonl"}
            files["golden.jsonl"] = lines([golden_row(text) for text in self.golden])
        declaration = {"type": "distill_dagster.Distillation", "attributes": attributes}
        return files | {"defs.yaml": json.dumps(declaration, ensure_ascii=False, indent=1)}  # JSON is YAML


def golden_row(text: str) -> dict[str, Any]:
    """A row of the golden set, which the declared templates read."""
    return {"question": text, "topic": TOPICS[0], "reference": "Yes.", "verified": True}


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def row(number: int, text: str = TEXTS[0], topic: str = TOPICS[0], day: str = DAYS[0]) -> Row:
    """A row of the source, known by its ticket."""
    return {"ticket": f"t{number}", "question": text, "topic": topic, "day": day, "answer": f"Reference {number}."}
