"""`distill status` on releases: what is out, what is withheld and why, what is out against its verdict."""

import json
from typing import Any

import pytest

from distill_dagster.commands.status import print_status, status_of
from distill_dagster.evaluation.gate import Status
from distill_dagster.graph.instance_home import open_instance
from distill_dagster.graph.run import Runner
from distill_dagster.plan import Asset, Request
from distill_dagster.project import Distillation
from distill_dagster.releases.build import build_release
from distill_dagster.releases.candidate import read_candidate
from distill_dagster.releases.overrides import record_override
from tests.fakes.anthropic_server import AnthropicServer
from tests.graph.hosted import Declare
from tests.releases.shelf import STUDENT, declared, judge, train


@pytest.fixture
def trained(declare: Declare, claude: AnthropicServer, monkeypatch: pytest.MonkeyPatch) -> Distillation:
    monkeypatch.setenv("COLUMNS", "300")
    distillation = declared(declare)
    with open_instance(distillation.project) as instance:
        outcome = Runner(distillation, instance, lambda text: None).run(Request(until=Asset.DATASET))
    assert outcome.failure is None
    train(distillation)
    return distillation


def release_row(distillation: Distillation, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    print_status(status_of(distillation), as_json=True)
    (row,) = [row for row in json.loads(capsys.readouterr().out)["assets"] if row["asset"] == "release"]
    return dict(row)


def shown(distillation: Distillation, capsys: pytest.CaptureFixture[str]) -> str:
    print_status(status_of(distillation), as_json=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "release/" in line]
    return line


def test_each_state_of_a_release(trained: Distillation, capsys: pytest.CaptureFixture[str]) -> None:
    assert release_row(trained, capsys) == {
        "asset": "release",
        "name": STUDENT,
        "partition": None,
        "state": "due",
        "version": None,
        "why": "its verdict may change",
    }

    judge(trained, Status.INCONCLUSIVE)
    row = release_row(trained, capsys)
    assert (row["state"], row["version"]) == ("withheld", None)
    assert row["why"].startswith("the release of demo/small is withheld: Inconclusive on ROUGE-L.")
    assert "released" not in row

    judge(trained, Status.PASS)
    row = release_row(trained, capsys)
    assert (row["state"], row["why"]) == ("due", "its verdict allows it")

    build = build_release(trained, STUDENT)
    row = release_row(trained, capsys)
    assert (row["state"], row["version"], row["why"]) == ("current", build.release.version, None)
    assert row["released"] == {
        "student_version": build.release.student_version,
        "evaluation_version": build.release.evaluation_version,
        "folder": build.release.folder,
        "verdict": "pass",
        "override": None,
        "released_at": build.release.model_dump(mode="json")["released_at"],
    }

    judge(trained, Status.FAIL)
    row = release_row(trained, capsys)
    assert (row["state"], row["released"]["verdict"]) == ("withheld", "pass")

    record_override(trained, read_candidate(trained, STUDENT), "Legal needs it today.")
    build_release(trained, STUDENT)
    row = release_row(trained, capsys)
    assert row["state"] == "current"
    assert row["released"]["override"]["reason"] == "Legal needs it today."
    assert "OVERRIDDEN by" in shown(trained, capsys)
