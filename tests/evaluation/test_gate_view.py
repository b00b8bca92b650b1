"""How a page and Dagster show the gate: in words as well as in colour."""

import re
from xml.etree import ElementTree

import pytest

from distill_dagster.evaluation.gate import Decision, Status
from distill_dagster.evaluation.gate_view import banner, gate_facts, gate_plot, gate_rows
from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.model import GateVerdict
from distill_dagster.evaluation.predictions import build_predictions
from distill_dagster.evaluation.report import render_html
from distill_dagster.evaluation.score import evaluate
from tests.evaluation.conftest import HOSTILE


def decision(status: Status, rows_to_decide: int | None = None, low: float | None = -0.04) -> Decision:
    return Decision(
        status=status,
        reason="Not decided: on 40 golden rows …",
        difference=-0.01,
        low=low,
        high=None if low is None else 0.02,
        method="cluster_t",
        n=40,
        n_clusters=38,
        alpha=0.0125,
        rows_to_decide=rows_to_decide,
        base_would_pass=False,
    )


def verdict(status: Status | None = Status.PASS, **decisions: Decision) -> GateVerdict:
    return GateVerdict(
        metric="rouge_l",
        max_degradation=0.05,
        min_score=None,
        alpha=0.05,
        alpha_spent=0.0125,
        look=1,
        candidates=2,
        golden_set="90" * 32,
        unverified=3,
        status=status,
        statement="Said in full.",
        decisions={"all rows": decision(Status.PASS), **decisions} if status else {},
        scores={"all rows": {"teacher": 0.5, "student": 0.49, "base": 0.1}},
    )


@pytest.mark.parametrize(
    ("gate", "css", "word", "plain"),
    [
        (verdict(), "pass", "Pass", "no more against its teacher than was allowed"),
        (verdict(Status.FAIL), "fail", "Fail", "worse than was allowed"),
        (verdict(Status.INCONCLUSIVE), "inconclusive", "Inconclusive", "That is not a pass."),
        (verdict(None), "none", "Not a candidate", "not up for release"),
        (None, "none", "Not declared", "Nothing in this report says whether the student may be released."),
    ],
)
def test_the_banner_says_it_in_a_word_and_a_sentence(gate: GateVerdict | None, css: str, word: str, plain: str) -> None:
    shown = banner(gate)

    assert (shown.css, shown.word) == (css, word)
    assert plain in shown.plain
    assert shown.statement == "Said in full." if gate else "evaluation.gate" in shown.statement


def test_the_table_has_a_line_for_all_rows_and_for_each_slice() -> None:
    gate = verdict(Status.INCONCLUSIVE, en=decision(Status.INCONCLUSIVE, low=None))

    overall, english = gate_rows(gate)

    assert (overall.name, overall.word, overall.scores) == ("all rows", "pass", ["0.500", "0.490", "0.100"])
    assert (overall.low, overall.difference, overall.high) == ("−0.040", "−0.010", "+0.020")
    assert (english.low, english.scores, english.base) == ("–", ["–"] * 3, "would not pass")


def test_how_many_rows_are_wanting_is_said_where_it_is_open() -> None:
    def more(gate: GateVerdict) -> str:
        return dict(gate_facts(gate))["Golden rows more that would decide"]

    open_, unknown = decision(Status.INCONCLUSIVE, rows_to_decide=100), decision(Status.INCONCLUSIVE)
    alone = verdict(Status.INCONCLUSIVE).model_copy(update={"decisions": {"all rows": open_}})

    assert more(alone) == "about 60"
    assert more(verdict(Status.INCONCLUSIVE, en=open_, de=unknown)) == "en: about 60; de: not known"
    assert more(verdict()) == more(verdict(Status.FAIL, en=open_)) == "none"


def test_the_plot_sets_bounds_against_the_margin() -> None:
    plot = ElementTree.fromstring(gate_plot(verdict(Status.FAIL, en=decision(Status.FAIL))))
    lines = {element.get("class"): element for element in plot.iter("line")}

    bound, margin = lines["verdict-pass"], lines["margin"]
    assert float(margin.get("x1") or 0) < float(bound.get("x1") or 0) < float(bound.get("x2") or 0)
    assert "verdict-fail" in lines
    assert "all rows −0.010, at least −0.040, at most +0.020" in (plot[1].text or "")
    unknown = {"all rows": decision(Status.INCONCLUSIVE, low=None)}
    assert gate_plot(verdict().model_copy(update={"decisions": unknown})) == ""


def test_it_stands_at_the_top_of_the_page_and_once(inputs: EvaluationInputs) -> None:
    predictions = build_predictions(inputs.test, inputs.generated, inputs.fidelity, ["rouge_l", "chrf", "exact_match"])
    report = evaluate(inputs, predictions)
    gate = verdict(Status.FAIL, **{HOSTILE: decision(Status.FAIL)})
    gated = report.model_copy(update={"gate": gate, "headlines": [gate.statement, *report.headlines]})
    nothing: dict[str, dict[str, dict[str, float]]] = {"prediction": {}, "cost": {}, "training": {}, "capture": {}}

    page, plain = (render_html(one, predictions, nothing) for one in (gated, report))

    assert re.search(r'<main>\s*<section class="gate fail" aria-labelledby="gate">.*?>Fail</h2>', page, re.S)
    assert page.count("Said in full.") == 1
    assert "<script>" not in page
    assert re.search(r'<main>\s*<section class="gate none".*?>Not declared</h2>', plain, re.S)
    assert "Golden set version" not in plain
