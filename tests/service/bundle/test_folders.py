"""A file or a folder is replaced whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.bundle.folders import discard, locked, replacing


def write(path: Path, content: str, *, as_folder: bool) -> None:
    if as_folder:
        path.mkdir()
        path = path / "inside"
    path.write_text(content)


def read(path: Path) -> str:
    return (path / "inside" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("new_is_folder", [True, False])
@pytest.mark.parametrize("old_is_folder", [True, False, None])
def test_the_old_gives_way_to_the_new(
    tmp_path: Path, old_is_folder: bool | None, new_is_folder: bool, sync: bool
) -> None:
    target = tmp_path / "target"
    if old_is_folder is not None:
        write(target, "old", as_folder=old_is_folder)
    if old_is_folder is False and new_is_folder:
        with pytest.raises(NotADirectoryError), replacing(target, sync=sync) as incoming:
            write(incoming, "new", as_folder=True)
        assert read(target) == "old"
    else:
        with replacing(target, sync=sync) as incoming:
            write(incoming, "new", as_folder=new_is_folder)
        assert read(target) == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_block_that_raises_leaves_the_old(tmp_path: Path, as_folder: bool) -> None:
    target = tmp_path / "target"
    write(target, "old", as_folder=as_folder)

    def fail() -> None:
        with replacing(target) as incoming:
            write(incoming, "half", as_folder=as_folder)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert read(target) == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_missing_parents_are_made(tmp_path: Path) -> None:
    with replacing(tmp_path / "a/b/target") as incoming:
        write(incoming, "new", as_folder=False)
    assert read(tmp_path / "a/b/target") == "new"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    write(tmp_path / "real", "old", as_folder=False)
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as incoming:
        write(incoming, "new", as_folder=False)
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "real") == "new"


def test_what_a_killed_process_left_is_undone_or_removed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    write(tmp_path / ".target.outgoing", "old", as_folder=True)
    write(tmp_path / ".target.incoming", "half", as_folder=True)
    with pytest.raises(KeyError), replacing(target):
        raise KeyError
    assert read(target) == "old"
    write(tmp_path / ".target.outgoing", "older", as_folder=True)
    write(tmp_path / ".target.incoming", "half", as_folder=False)
    discard(target)
    assert list(tmp_path.iterdir()) == []
    discard(target)


def test_a_taken_lock_is_told(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
        pass
    with locked(tmp_path, wait=False):
        pass
