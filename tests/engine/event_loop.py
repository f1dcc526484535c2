"""Tests as coroutines."""

import asyncio
import functools
from collections.abc import Callable, Coroutine


def in_event_loop(test: Callable[..., Coroutine]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures) -> None:
        asyncio.run(asyncio.wait_for(test(**fixtures), 120))  # a hang shall not last for ever

    return run
