"""The reference page is what the models say."""

from pathlib import Path

from distill_dagster.spec.reference import reference


def test_the_page_has_not_drifted() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "reference.md"

    assert page.read_text(encoding="utf-8") == reference()
