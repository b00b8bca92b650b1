"""How a page shows the gate: the verdict in a word and a sentence, bounds against the margin, what it cost."""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from distill_dagster import drawing as draw
from distill_dagster.evaluation.formatting import UNDEFINED, count, number, shortened
from distill_dagster.evaluation.gate import Decision, Status
from distill_dagster.evaluation.model import GateVerdict, System
from distill_dagster.golden.rows import OVERALL

VERDICTS: Mapping[Status, str] = {Status.PASS: "Pass", Status.FAIL: "Fail", Status.INCONCLUSIVE: "Inconclusive"}
_PLAIN: Mapping[Status, str] = {
    Status.PASS: "The student is shown to lose no more against its teacher than was allowed beforehand.",
    Status.FAIL: "The student is shown to be worse than was allowed beforehand.",
    Status.INCONCLUSIVE: "The golden rows do not show whether the student is good enough. That is not a pass.",
}
_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _BOTTOM = 380.0, 92.0, 14.0, 22.0, 26.0, 22.0
_LABEL_CHARS = 14


@dataclass(frozen=True)
class Banner:
    """What stands at the top: `css` names its colour, `word` says the same without colour."""

    css: str
    word: str
    plain: str
    statement: str


@dataclass(frozen=True)
class GateRow:
    """A line of the table: all rows or a slice; numbers as texts."""

    name: str
    css: str
    word: str
    rows: str
    scores: list[str]
    difference: str
    low: str
    high: str
    base: str


def banner(gate: GateVerdict | None) -> Banner:
    """The verdict in a word, in a sentence for whoever decides, and in numbers."""
    if gate is None:
        return Banner(
            "none",
            "Not declared",
            "Nothing in this report says whether the student may be released.",
            "No gate is declared: evaluation.gate names a metric, and the loss that is acceptable on a golden set.",
        )
    if gate.status is None:
        return Banner("none", "Not a candidate", "The student is not up for release.", gate.statement)
    return Banner(gate.status.value, VERDICTS[gate.status], _PLAIN[gate.status], gate.statement)


def gate_rows(gate: GateVerdict) -> list[GateRow]:
    """All golden rows, then each slice."""
    return [_row(gate, name, decision) for name, decision in gate.decisions.items()]


def gate_facts(gate: GateVerdict) -> list[tuple[str, str]]:
    """What the verdict rests on and what it cost, as labels and values."""
    overall = gate.decisions[OVERALL]
    facts = [
        ("Loss that is allowed", number(gate.max_degradation, 3)),
        ("Score that is required", "none" if gate.min_score is None else number(gate.min_score, 3)),
        ("Golden rows that decide", f"{count(overall.n)} in {count(overall.n_clusters)} groups"),
        ("Golden rows not verified, left out", count(gate.unverified)),
        ("Golden rows more that would decide", _more(gate)),
        ("Undistilled base", _base(overall)),
        ("Look at these rows", count(gate.look)),
        ("Candidates that share alpha", count(gate.candidates)),
        ("Alpha in all", f"{gate.alpha:g}"),
        ("Alpha spent on this look", UNDEFINED if gate.alpha_spent is None else f"{gate.alpha_spent:.3g}"),
    ]
    return facts


def gate_plot(gate: GateVerdict) -> Markup:
    """Student less teacher with its bounds, against the line that must be cleared; empty where nothing has bounds."""
    shown = [(name, d, d.difference, d.low, d.high) for name, d in gate.decisions.items()]
    known = [(name, d, at, low, high) for name, d, at, low, high in shown if None not in (at, low, high)]
    if not known:
        return Markup("")
    line = -gate.max_degradation
    ends = [end for *_, low, high in known for end in (low, high) if end is not None]
    lowest, highest = min(line, *ends), max(0.0, *ends)
    pad = 0.06 * (highest - lowest) or 0.01

    def x(value: float) -> float:
        share = (value - lowest + pad) / (highest - lowest + 2 * pad)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    bottom = _TOP + _ROW * len(known)
    parts = [draw.line(x(0), _TOP, x(0), bottom, "grid"), draw.line(x(line), _TOP, x(line), bottom, "margin")]
    parts += [draw.text(x(line), _TOP - 8, "loss allowed", "tick", _anchor(x(line)))]
    parts += [draw.text(x(value), bottom + 16, f"{number(value, 3)}", "tick", "middle") for value in _marks(line)]
    for index, (name, decision, at, low, high) in enumerate(known):
        y = _TOP + _ROW * (index + 0.5)
        parts.append(draw.text(0, y + 4, shortened(name, _LABEL_CHARS)))
        parts.append(draw.line(x(low or 0.0), y, x(high or 0.0), y, f"verdict-{decision.status.value}"))
        parts.append(draw.circle(x(at or 0.0), y, 4.8, "fill-student"))
    return draw.svg(
        _WIDTH, bottom + _BOTTOM, "Student less teacher, against the loss that is allowed", _told(gate), parts
    )


def _row(gate: GateVerdict, name: str, decision: Decision) -> GateRow:
    means = gate.scores.get(name, {})
    return GateRow(
        name=name,
        css=decision.status.value,
        word=VERDICTS[decision.status].lower(),
        rows=f"{count(decision.n)} in {count(decision.n_clusters)} groups",
        scores=[number(means.get(system), 3) for system in (System.TEACHER, System.STUDENT, System.BASE)],
        difference=number(decision.difference, 3, signed=True),
        low=number(decision.low, 3, signed=True),
        high=number(decision.high, 3, signed=True),
        base=_base(decision),
    )


def _base(decision: Decision) -> str:
    if decision.base_would_pass is None:
        return "not measured"
    return "would pass as well" if decision.base_would_pass else "would not pass"


def _more(gate: GateVerdict) -> str:
    """How many rows are wanting, of all or of each slice that is open."""
    if gate.status is not Status.INCONCLUSIVE:
        return "none"
    wanting = {name: d for name, d in gate.decisions.items() if d.status is Status.INCONCLUSIVE}
    told = {
        name: "not known" if d.rows_to_decide is None else f"about {count(d.rows_to_decide - d.n)}"
        for name, d in wanting.items()
    }
    if len(gate.decisions) > 1:
        return "; ".join(f"{name}: {more}" for name, more in told.items()) or "none"
    return told.get(OVERALL, "none")


def _marks(line: float) -> list[float]:
    return sorted({line, 0.0})


def _anchor(x: float) -> str:
    """Where a label at `x` goes, so that it stays inside."""
    return "start" if x < _LEFT + 40 else "end" if x > _WIDTH - 50 else "middle"


def _told(gate: GateVerdict) -> str:
    rows = "; ".join(f"{row.name} {row.difference}, at least {row.low}, at most {row.high}" for row in gate_rows(gate))
    return f"{rows}. A loss of {number(gate.max_degradation, 3)} is allowed."
