"""Rows of every kind of source, and the place named for each row that cannot be read."""

import datetime as dt
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from distill_dagster.errors import SourceError
from distill_dagster.prompts.rows import SourceBatch, parse_row
from distill_dagster.prompts.sources import read_source
from distill_dagster.spec.prompts import PromptsSpec


def read(folder: Path, source: dict[str, str], **prompts: Any) -> SourceBatch:
    """All batches of a source as one."""
    spec = PromptsSpec.model_validate({"source": source, "prompt": "{{ q }}", **prompts})
    batches = list(read_source(spec, folder, folder.parent.parent))
    return SourceBatch(
        frame=pl.concat(batch.frame for batch in batches),
        columns=frozenset().union(*(batch.columns for batch in batches)),
        bad=tuple(row for batch in batches for row in batch.bad),
    )


def values(batch: SourceBatch) -> list[dict[str, Any]]:
    return [parse_row(row) for row in batch.frame["row"]]


def test_jsonl_keeps_types_scripts_and_missing_keys(folder: Path, write_rows: Callable[..., Path]) -> None:
    rows = [
        {"q": "こんにちは"},
        {"q": "مرحبا 🙂", "n": 1},
        {"q": 2.5, "tags": ["a", {"b": None}]},
        {"q": None, "n": True},
    ]
    write_rows(rows)

    batch = read(folder, {"jsonl": "*.jsonl"})

    assert values(batch) == [*rows[:3], {"n": True}]
    assert batch.columns == {"q", "n", "tags"}
    assert batch.frame["where"].to_list() == [f"rows.jsonl:{line}" for line in (1, 2, 3, 4)]


