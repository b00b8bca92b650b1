"""What the pages of the package share: their templates' settings, texts and estimates in the space of a table cell."""

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from distill_dagster.evaluation import formatting
from distill_dagster.evaluation.formatting import count
from distill_dagster.evaluation.statistics import BOOTSTRAP_MIN_CLUSTERS, BOOTSTRAP_RESAMPLES, Estimate, Method

OWN_TEMPLATES = "distill_dagster.evaluation"
SHOWN_CHARACTERS = 4_000
_METHOD_MARKS = {Method.CLUSTER_BOOTSTRAP: "boot", Method.CLUSTER_T: "t", Method.WELCH_T: "Welch"}
# C0 controls (but tab and newline) and DEL have no meaning in HTML: shown as their Unicode pictures.
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}


def page_environment(*packages: str, **known: Any) -> Environment:
    """Templates that escape every text and know what all pages need; a name that nobody knows is an error.

    Args:
        packages: whose `templates/` are looked through before the evaluation's, which have the style sheet.
        known: what the templates know besides, or know otherwise.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, OWN_TEMPLATES)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        BOOTSTRAP_MIN_CLUSTERS=BOOTSTRAP_MIN_CLUSTERS,
        BOOTSTRAP_RESAMPLES=BOOTSTRAP_RESAMPLES,
        METHOD_LABELS=formatting.METHOD_LABELS,
        UNDEFINED=formatting.UNDEFINED,
        UNIT_LABELS=formatting.UNIT_LABELS,
        count=count,
        number=formatting.number,
        quantity=formatting.quantity,
        interval=formatting.interval,
        basis=basis,
    )
    environment.globals.update(known)
    return environment


def without_controls(source: str) -> str:
    """A page's source with pictures in place of control characters."""
    return source.translate(_CONTROL_PICTURES)


def basis(estimate: Estimate) -> str:
    """`n 71/65 · boot`: rows, groups and method."""
    mark = _METHOD_MARKS.get(estimate.method, "no interval")
    return f"n {count(estimate.n)}/{count(estimate.n_clusters)} · {mark}"


def shown_text(text: str) -> str:
    """A model's or a user's text with its line breaks made plain, cut with notice where it is very long."""
    visible = text.replace("\r\n", "\n")
    if len(visible) <= SHOWN_CHARACTERS:
        return visible
    return f"{visible[:SHOWN_CHARACTERS]}… ({count(len(visible) - SHOWN_CHARACTERS)} more characters)"
