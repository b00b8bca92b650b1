"""What answers cost, and the plot of quality against it."""

import dataclasses
import itertools
import json
import re
from decimal import Decimal
from pathlib import Path
from xml.etree import ElementTree

import pytest

from distill_dagster.evaluation.cost import SECONDS, USD, answer_costs
from distill_dagster.evaluation.cost_plot import trade_plot
from distill_dagster.evaluation.inputs import EvaluationInputs
from distill_dagster.evaluation.model import EvaluationReport
from distill_dagster.evaluation.statistics import Estimate, Method
from distill_dagster.evaluation.trade import Trade, TradePoint, find_trade
from distill_dagster.evaluation.write import write_evaluation
from tests.evaluation.probed import asked_again, declared

TIMINGS = {"teacher": {"answers": 32.0, "seconds": 8.0}, "student": {"answers": 100.0, "seconds": 9.0}}
PRICE = {"usd_per_hour": "2.40"}


def written(folder: Path, inputs: EvaluationInputs) -> tuple[EvaluationReport, dict[str, dict[str, float]], str]:
    report = write_evaluation(folder, inputs)
    costs = json.loads((folder / "measurements.json").read_text(encoding="utf-8"))["cost"]
    return report, costs, (folder / "report.html").read_text(encoding="utf-8")


def paid(inputs: EvaluationInputs) -> EvaluationInputs:
    """The same with a teacher that charges."""
    results = {name: result for name, result in inputs.results.items() if name != "teacher"}
    versions = inputs.versions.model_copy(update={"teacher": None})
    return dataclasses.replace(
        inputs, results=results, versions=versions, fidelity=None, teacher_usd_per_1000_answers=1.83
    )


def point(system: str, cost: float, value: float) -> TradePoint:
    return TradePoint(system, cost, Estimate(value, value - 0.02, value + 0.02, 71, 65, Method.CLUSTER_BOOTSTRAP))


def texts(trade: Trade) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(trade_plot(trade)).iter("text")]


