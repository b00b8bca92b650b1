"""DuckDB over everything that is stored: views over the Parquet files and the response store, no copies, read-only.

A view such as `prompts` shows the current versions; `prompts_all` shows every version on disk. A query can read the
catalog's distillations and nothing else, and writes nothing.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import duckdb
import polars as pl

from distill_dagster.catalog.facts import (
    dataset_inputs_frame,
    datasets_frame,
    evaluations_frame,
    releases_frame,
    students_frame,
)
from distill_dagster.catalog.stored import Kind, StoredVersion, stored_distillations, stored_versions
from distill_dagster.dataset.curate import DROPPED_SCHEMA
from distill_dagster.dataset.files import DATASET_SCHEMA
from distill_dagster.errors import CatalogError
from distill_dagster.evaluation.predictions import BASE_COLUMNS
from distill_dagster.evaluation.write import PREDICTIONS_FILE
from distill_dagster.golden.build import GOLDEN_SCHEMA
from distill_dagster.logits.index import INDEX_SCHEMA
from distill_dagster.project import Project
from distill_dagster.prompts.splits import Split
from distill_dagster.prompts.store import PROMPTS_SCHEMA
from distill_dagster.storage import DistillationFolder, read_current
from distill_dagster.teachers.outputs_file import OUTPUTS_SCHEMA
from distill_dagster.teachers.store.scan import FACTS, ResponsesScan

_FILES_SCHEMA = {
    "file": pl.String,
    "distillation": pl.String,
    "partition": pl.String,
    "student": pl.String,
    "version": pl.String,
    "current": pl.Boolean,
    "split": pl.String,
    "build_key": pl.String,
}


@dataclass(frozen=True)
class _View:
    """A view over Parquet files.

    Attributes:
        labels: what is known of a row from where its file lies; columns of `_FILES_SCHEMA` that the file has not.
        schema: the file's columns as written today; files may have more, and older ones fewer.
    """

    name: str
    labels: Sequence[str]
    schema: Mapping[str, Any]


_VIEWS = (
    _View("prompts", ("distillation", "version"), PROMPTS_SCHEMA),
    _View("teacher_outputs", ("distillation", "partition", "version"), OUTPUTS_SCHEMA),
    _View("logits", ("distillation", "partition", "version"), INDEX_SCHEMA),
    _View("dataset", ("distillation", "version", "split"), DATASET_SCHEMA),
    _View("golden_set", ("distillation", "version"), GOLDEN_SCHEMA),
    _View("dropped", ("distillation", "build_key"), DROPPED_SCHEMA),
    _View("predictions", ("distillation", "student", "version"), BASE_COLUMNS),
)
_BY_KIND = {
    Kind.PROMPTS: "prompts",
    Kind.TEACHER_OUTPUTS: "teacher_outputs",
    Kind.TEACHER_LOGITS: "logits",
    Kind.GOLDEN_SET: "golden_set",
}


class Catalog:
    """The views, open for queries; close it, or use it in a `with` block."""

    def __init__(self, project: Project, only: Iterable[str] | None = None) -> None:
        """Args:
        project: whose `DISTILL_HOME`.
        only: these distillations; default: all that are stored.

        Raises:
            ProjectError: nothing is stored of one of them.
            StorageError: a manifest cannot be read.
        """
        self.home = project.home
        self.folders = stored_distillations(project.home, only)
        self._connection = duckdb.connect(":memory:")
        self._execute("SET TimeZone = 'UTC'")
        self._execute("SET python_enable_replacements = false")
        self._spill = tempfile.TemporaryDirectory(prefix="distill-sql-")  # where what outgrows the memory goes
        self._execute(f"SET temp_directory = {_quoted(self._spill.name)}")
        files = _files(self.folders)
        for view in _VIEWS:
            self._add_view(view, files[view.name])
        self._add_facts()
        self.store_url = project.store_url
        self._connection.register("responses", ResponsesScan(self.store_url))
        self._connection.register("response_facts", ResponsesScan(self.store_url, FACTS))
        self._lock(project)

    def __enter__(self) -> "Catalog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()
        self._spill.cleanup()

    def select(self, query: str, parameters: Sequence[Any] = ()) -> Any:
        """The relation of one SELECT, to be read in batches.

        Raises:
            CatalogError: it is not one SELECT, or DuckDB cannot run it.
        """
        text = one_select(query)
        try:
            # As a subquery: what is no SELECT cannot stand there, whatever it parsed as.
            return self._connection.sql(f"SELECT * FROM (\n{text}\n)", params=list(parameters) or None)
        except duckdb.Error as error:
            raise CatalogError(_said(error)) from None

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """All rows of a small result.

        Raises:
            CatalogError: as for `select`.
        """
        relation = self.select(query, parameters)
        try:
            found = relation.fetchall()
        except duckdb.Error as error:
            raise CatalogError(_said(error)) from None
        return [dict(zip(relation.columns, row, strict=True)) for row in found]

    def _add_view(self, view: _View, files: pl.DataFrame) -> None:
        """`<name>_all`, and `<name>` without the versions that are not current."""
        template = {**{name: _FILES_SCHEMA[name] for name in view.labels}, "current": pl.Boolean, **view.schema}
        self._register_table(f"no_{view.name}", pl.DataFrame(schema=template))
        self._register_table(f"files_of_{view.name}", files)
        current = files.filter("current")["file"].to_list()
        self._execute(f"CREATE VIEW {view.name}_all AS {_union(view, files['file'].to_list())}")
        self._execute(f"CREATE VIEW {view.name} AS SELECT * EXCLUDE (current) FROM ({_union(view, current)})")

    def _add_facts(self) -> None:
        """`students`, `evaluations`, `datasets`, `dataset_inputs` with their `…_all`, and `releases`."""
        frames = {
            "students": students_frame(self.folders),
            "evaluations": evaluations_frame(self.folders),
            "datasets": datasets_frame(self.folders),
            "dataset_inputs": dataset_inputs_frame(self.folders),
        }
        for name, frame in frames.items():
            self._register_table(f"{name}_all", frame, internal=False)
            self._execute(f"CREATE VIEW {name} AS SELECT * EXCLUDE (current) FROM {name}_all WHERE current")
        self._register_table("releases", releases_frame(self.folders), internal=False)

    def _register_table(self, name: str, frame: pl.DataFrame, *, internal: bool = True) -> None:
        if internal:
            self._execute("CREATE SCHEMA IF NOT EXISTS internal")
        self._connection.register("frame", frame.to_arrow(compat_level=pl.CompatLevel.oldest()))
        self._execute(f"CREATE TABLE {'internal.' if internal else ''}{name} AS SELECT * FROM frame")
        self._connection.unregister("frame")

    def _lock(self, project: Project) -> None:
        """From here on only the distillations' files can be read, and no setting can be changed."""
        allowed = ", ".join(_quoted(str(folder.root)) for folder in self.folders)
        self._execute(f"SET allowed_directories = [{allowed}]")
        for setting in ("autoinstall_known_extensions", "autoload_known_extensions", "enable_external_access"):
            self._execute(f"SET {setting} = false")
        self._execute("SET lock_configuration = true")

    def _execute(self, statement: str) -> None:
        self._connection.execute(statement)


