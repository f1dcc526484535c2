"""The lock of a directory that is trained in."""

import json
import multiprocessing
import os
import signal

import pytest

from model.training.errors import TrainingError
from model.training.overwriting import check_no_checkpoint
from model.training.run_lock import check_not_trained_in, training_lock


def test_a_lock_leaves_nothing_behind(tmp_path):
    with training_lock(tmp_path / "out"):
        assert json.loads((tmp_path / "out" / "training" / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with training_lock(tmp_path / "out"):
        (tmp_path / "out" / "training" / "log.csv").touch()
    assert [file.name for file in (tmp_path / "out" / "training").iterdir()] == ["log.csv"]


def test_a_locked_directory_is_refused_to_all_who_would_write_there(tmp_path):
    with training_lock(tmp_path):
        for refused in (training_lock(tmp_path).__enter__, lambda: check_no_checkpoint(tmp_path)):
            with pytest.raises(TrainingError, match=rf"is being trained in by process {os.getpid()} since \d\d:\d\d; wait for it"):
                refused()
    check_not_trained_in(tmp_path)
    with training_lock(tmp_path):
        pass


ELSEWHERE = '{"pid": 7, "host": "elsewhere", "since": "2020-01-02 12:03"}'


@pytest.mark.parametrize(
    ("contents", "who"), [("", "another process"), (ELSEWHERE, "process 7 on elsewhere since 2020-01-02 12:03")]
)
def test_a_holder_that_is_elsewhere_or_has_not_said_who_it_is(tmp_path, contents, who):
    with training_lock(tmp_path):
        (tmp_path / "training" / "lock").write_text(contents)
        with pytest.raises(TrainingError, match=f"is being trained in by {who}"):
            check_not_trained_in(tmp_path)


def hold(out, connection):
    with training_lock(out):
        connection.send("held")
        signal.pause()


def test_a_process_that_is_killed_holds_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == "held"
    with pytest.raises(TrainingError, match=f"is being trained in by process {process.pid} since"):
        check_not_trained_in(tmp_path)
    process.kill()
    process.join()
    with training_lock(tmp_path):
        pass
