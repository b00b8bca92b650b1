"""The judge's table as sentences, Markdown and a section of the page."""

from html.parser import HTMLParser

import polars as pl
from jinja2 import Template

from distill_dagster.evaluation import report
from distill_dagster.judging.verdicts import JudgeTable, judge_tables
from distill_dagster.judging.view import judge_findings, judge_markdown
from distill_dagster.spec.judge import PairJudgeSpec
from distill_dagster.spec.teacher import TeacherSpec
from tests.judging.declared import pairs
from tests.judging.test_outcomes import judged

HOSTILE = "</blockquote><script>alert(1)</script>{{ 7*7 }}"
WIN, LOSS, FLIP = ("student", "student"), ("other", "other"), ("student", "other")


def tables(model: str = "claude-opus-5-5", rubric: str = "Kind and true.") -> list[JudgeTable]:
    judge = PairJudgeSpec(provider="anthropic", model=model, rubric=rubric, against=["teacher", "base"])
    verdicts = [*[WIN] * 20, *[LOSS] * 4, *[FLIP] * 6, (None, None)]
    given, said = pairs(*[("mine", "their")] * len(verdicts)), judged(*verdicts)
    silent = pl.lit("base").alias("opponent")
    return judge_tables(
        pl.concat([said, judged((None, None)).with_columns(silent)]),
        pl.concat([given, pairs(("a", "b"), opponent="base")]),
        judge,
        TeacherSpec(provider="anthropic", model="claude-haiku-4-5"),
        0.95,
        17,
    )


def section(judge: list[JudgeTable]) -> str:
    environment = report._template().environment
    template: Template = environment.get_template("judge.html.j2")
    return str(template.module.judge_section(judge))  # type: ignore[attr-defined]


class Page(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_finding_says_rate_interval_verdict_and_flips() -> None:
    against_teacher, against_base = judge_findings(tables())

    assert against_teacher.startswith(
        "Judged by claude-opus-5-5 (anthropic) against the teacher, the student wins 76.7\N{NO-BREAK SPACE}% ["
    )
    assert "ties counted half (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}30 rows in 30 groups)" in against_teacher
    assert against_teacher.endswith(
        ": the student is preferred; 20.0\N{NO-BREAK SPACE}% of 30 decisive pairs flip with the order."
    )
    assert against_base == "Judged against the undistilled base: none of the pairs (n = 1) has a usable verdict."


def test_markdown_has_a_row_an_opponent_and_one_disclosure() -> None:
    lines = judge_markdown(tables()).splitlines()

    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4
    assert len({line.count("|") for line in rows}) == 1
    assert "| 20 / 6 / 4 |" in rows[2]
    assert rows[3].count("–") == 4
    assert sum("two models of one maker" in line for line in lines) == 1
    assert judge_markdown([]) == ""


def test_a_declared_name_makes_no_markdown_of_its_own() -> None:
    told = judge_markdown(tables(model="a|b\n# [x](http://y) <img>"))

    assert "\n#" not in told
    assert "a\\|b # \\[x\\](http://y) \\<img\\>" in told


def test_the_section_shows_both_opponents() -> None:
    page = Page(section(tables()))

    assert page.tags.count("section") == 1
    assert page.tags.count("tr") == 9
    assert "Against the teacher" in page.text
    assert "Against the undistilled base" in page.text
    assert "20 / 6 / 4" in page.text
    assert "better" in page.text
    assert "2 verdicts unreadable" in page.text
    assert "Kind and true." in page.text


def test_the_section_escapes_what_is_declared_and_is_empty_without_a_judge() -> None:
    source = section(tables(model=HOSTILE, rubric=HOSTILE))

    assert "script" not in Page(source).tags
    assert HOSTILE in Page(source).text
    assert section([]).strip() == ""
