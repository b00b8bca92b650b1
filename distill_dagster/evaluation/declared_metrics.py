"""The metrics of a declaration, ready to score: built-in ones, patterns, JSON schemas and the user's own functions."""

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import regex

from distill_dagster.errors import EvaluationError
from distill_dagster.evaluation.formatting import shortened
from distill_dagster.lineage.hashing import sha256_text
from distill_dagster.lineage.model_digest import digest_model
from distill_dagster.lineage.model_folder import local_model
from distill_dagster.metrics import MACRO_F1_FACTS, METRICS, Metric, MetricFacts, Row, Score, label_form
from distill_dagster.prompts.source_python import UserFunction
from distill_dagster.spec.distillation import DistillationSpec
from distill_dagster.spec.metrics import MACRO_F1, MetricName, MetricSpec, metric_name
from distill_dagster.teachers.answers.validity import json_matcher, load_schema

KEY = "evaluation.metrics"
REGEX_TIMEOUT_S = 5.0
Similarities: TypeAlias = Mapping[tuple[str, str], float]
"""Of (text, other text), from 0 to 1."""
ROW_KEYS = ("prompt_id", "group_id", "partition", "text", "reference", "completion")
_SHOWN_PATTERN = 60


def metric_facts(entry: MetricName | MetricSpec) -> MetricFacts:
    """What a declared metric is; no file is read."""
    if isinstance(entry, str):
        return MACRO_F1_FACTS if entry == MACRO_F1 else METRICS[entry]
    name = metric_name(entry)
    if entry.regex is not None:
        return MetricFacts(name, name, f"the answer matches {shortened(entry.regex, _SHOWN_PATTERN)}", False)
    if entry.json_schema is not None:
        return MetricFacts(name, name, f"the answer is JSON of the schema {entry.json_schema}", False)
    if entry.embedding_similarity is not None:
        of = f"{entry.embedding_similarity} at {entry.revision}" if entry.revision else entry.embedding_similarity
        return MetricFacts(name, name, f"cosine of embeddings by {of}", True)
    return MetricFacts(name, name, f"by {entry.python}", entry.needs_reference)


@contextmanager
def open_metrics(
    spec: DistillationSpec,
    folder: Path | None,
    project_root: Path | None,
    similarities: Mapping[str, Similarities] = MappingProxyType({}),
) -> Generator[Mapping[str, Metric], None, None]:
    """The declared metrics with a score per row, by name; while the block runs, user functions may import neighbours.

    Args:
        folder: the YAML file's folder, where schema files and modules lie.
        project_root: schema files outside it are refused.
        similarities: what embedding models make of the texts that will be scored, by the metric's name.

    Raises:
        EvaluationError: no such function, or the module's own code raised.
        SpecError: a schema that is missing, outside the project or not valid.
    """
    with ExitStack() as stack:
        metrics = {}
        for entry in spec.evaluation.metrics:
            facts = metric_facts(entry)
            if entry == MACRO_F1:
                continue
            if entry == "label_accuracy" and spec.teacher.labels:
                score = _declared_label(spec.teacher.labels)
            elif isinstance(entry, str):
                score = METRICS[entry].score
            elif entry.regex is not None:
                score = _matches(facts.name, entry.regex)
            elif entry.embedding_similarity is not None:
                score = _looked_up(similarities[facts.name])
            elif folder is None or project_root is None:
                raise EvaluationError(f"{KEY}: {facts.name}: its file cannot be found without the YAML file's folder")
            elif entry.json_schema is not None:
                score = _schema(load_schema(entry.json_schema, folder, project_root, f"{KEY}.{facts.name}"))
            else:
                function = UserFunction(KEY, str(entry.python), folder, EvaluationError)
                score = _users(facts.name, function, stack.enter_context(function.loaded()))
            metrics[facts.name] = Metric(facts.name, facts.label, facts.description, facts.needs_reference, score)
        yield metrics


def metric_sources(
    spec: DistillationSpec, folder: Path, project_root: Path, digests: Path | None = None
) -> dict[str, Any]:
    """What decides declared metrics' scores beyond the `evaluation:` block, as JSON values, for a build key.

    Empty where no metric reads a file or the declared labels. Of a Python metric the module's own file counts, not what
    it imports; of an embedding model on this machine its weights, and of one of the hub its declared revision.

    Args:
        digests: where digests of large files are remembered.

    Raises:
        EvaluationError, SpecError: as `open_metrics` for files that are missing.
    """
    sources: dict[str, Any] = {}
    for entry in spec.evaluation.metrics:
        name = metric_name(entry)
        if isinstance(entry, str):
            if entry in ("label_accuracy", MACRO_F1) and spec.teacher.labels:
                sources[name] = list(spec.teacher.labels)
        elif entry.json_schema is not None:
            sources[name] = load_schema(entry.json_schema, folder, project_root, f"{KEY}.{name}")
        elif entry.python is not None:
            path = UserFunction(KEY, entry.python, folder, EvaluationError).path
            sources[name] = sha256_text(path.read_text(encoding="utf-8"))
        elif entry.embedding_similarity is not None:
            model = local_model(folder, project_root, entry.embedding_similarity)
            if model is not None:
                sources[name] = digest_model(model, digests).version
    return sources


def score_of(metric: Metric, prediction: str | None, reference: str | None, row: Row) -> float | None:
    """A row's score: 0 for an answer that is missing, None where there is no reference and one is needed."""
    if reference is None and metric.needs_reference:
        return None
    return 0.0 if prediction is None else metric.score(prediction, reference if metric.needs_reference else None, row)


def _declared_label(labels: list[str]) -> Score:
    known = {label_form(label) for label in labels}

    def score(prediction: str, reference: str | None, row: Row) -> float:
        said = label_form(prediction)
        return float(reference is not None and said in known and said == label_form(reference))

    return score


def _matches(name: str, pattern: str) -> Score:
    compiled = regex.compile(pattern)

    def score(prediction: str, reference: str | None, row: Row) -> float:
        try:
            return float(compiled.search(prediction, timeout=REGEX_TIMEOUT_S) is not None)
        except TimeoutError:
            raise EvaluationError(
                f"{KEY}: {name}: prompt {row['prompt_id']!r}: the pattern took more than {REGEX_TIMEOUT_S:g} s; "
                "write it without nested repetitions"
            ) from None

    return score


def _looked_up(similarities: Similarities) -> Score:
    return lambda prediction, reference, row: similarities[prediction, str(reference)]


def _schema(schema: Mapping[str, Any]) -> Score:
    matches = json_matcher(schema)
    return lambda prediction, reference, row: float(matches(prediction))


def _users(name: str, function: UserFunction, call: Callable[..., Any]) -> Score:
    """The user's function of (prediction, reference, row).

    An exception's own text is left out of the message, because it may quote the prompt.
    """

    def score(prediction: str, reference: str | None, row: Row) -> float:
        where = f"{KEY}: {name}: prompt {row['prompt_id']!r}"
        try:
            value = call(prediction, reference, MappingProxyType(dict(row)))
        except Exception as error:
            # The user's own code may raise anything: told are kind and line.
            told = f"{type(error).__name__} at {function.place(error)}"
            raise EvaluationError(f"{where}: {told}; mend the function") from None
        number = float(value) if isinstance(value, Real) and 0 <= value <= 1 else None  # type: ignore[operator]
        if number is None:
            seen = value if isinstance(value, Real) else type(value).__name__
            raise EvaluationError(f"{where}: return a number from 0 to 1 (seen: {seen})")
        return number

    return score