def one_select(query: str) -> str:
    """The text of the one SELECT that a query has to be.

    Raises:
        CatalogError: it is none, more than one, or something else.
    """
    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise CatalogError(_said(error)) from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        raise CatalogError(f"the catalog answers one SELECT at a time and changes nothing; this is {kinds}")
    return str(statements[0].query).strip().rstrip(";")


def _union(view: _View, files: list[str]) -> str:
    """The rows of files with their labels; the template gives the columns where there is no file."""
    nothing = f"SELECT * FROM internal.no_{view.name}"
    if not files:
        return nothing
    listed = ", ".join(map(_quoted, files))
    labels = ", ".join(f"place.{name}" for name in (*view.labels, "current"))
    return (
        f"{nothing} UNION ALL BY NAME SELECT {labels}, rows.* EXCLUDE (place_file) FROM "
        f"read_parquet([{listed}], union_by_name = true, filename = 'place_file') AS rows "
        f"JOIN internal.files_of_{view.name} AS place ON rows.place_file = place.file"
    )


def _files(folders: Iterable[DistillationFolder]) -> dict[str, pl.DataFrame]:
    """The Parquet files of each view with their labels."""
    rows: dict[str, list[dict[str, Any]]] = {view.name: [] for view in _VIEWS}
    for folder in folders:
        for one in stored_versions(folder):
            for view, row in _rows_of(one):
                rows[view].append({"distillation": one.distillation, "version": one.version, **row})
        rows["dropped"] += _dropped(folder)
    return {name: pl.DataFrame(found, schema=_FILES_SCHEMA) for name, found in rows.items()}


def _rows_of(one: StoredVersion) -> Iterable[tuple[str, dict[str, Any]]]:
    if one.kind in _BY_KIND:
        yield _BY_KIND[one.kind], {"file": str(one.path), "partition": one.name, "current": one.current}
    elif one.kind is Kind.DATASET:
        for split in Split:
            path = one.path / f"{split.value}.parquet"
            if path.is_file():
                yield "dataset", {"file": str(path), "split": split.value, "current": one.current}
    elif one.kind is Kind.EVALUATIONS and (one.path / PREDICTIONS_FILE).is_file():
        path = one.path / PREDICTIONS_FILE
        yield "predictions", {"file": str(path), "student": one.name, "current": one.current}


def _dropped(folder: DistillationFolder) -> list[dict[str, Any]]:
    root = folder.asset(Kind.DATASET)
    current = read_current(root)
    key = current.build_key if current is not None else None
    return [
        {"file": str(path), "distillation": folder.name, "build_key": path.stem, "current": path.stem == key}
        for path in sorted((root / "dropped").glob("[!.]*.parquet"))
    ]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _said(error: Exception) -> str:
    return str(error).strip()
