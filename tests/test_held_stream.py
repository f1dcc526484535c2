"""A stream that goes while a line is written to it takes nobody with it."""

import io
import sys

import structlog


def test_a_stream_that_is_replaced_while_a_line_is_written_lasts_as_long_as_the_line(monkeypatch):
    happened = []

    class Replaced(io.StringIO):
        def write(self, text):
            sys.stdout = io.StringIO()  # the last reference but the writer's
            happened.append(text[-1])
            return len(text)

        def flush(self):
            happened.append("flushed")

        def __del__(self):
            happened.append("freed")

    monkeypatch.setattr(sys, "stdout", Replaced())
    structlog.get_logger().info("a line")
    assert happened == ["\n", "flushed", "freed"]


def test_a_stream_that_was_closed_loses_its_line_alone(monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)
    structlog.get_logger().info("a line")
