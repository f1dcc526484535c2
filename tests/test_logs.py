"""The log never stands in the service's way: it is lost where there is no room for it, and says how much of it was."""

import contextlib
import json
import logging
import os
import threading

import pytest

from app.logs import configure_logging


@pytest.fixture
def logged_to(monkeypatch, logging_kept):
    """Log to a file of this number, as a process with that standard error does."""
    streams = []

    def begin(number):
        streams.append(os.fdopen(number, "w", buffering=1))
        monkeypatch.setattr("sys.stderr", streams[-1])
        configure_logging("json")
        return logging.getLogger("gpt2.test")

    yield begin
    for stream in streams:
        with contextlib.suppress(OSError):  # what had no room has none now
            stream.close()


def test_a_pipe_that_nobody_reads_stops_nobody_and_is_told_later_what_it_has_missed(logged_to):
    reading, writing = os.pipe()
    log = logged_to(writing)
    writer = threading.Thread(target=lambda: [log.info("a line of some length: %s", "x" * 5000) for _ in range(100)], daemon=True)
    writer.start()
    writer.join(60)
    assert not writer.is_alive(), "it waits for a reader"
    read = os.read(reading, 1 << 20)
    assert 40_000 < len(read) <= 1 << 16
    log.info("read again")
    *_, lost, last = os.read(reading, 1 << 20).decode().splitlines()
    words, _, num_lost = json.loads(lost)["event"].rpartition(": ")
    assert words == "lines lost here, since there was no room for them or nobody read them"
    assert 80 < int(num_lost) < 100
    assert json.loads(last)["event"] == "read again"
    os.close(reading)


def test_a_disk_that_is_full_and_a_reader_that_has_gone_stop_nobody(logged_to):
    log = logged_to(os.open("/dev/full", os.O_WRONLY))
    for _ in range(100):
        log.info("a line of some length: %s", "x" * 1000)
    reading, writing = os.pipe()
    log = logged_to(writing)
    os.close(reading)
    for _ in range(100):
        log.info("a line")
