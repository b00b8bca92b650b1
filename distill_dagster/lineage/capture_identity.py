"""What captured logits are captures of: the teacher, how it reads, and what was kept of its distributions."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from distill_dagster.lineage.hashing import digest

FORMAT = 1


class CaptureIdentity(BaseModel):
    """All that decides the numbers in a logits file, beside the sequence itself.

    Attributes:
        format: layout of the files.
        method: `topk`, or `sample`.
        k: stored ids a token (`topk`).
        temperatures: those with a log Z and a tail mass (`topk`); the one that was drawn at (`sample`).
        draws: ids drawn a token (`sample`), or for each unit of the mass that is not stored (`topk`; None is none).
        draw_sets: independent sets of draws, one an epoch (`sample`).
        source: `local` model, or `server`, which serves the model.
        model: digest of the weights; for a server its declared model and revision.
        tokenizer, template: digests.
        dtype: precision that the teacher computes in; `server` for a server's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    format: int = FORMAT
    method: Literal["topk", "sample"]
    k: int | None = None
    temperatures: tuple[float, ...] = (1.0,)
    draws: int | None = None
    draw_sets: int | None = None
    source: Literal["local", "server"] = "local"
    model: str
    tokenizer: str
    template: str
    dtype: str

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all of it."""
        return digest(self.model_dump(mode="json"))

    def differences(self, other: "CaptureIdentity") -> list[str]:
        """What differs, as `tokenizer: 3f2a… here, 77b0… there`."""
        here, there = self.model_dump(mode="json"), other.model_dump(mode="json")
        return [
            f"{name}: {_short(here[name])} here, {_short(there[name])} there"
            for name in here
            if here[name] != there[name]
        ]


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) > 40 else text
