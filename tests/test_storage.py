"""Artifacts appear whole or not at all, and paths stay inside."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_dagster.errors import StorageError
from distill_dagster.storage import (
    Current,
    contained,
    decode_partition,
    encode_partition,
    new_folder,
    read_current,
    remove_current,
    write_current,
    write_file,
)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_partition_names_round_trip_and_stay_one_folder(name: str) -> None:
    encoded = encode_partition(name)

    assert decode_partition(encoded) == name
    assert "/" not in encoded
    assert encoded not in (".", "..")


def test_an_empty_partition_is_an_error() -> None:
    with pytest.raises(StorageError, match="empty"):
        encode_partition("")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "artifact.txt"
    write_file(path, lambda aside: aside.write_text("old"))

    def broken(aside: Path) -> None:
        aside.write_text("ha")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_file(path, broken)

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "version"

    def killed_halfway() -> None:
        with new_folder(target) as aside:
            (aside / "half").write_text("x")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        killed_halfway()
    assert list(tmp_path.iterdir()) == []

    with new_folder(target) as aside:
        (aside / "whole").write_text("x")
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_version_that_is_there_is_never_rewritten(tmp_path: Path) -> None:
    target = tmp_path / "version"
    for text in ("first", "second"):
        with new_folder(target) as aside:
            (aside / "file").write_text(text)

    assert (target / "file").read_text() == "first"


def test_current_points_and_can_be_taken_away(tmp_path: Path) -> None:
    assert read_current(tmp_path) is None
    assert write_current(tmp_path, Current("v1", "k1"))
    assert not write_current(tmp_path, Current("v1", "k1"))
    assert read_current(tmp_path) == Current("v1", "k1")
    assert remove_current(tmp_path)
    assert read_current(tmp_path) is None


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b"])
def test_a_path_cannot_leave_the_project(tmp_path: Path, path: str) -> None:
    with pytest.raises(StorageError, match="leaves the project"):
        contained(tmp_path, path)


def test_a_link_cannot_leave_the_project(tmp_path: Path) -> None:
    inside = tmp_path / "project"
    inside.mkdir()
    (tmp_path / "secret").write_text("x")
    (inside / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(StorageError, match="leaves the project"):
        contained(inside, "link")
