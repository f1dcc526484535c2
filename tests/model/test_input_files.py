"""Files from strangers that change while they are looked at."""

import os

import pytest

from model import input_files
from model.input_files import FileUnusable, read_file


def test_a_pipe_that_is_put_there_after_the_look_is_not_waited_for(tmp_path, monkeypatch):
    file = tmp_path / "vocab.json"
    file.write_text("{}")
    assert read_file(file, 10) == b"{}"
    is_there = input_files.is_there

    def look_and_change(file):
        seen = is_there(file)
        file.unlink()
        os.mkfifo(file)
        return seen

    monkeypatch.setattr(input_files, "is_there", look_and_change)
    with pytest.raises(FileUnusable, match="is no file but a pipe"):
        read_file(file, 10)
