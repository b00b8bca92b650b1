"""What differs between two versions of a dataset, row by row: the same prompt and sample in both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill_dagster.catalog.catalog import Catalog
from distill_dagster.errors import CatalogError

ASSET = "dataset"
CURRENT = "current"
SHORT = 8
EXAMPLES = 10
CHANGES = ("added", "removed", "moved", "answer_changed", "prompt_changed", "reference_changed")
NOT_A_PROMPT = "no longer a prompt"


@dataclass(frozen=True)
class DiffSide:
    """One of the two versions; rows by split."""

    version: str
    current: bool
    rows: Mapping[str, int]


@dataclass(frozen=True)
class DiffRow:
    """A row that differs."""

    prompt_id: str
    sample: int
    split_a: str | None
    split_b: str | None


@dataclass(frozen=True)
class DatasetDiff:
    """Two versions of a dataset.

    Attributes:
        unchanged: rows that are the same in both; a row may have changed in more than one way.
        counts: rows by change, all of CHANGES; `moved` is to another split.
        removed_why: of the removed rows, how many B's build dropped for which reason.
        partitions: those whose prompts or answers have another version in B.
        examples: the first rows by change.
    """

    distillation: str
    a: DiffSide
    b: DiffSide
    unchanged: int
    counts: Mapping[str, int]
    removed_why: Mapping[str, int]
    partitions: Sequence[str]
    examples: Mapping[str, Sequence[DiffRow]]


def find_dataset(catalog: Catalog, distillation: str, reference: str) -> str | None:
    """The dataset version that `dataset`, `dataset@version` or a bare version names; None where it names none.

    A version may be cut short; without one it is the current one.

    Raises:
        CatalogError: it names a dataset, and there is none such, or more than one.
    """
    stored = catalog.rows(
        "SELECT version, current FROM datasets_all WHERE distillation = ? ORDER BY version", distillation
    )
    asset, _, version = reference.partition("@")
    if asset == ASSET:
        is_current = version in ("", CURRENT)
        found = [one for one in stored if (one["current"] if is_current else one["version"].startswith(version))]
    else:
        found = [one for one in stored if not version and one["version"].startswith(reference)]
        if not found:
            return None
    if len(found) != 1:
        known = ", ".join(f"{ASSET}@{one['version'][:SHORT]}" for one in found or stored) or "none"
        why = "more than one dataset is called" if found else "no dataset is called"
        raise CatalogError(f"{distillation}: {why} {reference!r} (stored: {known})")
    return str(found[0]["version"])


def diff_datasets(catalog: Catalog, distillation: str, a: str, b: str) -> DatasetDiff:
    """B against A.

    Args:
        a, b: whole versions, as `find_dataset` gives them.
    """
    both = (distillation, a, b)
    tests = ", ".join(f"count(*) FILTER ({change})::BIGINT AS {change}" for change in CHANGES)
    unchanged = f"count(*) FILTER (NOT ({' OR '.join(CHANGES)}))::BIGINT AS unchanged"
    [counts] = catalog.rows(f"SELECT {tests}, {unchanged} FROM ({diff_query()})", *both)
    shown = "prompt_id, sample, split_a, split_b"
    examples = {
        change: [
            DiffRow(**row)
            for row in catalog.rows(
                f"SELECT {shown} FROM ({diff_query()}) WHERE {change} ORDER BY prompt_id, sample LIMIT {EXAMPLES}",
                *both,
            )
        ]
        for change in CHANGES
        if counts[change]
    }
    return DatasetDiff(
        distillation=distillation,
        a=_side(catalog, distillation, a),
        b=_side(catalog, distillation, b),
        unchanged=counts["unchanged"],
        counts={change: counts[change] for change in CHANGES},
        removed_why=_removed_why(catalog, distillation, a, b),
        partitions=_changed_partitions(catalog, distillation, a, b),
        examples=examples,
    )


def diff_query() -> str:
    """Every row of A or B: its key, the CHANGES as booleans, and its columns on both sides.

    Parameters: $1 the distillation, $2 and $3 the versions A and B.
    """
    pairs = {
        "answer_changed": "a.completion IS DISTINCT FROM b.completion",
        "prompt_changed": "a.messages IS DISTINCT FROM b.messages",
        "reference_changed": "a.reference IS DISTINCT FROM b.reference",
        "moved": "a.split <> b.split",
    }
    in_both = "a.prompt_id IS NOT NULL AND b.prompt_id IS NOT NULL"
    tests = ", ".join(f"coalesce({in_both} AND {test}, false) AS {name}" for name, test in pairs.items())
    columns = ", ".join(
        f"a.{name} AS {name}_a, b.{name} AS {name}_b" for name in ("split", "text", "completion", "reference")
    )
    rows = "SELECT * FROM dataset_all WHERE distillation = $1 AND version"
    return (
        "SELECT coalesce(a.prompt_id, b.prompt_id) AS prompt_id, coalesce(a.sample, b.sample) AS sample, "
        f"a.prompt_id IS NULL AS added, b.prompt_id IS NULL AS removed, {tests}, {columns} "
        f"FROM ({rows} = $2) AS a FULL JOIN ({rows} = $3) AS b "
        "ON a.prompt_id = b.prompt_id AND a.sample = b.sample"
    )


def _side(catalog: Catalog, distillation: str, version: str) -> DiffSide:
    rows = catalog.rows(
        "SELECT split, current, count(*) AS rows FROM dataset_all WHERE distillation = ? AND version = ? "
        "GROUP BY ALL ORDER BY split",
        distillation,
        version,
    )
    return DiffSide(version, any(row["current"] for row in rows), {row["split"]: row["rows"] for row in rows})


def _removed_why(catalog: Catalog, distillation: str, a: str, b: str) -> dict[str, int]:
    rows = catalog.rows(
        f"""
        SELECT coalesce(d.reason, '{NOT_A_PROMPT}') AS reason, count(*) AS rows
        FROM ({diff_query()}) AS x LEFT JOIN dropped_all d
            ON d.distillation = $1 AND d.prompt_id = x.prompt_id AND d.sample IS NOT DISTINCT FROM x.sample
            AND d.build_key = (SELECT max(build_key) FROM datasets_all WHERE distillation = $1 AND version = $3)
        WHERE removed GROUP BY ALL ORDER BY rows DESC, reason
        """,
        distillation,
        a,
        b,
    )
    return {row["reason"]: row["rows"] for row in rows}


def _changed_partitions(catalog: Catalog, distillation: str, a: str, b: str) -> list[str]:
    rows = catalog.rows(
        """
        SELECT DISTINCT partition FROM (
            SELECT asset, partition, input_version FROM dataset_inputs_all
            WHERE distillation = $1 AND version IN ($2, $3) AND partition IS NOT NULL
            GROUP BY ALL HAVING count(DISTINCT version) = 1
        ) WHERE $2 <> $3 ORDER BY partition
        """,
        distillation,
        a,
        b,
    )
    return [row["partition"] for row in rows]