def test_a_row_reads_the_same_whatever_its_neighbours_hold(folder: Path, write_rows: Callable[..., Path]) -> None:
    write_rows([{"q": 1}], "alone.jsonl")
    write_rows([{"q": 1}, {"q": "text"}, {"q": 0.5, "more": 1}], "mixed.jsonl")

    batch = read(folder, {"jsonl": "*.jsonl"})

    assert batch.frame["row"][0] == batch.frame["row"][1] == '{"q":1}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"q": "a"', "not valid JSON"),
        ('["a"]', "must be a JSON object"),
        ('{"q": NaN}', "NaN is not JSON"),
        ('{"q": "\\ud800"}', "lone surrogate"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_malformed_line_is_named(folder: Path, write_rows: Callable[..., Path], line: str, reason: str) -> None:
    write_rows([{"q": "good"}, "", line, {"q": "also good"}])

    batch = read(folder, {"jsonl": "*.jsonl"})

    assert [str(row).split(": ")[0] for row in batch.bad] == ["rows.jsonl:3"]
    assert reason in batch.bad[0].reason
    assert len(values(batch)) == 2


def test_invalid_utf8_and_a_byte_order_mark(folder: Path) -> None:
    (folder / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"q": "a"}\r\n{"q": "\xff"}\n{"q": "b"}')

    batch = read(folder, {"jsonl": "*.jsonl"})

    assert values(batch) == [{"q": "a"}, {"q": "b"}]
    assert [row.where for row in batch.bad] == ["rows.jsonl:2"]
    assert "not valid UTF-8 at byte 8" in batch.bad[0].reason


def test_rows_over_the_limit_are_bad_and_the_next_line_is_read(folder: Path, write_rows: Callable[..., Path]) -> None:
    write_rows([{"q": "x" * 120}, {"q": "y" * 5000}, {"q": "ok"}])

    batch = read(folder, {"jsonl": "*.jsonl"}, max_row_bytes=100)

    assert values(batch) == [{"q": "ok"}]
    assert [row.where for row in batch.bad] == ["rows.jsonl:1", "rows.jsonl:2"]
    assert all("max_row_bytes (100)" in row.reason for row in batch.bad)


def test_the_limit_counts_utf8_not_escapes(folder: Path, write_rows: Callable[..., Path]) -> None:
    write_rows([json.dumps({"q": "漢" * 25})])

    assert not read(folder, {"jsonl": "*.jsonl"}, max_row_bytes=100).bad


def test_many_rows_come_in_batches(folder: Path, write_rows: Callable[..., Path]) -> None:
    write_rows({"q": i} for i in range(45_000))
    spec = PromptsSpec.model_validate({"source": {"jsonl": "*.jsonl"}, "prompt": "{{ q }}"})

    heights = [batch.frame.height for batch in read_source(spec, folder, folder)]

    assert heights == [20_000, 20_000, 5_000]


def test_no_file_is_an_error(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"no file matches 'prompts/\*\.jsonl'"):
        read(folder, {"jsonl": "prompts/*.jsonl"})


def test_files_outside_the_project_are_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.jsonl"
    outside.write_text('{"q": "secret"}\n')
    (folder / "link.jsonl").symlink_to(outside)

    for pattern in ("*.jsonl", "../../../*.jsonl"):
        with pytest.raises(SourceError, match="outside the project"):
            read(folder, {"jsonl": pattern})
    with pytest.raises(SourceError, match="not a pattern relative to"):
        read(folder, {"jsonl": str(outside)})


def test_files_elsewhere_in_the_project_are_read_sorted(folder: Path) -> None:
    data = folder.parent.parent / "data"
    data.mkdir()
    for name in ("b", "a"):
        (data / f"{name}.jsonl").write_text(f'{{"q": "{name}"}}\n')

    assert values(read(folder, {"jsonl": "../../data/*.jsonl"})) == [{"q": "a"}, {"q": "b"}]


def test_csv_cells_are_text_and_ragged_lines_are_bad(folder: Path) -> None:
    text = 'q,n\n"two\nlines, one cell",1\nonly one\n,007\n"unclosed,3\n'
    (folder / "rows.csv").write_text(text, encoding="utf-8-sig")

    batch = read(folder, {"csv": "rows.csv"})

    assert values(batch) == [{"q": "two\nlines, one cell", "n": "1"}, {"q": "", "n": "007"}]
    assert [row.where for row in batch.bad] == ["rows.csv:4", "rows.csv:6"]
    assert "1 cells under 2 columns" in batch.bad[0].reason
    assert "not valid CSV" in batch.bad[1].reason


def test_csv_with_invalid_utf8_names_the_line(folder: Path) -> None:
    (folder / "rows.csv").write_bytes(b"q\nfine\nb\xe9d\n")

    batch = read(folder, {"csv": "rows.csv"})

    assert [str(row) for row in batch.bad] == ["rows.csv:3: not valid UTF-8; save the file as UTF-8"]


@pytest.mark.parametrize(
    ("text", "message"), [("", "needs a header"), ("q,\n", "needs a header"), ("q,q\n", "named twice")]
)
def test_csv_headers_are_checked(folder: Path, text: str, message: str) -> None:
    (folder / "rows.csv").write_text(text)

    with pytest.raises(SourceError, match=message):
        read(folder, {"csv": "rows.csv"})


def test_parquet_values_become_json(folder: Path) -> None:
    moment = dt.datetime(2026, 1, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    pl.DataFrame(
        {
            "q": ["a"],
            "day": [dt.date(2026, 1, 2)],
            "at": [moment],
            "ids": [[1, None]],
            "nan": [float("nan")],
            "raw": [b"\x00\xff"],
        }
    ).write_parquet(folder / "rows.parquet")

    batch = read(folder, {"parquet": "*.parquet"})

    assert values(batch) == [
        {"q": "a", "day": "2026-01-02", "at": "2026-01-02T02:00:00+00:00", "ids": [1, None], "raw": "00ff"}
    ]
    assert batch.columns == {"q", "day", "at", "ids", "nan", "raw"}
    assert batch.frame["where"][0] == "rows.parquet:row 1"


def test_a_torn_parquet_file_is_an_error(folder: Path) -> None:
    (folder / "rows.parquet").write_bytes(b"PAR1 and no more")

    with pytest.raises(SourceError, match=r"rows\.parquet: not readable as Parquet"):
        read(folder, {"parquet": "*.parquet"})


def test_sql_paths_start_at_the_yaml_folder(folder: Path, write_rows: Callable[..., Path]) -> None:
    write_rows([{"q": "a", "n": 1}, {"q": "b", "n": 2}])

    batch = read(folder, {"sql": "select q, n * 2 as m from 'rows.jsonl' where n > 1"})

    assert values(batch) == [{"q": "b", "m": 4}]
    with pytest.raises(SourceError, match=r"prompts\.source\.sql: .*nowhere"):
        read(folder, {"sql": "select * from nowhere"})


@pytest.mark.parametrize(
    "body",
    [
        "def rows(): return [{'q': 'a', 'n': 1}]",
        "def rows(): yield {'q': 'a', 'n': 1}",
        "import polars as pl\ndef rows(): return pl.DataFrame({'q': ['a'], 'n': [1]})",
        "import polars as pl\ndef rows(): return pl.LazyFrame({'q': ['a'], 'n': [1]})",
        "import pyarrow as pa\ndef rows(): return pa.table({'q': ['a'], 'n': [1]})",
        "import pyarrow as pa\ndef rows(): return pa.table({'q': ['a'], 'n': [1]}).to_reader()",
        "import numpy as np\ndef rows(): yield {'q': np.str_('a'), 'n': np.int64(1), 'none': np.float64('nan')}",
        "import helper\ndef rows(): return helper.ROWS",
    ],
)
def test_python_sources_may_return_rows_in_many_forms(folder: Path, body: str) -> None:
    (folder / "helper.py").write_text("ROWS = ({'q': 'a', 'n': 1},)")
    (folder / "corpus.py").write_text(body)

    batch = read(folder, {"python": "corpus.rows"})

    assert values(batch) == [{"q": "a", "n": 1}]
    assert batch.frame["where"][0] == "corpus.rows:row 1"
    assert "helper" not in sys.modules


def test_python_modules_of_one_name_do_not_meet_and_edits_count_at_once(folder: Path) -> None:
    other = folder.parent / "other"
    other.mkdir()
    for place, word in ((folder, "first"), (other, "other"), (folder, "third")):
        (place / "corpus.py").write_text(f"def rows(): return [{{'q': '{word}'}}]")
        assert values(read(place, {"python": "corpus.rows"})) == [{"q": word}]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def rows():\n    return {}['x']", r"corpus\.py:2: KeyError: 'x'"),
        ("def rows():\n    yield {'q': 1}\n    raise ValueError('no more')", r"corpus\.py:3: ValueError: no more"),
        ("def rows(:", r"corpus\.py:1: SyntaxError"),
        ("def others(): ...", r"corpus\.py has no function 'rows'"),
        ("def rows(): return 7", "returned int; return an iterable of mappings"),
        ("def rows(): return {'q': 1}", "returned dict; return an iterable of mappings"),
    ],
)
def test_an_error_in_a_python_source_has_its_line(folder: Path, body: str, message: str) -> None:
    (folder / "corpus.py").write_text(body)

    with pytest.raises(SourceError, match=message):
        read(folder, {"python": "corpus.rows"})


def test_a_python_row_that_is_no_mapping_is_bad(folder: Path) -> None:
    (folder / "corpus.py").write_text("def rows(): return [{'q': 'a'}, ['b'], {'q': object()}, {1: 'c'}]")

    batch = read(folder, {"python": "corpus.rows"})

    assert [row.where for row in batch.bad] == [f"corpus.rows:row {n}" for n in (2, 3, 4)]


def test_a_missing_python_module_is_an_error(folder: Path) -> None:
    for value in ("corpus.rows", "rows", "../x.rows"):
        with pytest.raises(SourceError, match=r"prompts\.source\.python"):
            read(folder, {"python": value})


def test_huggingface_streams_the_named_split(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("datasets")

    def load_dataset(name: str, split: str, streaming: bool) -> Any:
        assert (name, split, streaming) == ("owner/set", "test", True)
        return iter([{"q": "a"}])

    library.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)

    assert values(read(folder, {"huggingface": "owner/set:test"})) == [{"q": "a"}]


def test_huggingface_without_its_library_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)

    with pytest.raises(SourceError, match=r"distill-dagster\[huggingface\]"):
        read(folder, {"huggingface": "owner/set"})
