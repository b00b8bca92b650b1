"""The `golden_set:` block: human-verified prompts and references that no student may learn from."""

from pydantic import Field

from distill_dagster.spec.prompts import SourceSpec


class GoldenSetSpec(SourceSpec):
    """A source of verified rows with the columns that the prompt reads; exactly one of the kinds."""

    reference: str = Field("reference", description="Column with the right answer; every row has one.")
    verified: str = Field(
        "verified", description="Column that is `true` where a person has checked the row; others decide nothing."
    )
    slice: str | None = Field(None, description="Column whose values are told apart, such as a product or language.")
    group: str | None = Field(
        None, description="Column whose rows count as one draw. Default: the normalised values that the prompt reads."
    )
