"""What was done although the storage's answer was lost is not an error when it is tried again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixray.store import Storage, retrying


class LosesFirstAnswer:
    """A file system that deletes, and whose first answer to that is lost."""

    def __init__(self, filesystem: Any) -> None:
        self._filesystem, self._has_lost = filesystem, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystem, name)

    def delete_file(self, path: str) -> None:
        self._filesystem.delete_file(path)
        self._lose()

    def delete_dir(self, path: str) -> None:
        self._filesystem.delete_dir(path)
        self._lose()

    def _lose(self) -> None:
        if not self._has_lost:
            self._has_lost = True
            raise OSError("the connection was reset")


@pytest.mark.parametrize(("delete", "name"), [(Storage.delete, "file"), (Storage.delete_folder, "folder")])
def test_a_deletion_whose_answer_was_lost_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delete: Callable[[Storage, str], None], name: str
) -> None:
    monkeypatch.setattr(retrying, "WAIT_SECONDS", 0.01)
    storage = Storage(str(tmp_path))
    storage.write("file", b"content")
    storage.write("folder/file", b"content")
    monkeypatch.setitem(storage.__dict__, "filesystem", LosesFirstAnswer(storage.filesystem))

    delete(storage, name)

    assert not storage.exists(name)


def test_to_delete_a_file_that_was_never_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Storage(str(tmp_path)).delete("file")
