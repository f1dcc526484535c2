"""The outputs of the requests that belong together, for their one reader. Lives on the event loop."""

import asyncio
import math

from app.engine.sequence import ScoresOutput, TokensOutput
from app.errors import ServiceError


class Mailbox:
    """A slow reader finds several outputs at once; none is ever lost or merged. `request_ids` are in the order of submission."""

    def __init__(self, request_ids: range) -> None:
        self.request_ids = request_ids
        self._outputs: list[TokensOutput | ScoresOutput] = []
        self._error: ServiceError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._patient_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, output: TokensOutput | ScoresOutput) -> None:
        self._outputs.append(output)
        self._wake()

    def fail(self, error: ServiceError) -> None:
        """Let the reader's next `get` raise an error of its own, once it has read what came before."""
        self._error = error
        self._wake()

    async def get(self, patience: float | None = None) -> list[TokensOutput | ScoresOutput]:
        """All outputs since the last call, none if `patience` seconds pass without any; raises what `fail` was given."""
        if not self._outputs and self._error is None:
            await self._wait(patience)
        outputs, self._outputs = self._outputs, []
        if not outputs and self._error is not None:
            raise self._error
        return outputs

    def _wait(self, patience: float | None) -> asyncio.Future[None]:
        # A future by hand: asyncio.wait_for would make a task a wait. The loop is kept: to ask for it is a system call each time.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        self._reader = loop.create_future()
        self._patient_until = math.inf if patience is None else loop.time() + patience
        if self._timer is None or self._timer.when() > self._patient_until:
            self._look_again(loop)
        return self._reader

    def close(self) -> None:
        """Say that nobody will read any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake a reader whose patience is at its end. One timer serves many waits: one for each costs as much as all else in it."""
        self._timer = None
        if loop.time() >= self._patient_until:
            self._wake()
        elif self._reader is not None and not self._reader.done():
            self._look_again(loop)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self.close()
        if self._patient_until < math.inf:
            self._timer = loop.call_at(self._patient_until, self._look, loop)
