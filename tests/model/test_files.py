"""Files that cannot be written: they are named, and nothing half made is left in the way."""

import errno

import pytest
from safetensors import SafetensorError

from model.files import all_or_none, naming, replace_file, written_if_possible


def no_room(file):
    file.write_text("half of")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_cannot_be_written_is_named_and_stays_as_it_was(tmp_path):
    file = tmp_path / "a"
    file.write_text("old")
    with pytest.raises(OSError, match="No space left") as caught:
        replace_file(file, no_room)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_that_safetensors_made_a_text_of_is_one_of_the_system_again(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, naming(tmp_path / "a"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))
    with pytest.raises(SafetensorError), naming(tmp_path / "a"):
        raise SafetensorError("no tensor of that name")


def test_of_files_that_belong_together_all_are_made_or_none(tmp_path):
    out = tmp_path / "out"

    def write():
        with all_or_none(out, ("a", "b")):
            out.mkdir()
            (out / "a").write_text("new")
            replace_file(out / "b", no_room)

    with pytest.raises(OSError, match="No space left"):
        write()
    assert not out.exists()


def test_a_file_and_a_directory_that_were_there_stay(tmp_path):
    (tmp_path / "a").write_text("old")

    def write():
        with all_or_none(tmp_path, ("a", "b")):
            (tmp_path / "a").write_text("new")
            (tmp_path / "b").write_text("new")
            no_room(tmp_path / "c")

    with pytest.raises(OSError, match="No space left"):
        write()
    assert {file.name for file in tmp_path.iterdir()} == {"a", "c"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_a_line_that_only_tells_may_be_lost_to_a_full_disk_or_for_want_of_a_reader(number):
    with written_if_possible():
        raise OSError(number, "lost")
    with pytest.raises(OSError, match="Bad file descriptor"), written_if_possible():
        raise OSError(errno.EBADF, "Bad file descriptor")
