"""When a connection's clocks are believed: on a real loop, without a socket."""

import asyncio

import pytest

from app.network.watches import ReadWatch


@pytest.fixture
def watched():
    """Run something with a watch that has one second, and tell whether it expired in the end."""

    def run(steps):
        async def watch():
            loop = asyncio.get_running_loop()
            expired = asyncio.Event()
            steps(loop, ReadWatch(loop, 1.0, expired.set))
            await asyncio.wait([asyncio.ensure_future(expired.wait())], timeout=0.3)
            return expired.is_set()

        return asyncio.run(watch())

    return run


def test_what_is_read_in_the_turn_in_which_the_time_has_passed_came_in_time(watched):
    """So it is once the process was stopped: the timer is due, and what came meanwhile is still to be read."""

    def steps(loop, watch):
        watch.set(0.0)
        loop.call_at(loop.time(), watch.rest)

    assert not watched(steps)


def test_a_time_that_has_passed_is_believed_in_the_next_turn(watched):
    assert watched(lambda loop, watch: watch.set(0.0))


def test_bytes_that_come_too_late_do_not_put_it_off(watched):
    """Each is one of a body whose rate has been too low for long."""

    def steps(loop, watch):
        def come():
            watch.set(-1e-6)
            loop.call_later(0.005, come)

        come()

    assert watched(steps)
