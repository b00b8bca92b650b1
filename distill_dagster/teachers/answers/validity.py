"""What an answer has to be: one of the declared labels, or JSON that matches the declared schema."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, SchemaRegistry, SchemaResource

from distill_dagster.errors import SpecError, StorageError
from distill_dagster.lineage.hashing import canonical_json
from distill_dagster.metrics import label_form
from distill_dagster.spec.answers import JsonSchema
from distill_dagster.storage import contained
from distill_dagster.teachers.protocol import ResponseStatus

INVALID_LABEL = "invalid_label"
INVALID_JSON = "invalid_json"
SHARE_DIGITS = 6

_KEY = "teacher.json_schema"
# Without it the validator would fetch a `$ref` from the network.
_NOTHING_ELSE: SchemaRegistry = Registry()


def load_schema(json_schema: JsonSchema, folder: Path, project_root: Path, key: str = _KEY) -> dict[str, Any]:
    """A declared JSON Schema (draft 2020-12), as the request carries it and as answers are validated.

    Args:
        json_schema: the schema, or the name of a JSON file relative to `folder`.
        folder: the YAML file's folder.
        project_root: a file outside it is refused.
        key: where in the YAML it is declared.

    Raises:
        SpecError: the file is missing, outside the project or not a JSON object, or the schema is not valid or refers
            to something that is not in it.
    """
    where = f"{key}: {json_schema}" if isinstance(json_schema, str) else key
    schema = _read(json_schema, folder, project_root, key) if isinstance(json_schema, str) else json_schema
    try:
        canonical_json(schema)
    except (TypeError, ValueError) as error:
        raise SpecError(
            f"{where}: not JSON ({error}); write texts, numbers, true, false, null, lists, objects"
        ) from None
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise SpecError(f"{where}: not a valid JSON Schema at {error.json_path}: {error.message}") from None
    root: SchemaResource = DRAFT202012.create_resource(schema)
    for reference in _dangling(root, _NOTHING_ELSE.resolver_with_root(root), set()):
        raise SpecError(
            f"{where}: $ref {reference!r} is not in the schema, and nothing is fetched; put it under $defs and write "
            "#/$defs/NAME"
        )
    return schema


def check_labels(labels: Sequence[str]) -> dict[str, str]:
    """Each declared label by the form in which answers are compared.

    Raises:
        SpecError: two of them have one form.
    """
    known: dict[str, str] = {}
    for label in labels:
        first = known.setdefault(label_form(label), label)
        if first != label:
            raise SpecError(
                f"teacher.labels: {first!r} and {label!r} differ only in what is ignored (case, quotes, asterisks, a "
                "full stop), so answers could not tell; reword one"
            )
    return known


def is_judged() -> pl.Expr:
    """Whether a row (status, completion) has an answer that can be right or wrong."""
    ended = pl.col("status").is_in([ResponseStatus.ANSWERED.value, ResponseStatus.TRUNCATED.value])
    return ended.fill_null(False) & (pl.col("completion").fill_null("").str.strip_chars() != "")


def check_answers(rows: pl.DataFrame, labels: Sequence[str] | None, schema: Mapping[str, Any] | None) -> pl.DataFrame:
    """Adds `problem` (`invalid_label`, `invalid_json` or null) and `label` (as declared, or null).

    An answer is a label if it equals one after NFKC, case-folding, and dropping quotes or asterisks around it and one
    full stop at its end. JSON is parsed as it stands: a fence around it is a mistake, since a student would learn it.

    Args:
        rows: status, completion; only answered and truncated rows with a text are judged.
        labels: the declared labels.
        schema: the declared schema, as `load_schema` returns it.

    Raises:
        SpecError: two labels cannot be told apart.
    """
    label = problem = pl.lit(None, dtype=pl.String)
    if labels is not None:
        known = check_labels(labels)
        found = _each(_judged_texts(rows), lambda text: known.get(label_form(text)), pl.String())
        label = pl.lit(found)
        problem = pl.when(is_judged() & label.is_null()).then(pl.lit(INVALID_LABEL))
    elif schema is not None:
        is_valid = _each(_judged_texts(rows), json_matcher(schema), pl.Boolean())
        problem = pl.when(~pl.lit(is_valid)).then(pl.lit(INVALID_JSON))
    return rows.with_columns(problem=problem, label=label)


def json_matcher(schema: Mapping[str, Any]) -> Callable[[str], bool]:
    """A test whether a text is JSON that matches the schema; it never opens a connection."""
    validator = Draft202012Validator(dict(schema), registry=_NOTHING_ELSE)

    def matches(text: str) -> bool:
        try:
            return bool(validator.is_valid(json.loads(text, parse_constant=_no_constant)))
        except (ValueError, OverflowError, RecursionError):
            return False

    return matches


def label_shares(rows: pl.DataFrame) -> pl.Series:
    """How a prompt's samples are spread over the labels: canonical JSON {label: share}, the same on all its rows.

    Args:
        rows: prompt_id, label; all samples of each prompt. Rows without a label do not count.

    Returns:
        Text series `label_shares`; null where a prompt has no row with a label.
    """
    counts = rows.filter(pl.col("label").is_not_null()).group_by("prompt_id", "label").agg(count=pl.len())
    counts = counts.with_columns(total=pl.col("count").sum().over("prompt_id"))
    members = counts.select("label", "count", "total").unique()
    members = members.with_columns(member=pl.Series(map(_member, *members.iter_columns()), dtype=pl.String))
    shares = (
        counts.join(members, on=["label", "count", "total"])
        .sort("prompt_id", "label")
        .group_by("prompt_id")
        .agg(label_shares=pl.lit("{") + pl.col("member").str.join(",") + pl.lit("}"))
    )
    return rows.select("prompt_id").join(shares, on="prompt_id", how="left", maintain_order="left")["label_shares"]


def _member(label: str, count: int, total: int) -> str:
    return canonical_json({label: round(count / total, SHARE_DIGITS)})[1:-1]


def _judged_texts(rows: pl.DataFrame) -> pl.Series:
    return rows.select(pl.when(is_judged()).then("completion")).to_series()


def _each(texts: pl.Series, function: Callable[[str], Any], dtype: pl.DataType) -> pl.Series:
    """The function of each text, called once for equal ones; null for null."""
    distinct = texts.drop_nulls().unique()
    results = pl.Series(map(function, distinct), dtype=dtype)
    return texts.replace_strict(distinct, results, default=None, return_dtype=dtype)


def _read(name: str, folder: Path, project_root: Path, key: str) -> dict[str, Any]:
    try:
        path = contained(project_root, str((folder / name).absolute()))
    except StorageError as error:
        raise SpecError(f"{key}: {error}") from None
    if not path.is_file():
        raise SpecError(f"{key}: no file {name!r} in {folder}; write it or correct the name")
    try:
        schema = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise SpecError(f"{key}: {name}:{error.lineno}: not valid JSON ({error.msg}, column {error.colno})") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{key}: {name}: not valid JSON ({error}); save it as UTF-8 JSON") from None
    if not isinstance(schema, dict):
        raise SpecError(f'{key}: {name}: write an object like {{"type": "object", …}}, not {type(schema).__name__}')
    return schema


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null")


def _dangling(schema: SchemaResource, resolver: Any, seen: set[int]) -> Iterator[str]:
    """References that lead nowhere, in a (sub)schema and in whatever it refers to."""
    contents = schema.contents
    if id(contents) in seen:
        return
    seen.add(id(contents))
    if isinstance(contents, dict):
        for reference in (contents[key] for key in ("$ref", "$dynamicRef") if key in contents):
            try:
                target = resolver.lookup(reference)
            except Unresolvable:
                yield reference
            else:
                yield from _dangling(DRAFT202012.create_resource(target.contents), target.resolver, seen)
    for inner in schema.subresources():
        yield from _dangling(inner, resolver.in_subresource(inner), seen)
