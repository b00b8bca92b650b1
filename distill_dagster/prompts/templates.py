"""Jinja2 templates over a row's columns, in a sandbox where every unknown name is an error."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from distill_dagster.errors import TemplateError
from distill_dagster.prompts.rows import RowError, text_of

_GLOBALS = ("range", "namespace")  # of Jinja's own; `lipsum` is random, and a prompt must render the same twice


class _NullPrintedError(Exception):
    """A template printed a null value."""


@dataclass(frozen=True)
class Template:
    """A compiled template.

    Args:
        where: the key it stands under, for messages.
        columns: the columns it names.
        compiled: Jinja's own object.
    """

    where: str
    columns: frozenset[str]
    compiled: jinja2.Template

    def render(self, row: Mapping[str, Any]) -> str:
        """The text for one row; columns the row lacks are null.

        Lists and objects print as JSON, true and false as in JSON; printing a null is an error.

        Raises:
            RowError: the template cannot be rendered on this row.
        """
        values = {**dict.fromkeys(self.columns), **row}
        try:
            return self.compiled.render(values)
        except _NullPrintedError:
            null = sorted(name for name in self.columns if values[name] is None)
            seen = f"column {' or '.join(map(repr, null))}, which is null here" if null else "a null value"
            example = null[0] if null else "value"
            raise RowError(f"{self.where} prints {seen}; give it a value, or write {{{{ {example} or '' }}}}") from None
        except Exception as error:
            # A template is the user's code: an operation on a value of the wrong type raises whatever that type raises.
            raise RowError(f"{self.where} fails on this row: {error}") from None

    def check_columns(self, known: Iterable[str]) -> None:
        """Raises TemplateError where the template names a column that the source has not."""
        for name in sorted(self.columns.difference(known)):
            raise unknown_column(self.where, name, known)


def unknown_column(where: str, name: str, known: Iterable[str]) -> TemplateError:
    """The error for a column that the source has not: the known ones, and the likeliest one meant."""
    columns = sorted(known)
    close = difflib.get_close_matches(name, columns, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return TemplateError(f"{where}: the source has no column {name!r} (it has: {', '.join(columns) or 'none'}){hint}")


def compile_template(text: str, where: str) -> Template:
    """Compiles a template.

    Args:
        text: Jinja2 source; one newline at its end is not part of the prompt.
        where: the key it stands under, e.g. `prompts.prompt`.

    Raises:
        TemplateError: a syntax error, with its line; or the template includes, imports or extends another.
    """
    try:
        tree = _ENVIRONMENT.parse(text)
        for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            raise TemplateError(f"{where}: line {node.lineno}: one template cannot load another; write it out here")
        return Template(
            where, frozenset(meta.find_undeclared_variables(tree) - set(_GLOBALS)), _ENVIRONMENT.from_string(text)
        )
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"{where}: line {error.lineno}: {error.message}") from None
    except jinja2.TemplateError as error:
        raise TemplateError(f"{where}: {error}") from None


def _printed(value: Any) -> Any:
    if value is None:
        raise _NullPrintedError
    return text_of(value) if isinstance(value, (bool, list, dict)) else value


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=False, finalize=_printed
    )
    environment.globals = {name: environment.globals[name] for name in _GLOBALS}
    del environment.filters["random"]
    return environment


_ENVIRONMENT = _environment()
