"""Publishes a comparison under `variants/<version>/`: the page, the report as data, every answer, the manifest."""

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from distill_dagster.lineage.builds import build_key
from distill_dagster.lineage.hashing import VERSION_HEX_CHARS, digest, frame_version
from distill_dagster.lineage.manifests import Manifest, spec_hash, write_manifest
from distill_dagster.project import Distillation
from distill_dagster.storage import Current, new_folder, write_current, write_file, write_json
from distill_dagster.variants.model import VariantsReport
from distill_dagster.variants.report import render_html

ASSET = "variants"
STAGE_NUMBER = 1
ANSWERS_FILE = "answers.parquet"
REPORT_JSON_FILE = "report.json"
REPORT_HTML_FILE = "report.html"


@dataclass(frozen=True)
class Published:
    """Where a comparison lies."""

    version: str
    folder: Path

    @property
    def report_path(self) -> Path:
        """The page."""
        return self.folder / REPORT_HTML_FILE


def publish(distillation: Distillation, report: VariantsReport, scored: pl.DataFrame) -> Published:
    """Writes a comparison and points `variants/current.json` at it.

    The version hashes the compared rows and report.json: the rows alone would not do, since a metric or a confidence
    level changes the report without changing an answer.
    """
    content = json.loads(report.model_dump_json())
    version = digest({"rows": frame_version(scored, scored.columns), "report": content})[:VERSION_HEX_CHARS]
    page = render_html(report, scored)
    folder = distillation.files.asset(ASSET) / version
    manifest = _manifest(distillation, report, version)
    with new_folder(folder) as aside:
        write_file(aside / ANSWERS_FILE, lambda path: scored.write_parquet(path, compression="zstd"))
        write_json(aside / REPORT_JSON_FILE, content)
        write_file(aside / REPORT_HTML_FILE, lambda path: path.write_text(page, encoding="utf-8"))
        write_manifest(aside, manifest)
    write_current(distillation.files.asset(ASSET), Current(version, manifest.build_key))
    return Published(version, folder)


def _manifest(distillation: Distillation, report: VariantsReport, version: str) -> Manifest:
    inputs = {f"prompts/{partition}": prompts for partition, prompts in report.prompts.items()}
    inputs |= {f"teacher/{design.name}": design.identity for design in report.designs}
    settings = {
        "designs": {design.name: design.changes for design in report.designs},
        "rows": report.rows,
        "evaluation": distillation.spec.evaluation.model_dump(mode="json"),
    }
    return Manifest(
        distillation=distillation.name,
        asset=ASSET,
        version=version,
        build_key=build_key(ASSET, STAGE_NUMBER, inputs, settings),
        inputs=inputs,
        spec_hash=spec_hash(distillation.spec),
        counts={"rows": report.rows, "designs": len(report.designs)},
        details={"headlines": report.headlines},
    )
