"""Reads a `defs.yaml` into its model, with every mistake anchored to file and line.

The `distill` command uses it without importing Dagster; the component validates the same models.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from pydantic import ValidationError

from distill_dagster.errors import SpecError
from distill_dagster.spec.distillation import DistillationSpec

COMPONENT_TYPE = "distill_dagster.Distillation"
KeyPath: TypeAlias = tuple[str | int, ...]


def load_spec(path: Path) -> DistillationSpec:
    """The distillation declared in `path`.

    Raises:
        SpecError: the file is missing, is not YAML, repeats a key, declares something else, or does not validate.
    """
    document = _compose(path)
    check_duplicate_keys(path, document)
    content = _Loader("").construct_document(document)
    lines = dict(_lines(document))
    if not isinstance(content, dict) or content.get("type") != COMPONENT_TYPE:
        raise SpecError(f"{path}:1: write `type: {COMPONENT_TYPE}` and its `attributes:`")
    try:
        return DistillationSpec.model_validate(content.get("attributes") or {})
    except ValidationError as error:
        raise SpecError(_explain(path, error, lines)) from None


def check_duplicate_keys(path: Path, document: yaml.Node | None = None) -> None:
    """Two values under one key: YAML keeps the last silently, so it is an error here.

    Raises:
        SpecError: naming both lines.
    """
    problems = [
        f"{path}:{again}: {'.'.join(map(str, key))} is written twice (first on line {first}); keep one"
        for key, first, again in _duplicates(document if document is not None else _compose(path), ())
    ]
    if problems:
        raise SpecError("\n".join(problems))


def key_line(path: Path, keys: Sequence[KeyPath]) -> int:
    """The line (from 1) of the first of some keys below `attributes` that a file has; 1 where it has none of them.

    Raises:
        SpecError: the file is missing, or is not YAML.
    """
    lines = _lines_of(path, path.stat().st_mtime_ns)
    return next((lines[at] for key in keys if (at := ("attributes", *key)) in lines), 1)


@lru_cache(maxsize=64)
def _lines_of(path: Path, changed_ns: int) -> dict[KeyPath, int]:
    return dict(_lines(_compose(path)))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, used on an already composed document."""


def _compose(path: Path) -> yaml.Node:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    try:
        documents = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    if len(documents) != 1:
        raise SpecError(f"{path}:1: one distillation a file (seen: {len(documents)} documents)")
    return documents[0]


def _duplicates(node: yaml.Node, at: KeyPath) -> Iterator[tuple[KeyPath, int, int]]:
    if isinstance(node, yaml.MappingNode):
        first_line: dict[str, int] = {}
        for key_node, value in node.value:
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in first_line:
                yield (*at, key), first_line[key], line
            first_line.setdefault(key, line)
            yield from _duplicates(value, (*at, key))
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, (*at, index))


def _lines(node: yaml.Node, at: KeyPath = ()) -> Iterator[tuple[KeyPath, int]]:
    """Every key's path below `attributes`, with its line."""
    if isinstance(node, yaml.MappingNode):
        for key_node, value in node.value:
            path = (*at, str(key_node.value))
            yield path, key_node.start_mark.line + 1
            yield from _lines(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*at, index), item.start_mark.line + 1
            yield from _lines(item, (*at, index))


def _explain(path: Path, error: ValidationError, lines: dict[KeyPath, int]) -> str:
    messages = []
    for problem in error.errors():
        # Parts in brackets are pydantic's, not keys: `[key]`, and which form of a value was tried.
        at: KeyPath = ("attributes", *(part for part in problem["loc"] if not str(part).startswith("[")))
        messages.append(f"{path}:{_nearest(at, lines)}: {_sentence(at, problem)}")
    return "\n".join(dict.fromkeys(messages))


def _nearest(at: KeyPath, lines: dict[KeyPath, int]) -> int:
    for length in range(len(at), 0, -1):
        if at[:length] in lines:
            return lines[at[:length]]
    return 1


def _sentence(at: KeyPath, problem: Any) -> str:
    where = ".".join(map(str, at[1:])) or "attributes"
    kind = problem["type"]
    if kind == "extra_forbidden":
        return f"{where}: unknown key; remove it or correct its name{_suggestion(at)}"
    if kind == "missing":
        return f"{where}: missing; write a value"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "value_error":
        return f"{where}: {message}" if at[1:] else message
    return f"{where}: {message[:1].lower()}{message[1:]} (seen: {_short(problem['input'])})"


def _suggestion(at: KeyPath) -> str:
    import difflib

    known = _fields_at(at[1:-1])
    close = difflib.get_close_matches(str(at[-1]), known, n=1)
    return f" (did you mean `{close[0]}`?)" if close else f" (known: {', '.join(known)})" if known else ""


def _fields_at(at: KeyPath) -> list[str]:
    """Field names of the model at a path, found through the JSON schema."""
    schema = DistillationSpec.model_json_schema()
    node: dict[str, Any] = schema
    for part in at:
        node = node.get("properties", {}).get(part) or node.get("additionalProperties") or _item(node)
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return list(node.get("properties", {}))


def _item(node: dict[str, Any]) -> dict[str, Any]:
    """What a list holds; of several forms the block, which alone has fields."""
    item: dict[str, Any] = node.get("items") or {}
    return next((form for form in item.get("oneOf", ()) if "$ref" in form), item)


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
