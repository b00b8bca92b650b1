"""What is written: the page, the report as data, every answer and the manifest, under a version of their content."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from xml.etree import ElementTree

import polars as pl
import pytest

from distill_dagster.lineage.manifests import read_manifest
from distill_dagster.project import Distillation
from distill_dagster.storage import read_current
from distill_dagster.variants.model import VariantsReport
from distill_dagster.variants.plot import trade_off_plot
from distill_dagster.variants.report import render_html
from distill_dagster.variants.write import Published, publish
from tests.fakes.anthropic_server import AnthropicServer, Reply
from tests.variants.conftest import Compared
from tests.variants.designs import SPEC, rows

Declare = Callable[..., Distillation]
Run = Callable[..., Compared]
HOSTILE = "\x00<script>alert(1)</script></style><style>body{display:none}</style>{{ 7*7 }} & \"quotes\" 'single'"


class Page(HTMLParser):
    """Tags, attributes and text as a browser would see them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def published(compared: Compared) -> Published:
    inquiry, scored, report = compared
    return publish(inquiry.distillation, report, scored)


def test_four_files_that_readers_find_through_the_pointer(compared: Compared) -> None:
    inquiry, scored, report = compared
    made = published(compared)

    current = read_current(inquiry.distillation.files.asset("variants"))
    assert current is not None
    assert current.version == made.version == made.folder.name
    assert {path.name for path in made.folder.iterdir()} == {
        "report.html",
        "report.json",
        "answers.parquet",
        "manifest.json",
    }
    assert VariantsReport.model_validate_json((made.folder / "report.json").read_text(encoding="utf-8")) == report
    assert pl.read_parquet(made.folder / "answers.parquet").equals(scored)


def test_the_manifest_leads_to_prompts_and_teachers(compared: Compared) -> None:
    inquiry, _, report = compared

    manifest = read_manifest(published(compared).folder)

    assert manifest["inputs"]["prompts/all"] == inquiry.versions["all"]
    assert manifest["inputs"]["teacher/opus"] == inquiry.questions[2].teacher.identity.digest
    assert manifest["counts"] == {"rows": 50, "designs": 3}
    assert manifest["details"]["headlines"] == report.headlines


def test_the_same_answers_are_the_same_version_and_other_metrics_another(
    declare: Declare, run: Run, compared: Compared
) -> None:
    source = rows(150, customers=110)
    again = published(run(declare(SPEC, rows__jsonl=source)))
    other = published(run(declare(SPEC.replace("[rouge_l, chrf]", "[chrf]"), rows__jsonl=source)))

    assert published(compared).version == again.version != other.version


def test_the_page_asks_nothing_of_the_network_and_runs_nothing(compared: Compared) -> None:
    source = published(compared).report_path.read_text(encoding="utf-8")
    page = Page(source)

    assert "script" not in page.tags
    assert not [a for a in page.attributes if a[0] in {"src", "srcset", "action"} or a[0].startswith("on")]
    assert [value for name, value in page.attributes if name == "href"] == ["data:,"]
    assert not re.search(r"https?://|@import|url\(", source)
    assert "prefers-color-scheme: dark" in source


def test_model_text_stays_text(declare: Declare, claude: AnthropicServer, run: Run) -> None:
    spec = SPEC.replace("Be brief.", json.dumps(HOSTILE.replace("\x00", "").replace("{{ 7*7 }}", "")))
    distillation = declare(spec, rows__jsonl=rows(40).replace("question 1", "<b>question</b> 1"))
    claude.script = lambda body, seen: Reply(text=f"{len(str(body))} {HOSTILE}")

    source = published(run(distillation, 10)).report_path.read_text(encoding="utf-8")
    page = Page(source)

    assert "script" not in page.tags
    assert page.tags.count("style") == 1
    assert "\x00" not in source
    shown = [text for text in page.texts if "<script>alert(1)</script>" in text]
    assert len(shown) > 20
    assert not any("49" in text for text in shown if "{{ 7*7 }}" not in text)


def test_the_plot_is_xml_with_its_numbers_in_words(compared: Compared) -> None:
    *_, report = compared
    cost, quality = report.measure("cost"), report.measure("rouge_l")
    assert cost is not None
    assert quality is not None

    title, description, *shapes = ElementTree.fromstring(trade_off_plot(cost, quality))

    assert (title.text, description.tag) == ("ROUGE-L against cost", "desc")
    assert "brief: cost $0.0" in (description.text or "")
    assert {"declared", "brief", "opus"} <= {shape.text for shape in shapes}
    assert trade_off_plot(cost, quality.model_copy(update={"designs": {}})) == ""


@pytest.mark.parametrize("wanted", [1, 2])
def test_a_row_or_two_make_a_page_without_intervals(declare: Declare, run: Run, wanted: int) -> None:
    _, scored, report = run(declare(SPEC, rows__jsonl=rows(40)), wanted)

    source = render_html(report, scored)

    assert f"asked about the same {wanted} of" in source
    assert ("no interval" in source) or wanted == 2
