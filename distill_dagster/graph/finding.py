"""What a check comes to, and the two ways in which Dagster hears of it: logged by a step, or run alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import polars as pl

from distill_dagster.project import Distillation
from distill_dagster.storage import read_current

SCHEMA = "schema"
_SHOWN = 10


@dataclass(frozen=True)
class Finding:
    """What a check came to."""

    passed: bool
    description: str
    metadata: Mapping[str, dg.MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """A check of an asset; it blocks nothing.

    Attributes:
        description: what it is about, in a sentence.
        find: looks at what lies on disk now.
    """

    asset: dg.AssetKey
    name: str
    description: str
    find: Callable[[], Finding]
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.WARN

    def evaluation(self) -> dg.AssetCheckEvaluation:
        """The check, evaluated now, for a step to log."""
        finding = self.find()
        return dg.AssetCheckEvaluation(
            asset_key=self.asset,
            check_name=self.name,
            passed=finding.passed,
            severity=self.severity,
            description=finding.description,
            metadata=dict(finding.metadata),
        )

    def definition(self) -> dg.AssetChecksDefinition:
        """The check as Dagster shows it, to be run alone or behind its asset."""

        @dg.asset_check(asset=self.asset, name=self.name, description=self.description)
        def check() -> dg.AssetCheckResult:
            finding = self.find()
            return dg.AssetCheckResult(
                passed=finding.passed,
                severity=self.severity,
                description=finding.description,
                metadata=dict(finding.metadata),
            )

        return check


def alone(checks: Iterable[Check]) -> list[dg.AssetChecksDefinition]:
    """The checks as definitions of their own."""
    return [check.definition() for check in checks]


def partition_files(distillation: Distillation, asset: str) -> Iterator[Path]:
    """The Parquet file of each current partition of an asset; it may be missing."""
    for partition in distillation.files.partitions(asset):
        folder = distillation.files.asset(asset, partition)
        current = read_current(folder)
        if current is not None:
            yield folder / f"{current.version}.parquet"


def schema_finding(files: Iterable[Path], schema: Mapping[str, object]) -> Finding:
    """Whether stored files are there, with the columns and types that readers expect; reads their footers.

    Args:
        schema: column → Polars type.
    """
    wanted = dict(schema)
    looked, wrong = 0, []
    for file in files:
        looked += 1
        found = dict(pl.read_parquet_schema(file)) if file.is_file() else {}
        differing = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
        if differing:
            wrong.append({"file": f"{file.parent.name}/{file.name}", "columns": ", ".join(differing)})
    files_ = f"{looked:,} file{'' if looked == 1 else 's'}"
    if not wrong:
        return Finding(True, f"{files_} with the {len(wanted)} declared columns")
    return Finding(
        False,
        f"{len(wrong):,} of {files_} have other columns than this version writes; materialise them again",
        {"files": table(wrong[:_SHOWN])},
    )


def table(rows: Sequence[Mapping[str, str | int | float]]) -> dg.MetadataValue:
    """A table of at least one row; its columns are the first row's keys."""
    columns = [dg.TableColumn(name) for name in rows[0]]
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows], dg.TableSchema(columns))
