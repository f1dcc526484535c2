"""The outputs of the requests that belong together, for their one reader. Lives on the event loop."""

import asyncio

from app.engine.sequence import ScoresOutput, TokenOutput
from app.errors import ServiceError


class Mailbox:
    """A slow reader finds several outputs at once; none is ever lost or merged. `request_ids` are in the order of submission."""

    def __init__(self, request_ids: range) -> None:
        self.request_ids = request_ids
        self._outputs: list[TokenOutput | ScoresOutput] = []
        self._error: ServiceError | None = None
        self._reader: asyncio.Future[None] | None = None

    def put(self, output: TokenOutput | ScoresOutput) -> None:
        self._outputs.append(output)
        self._wake()

    def fail(self, error: ServiceError) -> None:
        """Let the reader's next `get` raise an error of its own, once it has read what came before."""
        self._error = error
        self._wake()

    async def get(self, patience: float | None = None) -> list[TokenOutput | ScoresOutput]:
        """All outputs since the last call, none if `patience` seconds pass without any; raises what `fail` was given."""
        if not self._outputs and self._error is None:
            await self._wait(patience)
        outputs, self._outputs = self._outputs, []
        if not outputs and self._error is not None:
            raise self._error
        return outputs

    async def _wait(self, patience: float | None) -> None:
        # A future and a timer by hand: asyncio.wait_for would make a task a token.
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        timer = None if patience is None else loop.call_later(patience, self._wake)
        try:
            await self._reader
        finally:
            self._reader = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
