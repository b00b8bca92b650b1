"""The errors a user can meet; every message says where, what was seen and what to write instead."""


class DistillError(Exception):
    """Base of all errors that are the user's to mend; shown as one message, never as a traceback."""


class ProjectError(DistillError):
    """No project, or no such distillation in it."""


class SpecError(DistillError):
    """A declaration in YAML that cannot be right; the message is anchored to file and line."""


class SourceError(DistillError):
    """A prompt source that cannot be read, or a row in it that cannot be a prompt."""


class TemplateError(DistillError):
    """A prompt template that fails on a row or names a column that is not there."""


class TeacherError(DistillError):
    """The teacher cannot be asked at all (missing key, bad credentials, spent budget, no such model)."""


class UnavailableError(TeacherError):
    """The teacher's API does not answer now; waiting may be enough."""


class BudgetError(TeacherError):
    """The next request could cost more than the distillation may still spend."""


class PlanError(DistillError):
    """A run would ask the teacher more than its plan says."""


class DatasetError(DistillError):
    """The dataset cannot be built: partitions missing, or nothing left to train on."""


class LogitsError(DistillError):
    """Captured logits are missing, torn, or of another teacher."""


class StudentError(DistillError):
    """A student cannot be trained as declared."""


class EvaluationError(DistillError):
    """An evaluation cannot be made as declared."""


class CatalogError(DistillError):
    """A query or a name that the catalog of stored rows cannot answer."""


class WorkerError(DistillError):
    """The worker process ended without finishing its job."""


class StorageError(DistillError):
    """An artifact on disk is missing, torn or not what its manifest says."""


class ReleaseWithheldError(DistillError):
    """The gate keeps a student from being released; whatever was released before stays so.

    Attributes:
        reason: why, in a word for programs.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