def row_of(page: str, label: str) -> list[str]:
    """The cells behind a label in the first table that has it."""
    row = re.search(f'<tr><th scope="row">{label}</th>(.*?)</tr>', page)
    assert row is not None
    return [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?</td>", row[1])]


def name_box(text: ElementTree.Element) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a name, about."""
    x, base, width = float(text.get("x", "")), float(text.get("y", "")), 6.9 * len(text.text or "")
    left = x - {"start": 0, "middle": width / 2, "end": width}[text.get("text-anchor", "")]
    return left, base - 10, left + width, base + 2


def test_time_becomes_dollars_at_the_declared_price() -> None:
    assert answer_costs(TIMINGS, None, None) == {"teacher": {SECONDS: 250.0}, "student": {SECONDS: 90.0}}
    priced = answer_costs(TIMINGS, None, Decimal("3.6"))
    assert priced["student"][USD] == pytest.approx(0.09)
    assert priced["teacher"][USD] == pytest.approx(0.25)


def test_a_hosted_teacher_costs_what_it_charged_and_no_seconds() -> None:
    student = {"student": TIMINGS["student"], "base": {"tokens_per_second": 3.0}}

    assert answer_costs(student, 1.83, None) == {"student": {SECONDS: 90.0}, "teacher": {USD: 1.83}}


def test_no_figure_of_a_stopwatch_is_in_the_report(tmp_path: Path, inputs: EvaluationInputs) -> None:
    report, costs, page = written(tmp_path, declared(inputs, cost=PRICE))

    assert report.machine_usd_per_hour == 2.4
    assert costs["student"][SECONDS] == pytest.approx(2000 / 412.5 / 71 * 1000)
    assert costs["student"][USD] == pytest.approx(costs["student"][SECONDS] / 3600 * 2.4)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert not any(name in text for name in (SECONDS, f'"{USD}"'))
    assert "Models on this machine cost $2.40 an hour" in page


def test_in_dollars_where_two_systems_have_them_else_in_seconds(tmp_path: Path, inputs: EvaluationInputs) -> None:
    cases = {
        "local": (inputs, SECONDS, {"teacher", "student", "base"}),
        "priced": (declared(inputs, cost=PRICE), USD, {"teacher", "student", "base"}),
        "hosted": (paid(inputs), SECONDS, {"student", "base"}),
        "hosted and priced": (declared(paid(inputs), cost=PRICE), USD, {"teacher", "student", "base"}),
    }
    for name, (case, cost, systems) in cases.items():
        report, costs, page = written(tmp_path / name, case)
        trade = find_trade(report, costs)
        assert trade is not None
        assert (trade.cost, {one.system for one in trade.points}) == (cost, systems), name
        assert (trade.label, trade.against) == ("ROUGE-L", "against human references")
        assert page.index("Quality against cost") < page.index("Findings")
        quality = report.measure("quality", "rouge_l")
        assert quality is not None
        assert all(one.quality == quality.systems[one.system] for one in trade.points)


def test_fewer_than_two_systems_are_no_trade(tmp_path: Path, inputs: EvaluationInputs) -> None:
    alone = {"student": inputs.results["student"]}

    report, costs, page = written(tmp_path, dataclasses.replace(inputs, results=alone))

    assert find_trade(report, costs) is None
    assert trade_plot(None) == ""
    assert "Quality against cost" not in page


def test_without_references_closeness_is_plotted_and_the_teacher_is_a_line(
    tmp_path: Path, hosted: EvaluationInputs
) -> None:
    priced = declared(dataclasses.replace(hosted, teacher_usd_per_1000_answers=1.83), cost=PRICE)
    report, costs, page = written(tmp_path / "once", priced)
    once = find_trade(report, costs)
    report, costs, again = written(tmp_path / "twice", asked_again(priced))
    twice = find_trade(report, costs)

    assert once is not None
    assert twice is not None
    assert (once.against, once.teacher_cost) == ("against the teacher’s answers", 1.83)
    assert "the teacher’s cost" in texts(once)
    assert {one.system for one in once.points} == {"student", "base"}
    assert {one.system for one in twice.points} == {"teacher_again", "student", "base"}
    assert twice.teacher_cost is None
    assert row_of(page, "Teacher") == ["–", "$1.83", "–"]
    assert row_of(again, "Teacher, asked again")[1:] == ["$1.83", "–"]
    assert {"Teacher, asked again", "ROUGE-L, from 0 to 1"} <= set(texts(twice))


def test_the_axis_is_logarithmic_from_ten_times_on() -> None:
    def trade(*costs: float) -> Trade:
        return Trade("chrF", "", USD, {}, [point(f"student/{cost:g}", cost, 0.5) for cost in costs], None)

    assert "dollars per 1,000 answers" in texts(trade(0.2, 1.9))
    assert "dollars per 1,000 answers, logarithmic" in texts(trade(0.2, 2.1))
    wide = texts(trade(0.001, 40))
    assert 2 <= len([text for text in wide if text.startswith("$")]) <= 6
    assert "dollars per 1,000 answers" in texts(trade(0, 5))  # a cost of nothing has no logarithm


def test_marks_stand_where_the_numbers_are() -> None:
    points = [point("teacher", 2.0, 0.6), point("student", 1.0, 0.5), point("base", 1.5, 0.2)]

    root = ElementTree.fromstring(trade_plot(Trade("chrF", "", USD, {}, points, None)))

    circles = {element.get("class"): element for element in root.iter("circle")}
    student, base = circles["fill-student"], circles["ring-base"]
    assert float(student.get("cx", "")) < float(base.get("cx", ""))
    assert float(student.get("cy", "")) < float(base.get("cy", ""))
    bars = [element for element in root.iter("line") if str(element.get("class")).startswith("stroke-")]
    assert len(bars) == 3
    assert "Student: $1.00, 0.500 [0.480, 0.520]" in str(root[1].text).replace("\N{NO-BREAK SPACE}", " ")


def test_names_do_not_cover_one_another() -> None:
    names = [f"student_{number}" for number in range(5)]
    points = [point(f"student/{name}", 1.0 + index / 100, 0.5 + index / 300) for index, name in enumerate(names)]

    root = ElementTree.fromstring(trade_plot(Trade("chrF", "", USD, {}, points, None)))

    boxes = [name_box(e) for e in root.iter("text") if e.text in names]
    assert len(boxes) == len(names)
    for one, other in itertools.combinations(boxes, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1], (one, other)
    assert all(left >= 0 and right <= 380 for left, _, right, _ in boxes)


def test_a_name_does_not_cover_an_interval() -> None:
    points = [point("student", 1.0, 0.5), point("student/soft", 1.02, 0.5), point("teacher", 2.0, 0.6)]

    root = ElementTree.fromstring(trade_plot(Trade("chrF", "", USD, {}, points, None)))

    bars = [e for e in root.iter("line") if str(e.get("class")).startswith("stroke-")]
    boxes = [name_box(e) for e in root.iter("text") if e.text in ("Student", "soft", "Teacher")]
    assert (len(bars), len(boxes)) == (3, 3)
    for bar, (left, top, right, bottom) in itertools.product(bars, boxes):
        x, low, high = (float(bar.get(name, "")) for name in ("x1", "y1", "y2"))
        assert not (left < x < right and high < bottom and top < low)


def test_ticks_of_one_axis_have_the_same_decimals() -> None:
    costs = texts(Trade("chrF", "", USD, {}, [point("student", 0.023, 0.5), point("teacher", 0.037, 0.6)], None))

    assert {"$0.025", "$0.030", "$0.035"} <= set(costs)


def test_names_are_escaped_and_cut() -> None:
    points = [point("student/" + "<b>" * 12, 1.0, 0.5), point("base", 2.0, 0.4)]

    (long,) = [text for text in texts(Trade("chrF", "", SECONDS, {}, points, None)) if text.startswith("<b>")]

    assert long == f"{('<b>' * 12)[:19]}…"
