"""What all hosted teachers have in common: an identity, a price, and a bound on what a request can cost."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.spec.teacher import TeacherSpec
from distill_dagster.teachers.money.prices import Price, price_of
from distill_dagster.teachers.protocol import TeacherIdentity


class HostedTeacher:
    """A model behind somebody's API.

    Attributes:
        overhead_tokens: chat mark-up that the API counts as input tokens beside the text, at most.
        cached_from_bytes: conversations from this size on may be written to a prompt cache, which costs more.
    """

    overhead_tokens: ClassVar[int]
    cached_from_bytes: int | None = None

    def __init__(
        self, spec: TeacherSpec, project_root: Path, schema: Mapping[str, Any] | None, parameters: Mapping[str, Any]
    ) -> None:
        """Args:
        spec: the declaration.
        project_root: where the project's own prices are.
        schema: JSON Schema that answers are held to.
        parameters: the other settings that affect an answer.
        """
        self.spec = spec
        self._project_root = project_root
        structured = {} if schema is None else {"json_schema": dict(schema)}
        self._identity = TeacherIdentity(spec.provider, spec.model, {**parameters, **structured})
        self._schema_bytes = 0 if schema is None else len(canonical_json(dict(schema)).encode())

    @property
    def identity(self) -> TeacherIdentity:
        """Model and output-affecting parameters; not `base_url`, because two replicas of a model are one teacher."""
        return self._identity

    @cached_property
    def price(self) -> Price:
        """What its tokens cost; raises TeacherError where nothing says so."""
        return price_of(self.spec, self._project_root)

    def most_microusd(self, requests: pl.DataFrame, *, batched: bool = False) -> pl.Series:
        """The most each request can cost: a token is at least one byte, and max_tokens bounds the answer."""
        sizes = requests.select(bytes=pl.col("messages").str.len_bytes())
        distinct = sizes.unique()  # prompts are many, their sizes few
        bounds = [self._most_microusd(size, batched) for size in distinct["bytes"].to_list()]
        bounded = distinct.with_columns(pl.Series("cost_microusd", bounds, dtype=pl.Int64))
        return sizes.join(bounded, on="bytes", how="left", maintain_order="left")["cost_microusd"]

    def _most_microusd(self, size_bytes: int, batched: bool) -> int:
        is_cached = self.cached_from_bytes is not None and size_bytes >= self.cached_from_bytes
        tokens = size_bytes + self.overhead_tokens + self._schema_bytes
        return self.price.most_microusd(tokens, self.spec.max_tokens, cached=is_cached, batched=batched)
