"""The `students:` block: what is trained, from which base, how."""

from typing import Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from distill_dagster.spec.base import SpecModel

# Settings that only some objectives have.
ONLY_FOR = {
    "targets": ("sft",),
    "divergence": ("logit", "on_policy"),
    "beta": ("logit", "on_policy"),
    "temperature": ("logit", "on_policy"),
    "t_squared": ("logit",),
    "ce_weight": ("logit",),
    "batch_tokens": ("sft", "logit"),
    "patience": ("sft", "logit"),
}


class BaseSpec(SpecModel):
    """What a student starts from: a model, or the teacher with layers removed.

    A plain string is short for `{model: …}`.
    """

    model: str | None = Field(None, description="Folder, name under `.models/`, or hub id.")
    revision: str | None = Field(None, description="Revision on the hub.")
    prune: str | None = Field(None, description="`teacher`, or a model, whose layers are pruned in depth.")
    layers: int | None = Field(None, ge=1, description="Layers kept, chosen by measured block influence.")
    trust_remote_code: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.model is None) == (self.prune is None):
            raise ValueError("write either a model (hub id or folder) or `{prune: teacher, layers: N}`")
        if (self.prune is None) != (self.layers is None):
            raise ValueError("`prune` and `layers` go together")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        json_schema = handler(schema)
        handler.resolve_ref_schema(json_schema)["type"] = ["object", "string"]
        return json_schema


class LoraSpec(SpecModel):
    """Low-rank adapters, merged into the checkpoint when training ends."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: list[str] | None = Field(None, description="Default: every linear layer but the head.")


class StudentSpec(SpecModel):
    """One student: its base, objective and training settings."""

    base: BaseSpec
    objective: Literal["sft", "logit", "on_policy"] = Field(
        "sft",
        description="sft: cross-entropy on completions. logit: divergence from the teacher's next-token distributions, "
        "captured beforehand. on_policy: divergence on the student's own answers, the teacher in memory.",
    )
    targets: Literal["teacher", "reference"] = Field(
        "teacher",
        description="sft: whose completions are learnt. `reference` trains on the human references: the baseline that "
        "distillation is compared with.",
    )
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = Field(
        "forward_kl",
        description="logit, on_policy: what is minimised; jsd is the generalised Jensen-Shannon divergence.",
    )
    beta: float = Field(0.5, gt=0, lt=1, description="jsd: weight of the teacher's distribution in the mixture.")
    temperature: float = Field(
        1.0, gt=0, description="logit, on_policy: softens both distributions; must be one of `logits.temperatures`."
    )
    t_squared: bool = Field(
        True, description="logit: multiply the divergence by temperature², so that its gradients keep their size."
    )
    ce_weight: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="logit: share of cross-entropy on the completions in the loss, the rest is divergence.",
    )
    epochs: float = Field(3, gt=0, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimiser steps, whatever the epochs.")
    learning_rate: float = Field(3e-4, gt=0)
    lr_scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(8, ge=1, description="Rows per device and step.")
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens per device and step, padding counted: as many rows of similar length as fit, instead of "
        "`batch_size`.",
    )
    gradient_accumulation: int = Field(1, ge=1)
    max_length: int = Field(1024, ge=8, description="Tokens of a row; longer rows are dropped and counted.")
    lora: LoraSpec | None = Field(None, description="Train low-rank adapters instead of all weights (extra `lora`).")
    seeds: list[int] = Field(
        [17],
        min_length=1,
        description="Trains once for each; the student with the lowest validation loss is kept, all are reported.",
    )
    patience: int | None = Field(
        2,
        ge=1,
        description="Validations (one an epoch) without improvement before training stops; null never stops early. The "
        "best checkpoint is kept in any case.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 autocast where the hardware has it, and no part of the student's identity."
    )
    checkpoint_steps: int = Field(25, ge=1, description="Optimiser steps between resumable checkpoints.")

    @model_validator(mode="after")
    def _fits_objective(self) -> Self:
        strangers = [
            f"{name}: only for objective {' or '.join(known)}"
            for name, known in ONLY_FOR.items()
            if name in self.model_fields_set and self.objective not in known
        ]
        if strangers:
            raise ValueError(f"{'; '.join(strangers)} (objective is {self.objective})")
        if "beta" in self.model_fields_set and self.divergence != "jsd":
            raise ValueError(f"beta: only for divergence jsd (divergence is {self.divergence})")
        if "batch_tokens" in self.model_fields_set and "batch_size" in self.model_fields_set:
            raise ValueError("batch_size and batch_tokens: write one of them")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is there twice; it would train the same student again")
        return self
