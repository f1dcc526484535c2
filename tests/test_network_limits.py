"""How many connections the limit of open files leaves room for."""

import resource

import pytest

from app.network.limits import allow_open_files


@pytest.fixture
def limit_of(monkeypatch):
    """Pretend that the process has these limits; what it sets is kept."""
    limits = []

    def pretend(soft, hard):
        limits[:] = [soft, hard]
        monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
        monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.__setitem__(slice(None), pair))
        return limits

    return pretend


def test_a_limit_that_is_high_enough_stays(limit_of):
    limits = limit_of(20_000, 20_000)
    assert allow_open_files(4096) == 4096
    assert limits == [20_000, 20_000]


def test_a_low_limit_is_raised_as_far_as_it_may_be(limit_of):
    limits = limit_of(1024, 1_048_576)
    assert allow_open_files(4096) == 4096
    assert 4096 < limits[0] < 5000


@pytest.mark.parametrize("hard", [1024, 256])
def test_where_it_may_not_fewer_connections_are_served_and_a_warning_says_so(limit_of, caplog, hard):
    limit_of(256, hard)
    assert 1 <= allow_open_files(4096) < hard
    assert "connections instead of 4096" in caplog.text


def test_no_limit_needs_no_change(limit_of):
    limits = limit_of(resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert allow_open_files(4096) == 4096
    assert limits == [resource.RLIM_INFINITY, resource.RLIM_INFINITY]
