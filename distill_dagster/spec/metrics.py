"""Metrics as `evaluation.metrics` lists them: by name, or as a block with a pattern, a schema or a function."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

import regex as regex_engine
from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from distill_dagster.spec.base import SpecModel

ReferenceMetricName = Literal["exact_match", "token_f1", "rouge_l", "bleu", "chrf", "contains", "label_accuracy"]
MetricName = Literal[ReferenceMetricName, "json_valid", "macro_f1"]
MACRO_F1 = "macro_f1"
PARAMETERS = ("regex", "json_schema", "python", "embedding_similarity")
# Names of other measures and columns that stand beside a metric's in reports and tables.
RESERVED_NAMES = frozenset(
    {
        *("forward_kl", "top1", "perplexity", "no_stop", "repetition_rate", "length_ratio", "tokens"),
        *("design", "prompt_id", "sample", "model", "group_id", "partition", "split", "slice"),
        *("text", "reference", "prediction"),
        *("messages", "request_key", "status", "detail", "answer", "problem", "usable", "words", "cost"),
        *("input_tokens", "output_tokens", "cost_microusd"),
    }
)

_BUILT_IN: tuple[str, ...] = get_args(MetricName)
_UNSAFE = re.compile(r"[^0-9A-Za-z_]")


class MetricSpec(SpecModel):
    """A metric with a parameter; exactly one of the first four keys. One without is its name alone."""

    regex: str | None = Field(
        None,
        description="1 where the pattern is found in the answer (the `regex` package); anchor it with `^` and `$`.",
    )
    json_schema: str | None = Field(
        None,
        min_length=1,
        description="1 where the answer is JSON of this JSON Schema, a file relative to the YAML file's folder.",
    )
    python: str | None = Field(
        None,
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$",
        description="`module.function` beside the YAML file: (prediction, reference, row) → number from 0 to 1.",
    )
    embedding_similarity: str | None = Field(
        None,
        min_length=1,
        description="Cosine of the embeddings of both texts, 0 where negative: means over a model's last hidden "
        "states. The model: a folder, a folder under `.models/`, or a hub id with `revision`.",
    )
    revision: str | None = Field(
        None, min_length=1, description="Only for `embedding_similarity`: the commit of a model of the hub."
    )
    needs_reference: bool = Field(
        True,
        description="Only for `python`: `false` where it judges the answer alone; "
        "its reference is then null, and rows without one are scored too.",
    )
    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")] | None = Field(
        None,
        description="In columns, reports and the gate; default: the parameter's key, or `python_module_function`.",
    )

    @model_validator(mode="after")
    def _one_parameter(self) -> Self:
        given = [name for name in PARAMETERS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"write exactly one of {', '.join(PARAMETERS)} (seen: {' and '.join(given) or 'none'})")
        if not self.needs_reference and self.python is None:
            raise ValueError(f"needs_reference: only for python; {given[0]} never looks at a reference, so remove it")
        if self.revision is not None and self.embedding_similarity is None:
            raise ValueError(f"revision: only for embedding_similarity; {given[0]} has none, so remove it")
        if self.name in _BUILT_IN or self.name in RESERVED_NAMES:
            raise ValueError(f"name: {self.name!r} is already something else's; write another")
        return self

    @model_validator(mode="after")
    def _pattern_compiles(self) -> Self:
        if self.regex is not None:
            try:
                regex_engine.compile(self.regex)
            except (regex_engine.error, RecursionError) as error:
                told = "nested too deeply" if isinstance(error, RecursionError) else error
                raise ValueError(f"regex: not a pattern ({told}); correct it") from None
        return self

    @property
    def kind(self) -> str:
        """Which of `PARAMETERS` is given."""
        return next(name for name in PARAMETERS if getattr(self, name) is not None)


def _form(value: Any) -> str:
    return "[block]" if isinstance(value, (dict, MetricSpec)) else "[name]"


MetricEntry: TypeAlias = Annotated[
    Annotated[MetricName, Tag("[name]")] | Annotated[MetricSpec, Tag("[block]")], Discriminator(_form)
]


def metric_name(entry: MetricName | MetricSpec) -> str:
    """What an entry is called in columns, reports and the gate."""
    if isinstance(entry, str):
        return entry
    return entry.name or (f"python_{_UNSAFE.sub('_', entry.python)}" if entry.python else entry.kind)


def check_metrics(entries: Sequence[MetricName | MetricSpec]) -> None:
    """What a list of metrics has to be.

    Raises:
        ValueError: two entries have one name, or no entry has a score per row.
    """
    seen: set[str] = set()
    for entry in entries:
        name = metric_name(entry)
        if name in seen:
            mend = "keep one" if isinstance(entry, str) else f"give one a name: {{{entry.kind}: …, name: …}}"
            raise ValueError(f"metrics: two are called {name!r}; {mend}")
        seen.add(name)
    if seen == {MACRO_F1}:
        raise ValueError("metrics: macro_f1 has no score per row, and one is needed; add label_accuracy")
