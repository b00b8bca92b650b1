"""What a declaration says of capturing: whether it is needed, and what the captures are captures of."""

import math

from distill_dagster.lineage.capture_identity import CaptureIdentity
from distill_dagster.lineage.hashing import digest
from distill_dagster.lineage.model_digest import digest_model, digest_tokenizer
from distill_dagster.lineage.model_folder import find_model
from distill_dagster.project import Distillation


def needs_logits(distillation: Distillation) -> bool:
    """Whether any student learns from captured logits."""
    return any(student.objective == "logit" for student in distillation.spec.students.values())


def capture_identity(distillation: Distillation) -> CaptureIdentity:
    """What captured logits of the declared teacher are captures of.

    Raises:
        TeacherError: its model, or its tokenizer, is found nowhere.
    """
    spec, teacher = distillation.spec.logits, distillation.spec.teacher
    cache = distillation.project.home / "digests"
    sampled = spec.method == "sample"
    kept = {
        "method": spec.method,
        "k": None if sampled else spec.k,
        # at 1 a student is validated, whatever it is trained at
        "temperatures": tuple(spec.temperatures if sampled else dict.fromkeys([1.0, *spec.temperatures])),
        "draws": spec.draws if sampled else spec.tail_draws or None if teacher.is_local else None,
        "draw_sets": draw_sets(distillation) if sampled else None,
    }
    if teacher.is_local:
        parts = digest_model(find_model(distillation, teacher.model), cache)
        return CaptureIdentity(
            **kept, model=parts.weights, tokenizer=parts.tokenizer, template=parts.template, dtype=teacher.dtype
        )
    tokenizer, template = digest_tokenizer(find_model(distillation, spec.tokenizer or teacher.model), cache)
    served = digest({"model": teacher.model, "revision": teacher.revision})
    return CaptureIdentity(
        **kept, source="server", model=served, tokenizer=tokenizer, template=template, dtype="server"
    )


def draw_sets(distillation: Distillation) -> int:
    """Sets of draws: as declared, or one for each epoch of the student that trains longest."""
    if distillation.spec.logits.draw_sets is not None:
        return distillation.spec.logits.draw_sets
    epochs = [s.epochs for s in distillation.spec.students.values() if s.objective == "logit"]
    return max(1, math.ceil(max(epochs, default=1)))
