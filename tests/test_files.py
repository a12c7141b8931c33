"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from simulator.errors import DsimError
from simulator.files import whole, whole_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def test_text_and_bytes_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    write_whole(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names(tmp_path) == ["a.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_what_breaks_half_way_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted(by: BaseException) -> None:
        with whole(path) as draft:
            draft.write_text("half")
            assert path.read_text() == "old"
            raise by

    for by in (KeyboardInterrupt(), ValueError("ours")):
        with pytest.raises(type(by)):
            interrupted(by)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["a.txt"]


def test_a_draft_keeps_the_ending_of_its_name(tmp_path: Path) -> None:
    with whole(tmp_path / "t.parquet") as draft:
        assert draft.suffix == ".parquet"
        assert draft.parent == tmp_path


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DsimError, match=r"file/a\.txt: cannot write \(.+\); free space, or choose a folder you can write to$"):
        write_whole(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "taken").mkdir()
    with pytest.raises(DsimError, match=r"taken: cannot write \(.+\); free space, or choose a folder you can write to$"):
        write_whole(tmp_path / "taken", "x")
    assert names(tmp_path) == ["file"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def write(broken: bool) -> None:
        with whole_folder(tmp_path / "new" / "folder", last="a") as folder:
            (folder / "a").write_text("1")
            (folder / "b").write_text("2")
            if broken:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(broken=True)
    assert list(tmp_path.iterdir()) == []
    write(broken=False)
    assert names(tmp_path) == ["a", "b"]


def test_a_draft_is_no_link_that_was_laid_there(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / f".a.txt.{os.getpid()}.txt").symlink_to(tmp_path / "theirs")
    write_whole(tmp_path / "a.txt", "mine")
    assert ((tmp_path / "theirs").read_text(), (tmp_path / "a.txt").read_text()) == ("theirs", "mine")
    assert not (tmp_path / "a.txt").is_symlink()
