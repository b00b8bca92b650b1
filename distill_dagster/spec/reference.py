"""Writes the YAML reference from the models: `python -m distill_dagster.spec.reference > docs/reference.md`."""

import sys
from collections.abc import Iterator
from typing import Any

from distill_dagster.spec.distillation import DistillationSpec

INTRODUCTION = """# YAML reference

Every key of `assets/<name>/defs.yaml`, below `attributes:`. This page is generated from the models that
validate the file; `python -m distill_dagster.spec.reference > docs/reference.md` writes it anew.
"""


def reference() -> str:
    """The whole page, as Markdown."""
    schema = DistillationSpec.model_json_schema()
    blocks = ["\n".join(_block("attributes", schema))]
    names = dict.fromkeys(_walk(schema, schema))
    blocks += ["\n".join(_block(_title(name), schema["$defs"][name])) for name in names]
    return INTRODUCTION + "\n" + "\n\n".join(blocks) + "\n"


def _block(title: str, block: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield " ".join(str(block.get("description", "")).split())
    yield ""
    yield "| key | type | default | |"
    yield "|---|---|---|---|"
    required = set(block.get("required", ()))
    for name, field in block.get("properties", {}).items():
        default = "**required**" if name in required else _default(field)
        description = " ".join(str(field.get("description", "")).split()).replace("|", "\\|")
        yield f"| `{name}` | {_type(field)} | {default} | {description} |"


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = _title(field["$ref"].rsplit("/", 1)[-1])
        return f"[{name}](#{name})"
    forms = field.get("anyOf") or field.get("oneOf")
    if forms:
        return " or ".join(dict.fromkeys(_type(form) for form in forms if form.get("type") != "null"))
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if "patternProperties" in field:
        return f"name → {_type(next(iter(field['patternProperties'].values())))}"
    limits = [f"{sign} {field[key]}" for key, sign in _LIMITS.items() if key in field]
    return " ".join([str(field.get("type", "any")), *limits])


_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if default is None or default in ({}, []):
        return "–"
    if isinstance(default, dict):
        return "see there"
    if isinstance(default, list):
        return ", ".join(f"`{value}`" for value in default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _title(name: str) -> str:
    """`PromptsSpec` → `prompts`."""
    stem = name.removesuffix("Spec")
    return "".join(
        f"_{letter.lower()}" if letter.isupper() and index else letter.lower() for index, letter in enumerate(stem)
    )


def _walk(block: dict[str, Any], schema: dict[str, Any]) -> Iterator[str]:
    """Names of blocks in the order in which the declaration refers to them, the parts of a block behind it."""
    for field in block.get("properties", {}).values():
        for reference_ in _references(field):
            yield reference_
            yield from _walk(schema["$defs"][reference_], schema)


def _references(field: dict[str, Any]) -> Iterator[str]:
    if "$ref" in field:
        yield field["$ref"].rsplit("/", 1)[-1]
    forms = [*field.get("anyOf", ()), *field.get("oneOf", ()), *field.get("patternProperties", {}).values()]
    for nested in [*forms, field["items"]] if "items" in field else forms:
        yield from _references(nested)


if __name__ == "__main__":
    sys.stdout.write(reference())
