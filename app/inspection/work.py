"""One inspection under way: the serving path's numbers, then its turn in the lane. Knows no body and no HTTP."""

import asyncio
from dataclasses import asdict, dataclass

from app.deadline import Deadline, Timeouts
from app.errors import ServiceError
from app.generation import TextGenerator
from app.info import ServiceInfo
from app.inspection.child import Answer
from app.inspection.lane import Lane
from app.inspection.served import serve
from model.inspection.messages import Json, message_of
from model.inspection.request import InspectionRequest

USUAL_SECONDS = 30.0  # of a request that names no deadline, where the service has none either


def deadline_of(timeouts: Timeouts, asked: float | None, arrived: float) -> Deadline:
    """There always is one: the lane is one for all. Raises InvalidRequest for more than may be asked for."""
    return timeouts.deadline(asked, arrived) or Deadline(USUAL_SECONDS, arrived + USUAL_SECONDS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An inspection that was asked for and can be answered; `form` is "json" or "safetensors"."""

    request: InspectionRequest
    form: str
    compares_served: bool
    arrived: float
    deadline: Deadline


class Inspection:
    """`answer` once, `abort` in any case."""

    def __init__(self, lane: Lane, generator: TextGenerator, info: ServiceInfo, wanted: Wanted) -> None:
        self._lane, self._generator, self._info, self._wanted = lane, generator, info, wanted
        self._result: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._finish)
        self._alarm = wanted.deadline.alarm(self.abort)
        self._is_aborted = False

    @property
    def num_prompt(self) -> int:
        return len(self._wanted.request.prompt)

    @property
    def deadline(self) -> Deadline:
        return self._wanted.deadline

    async def answer(self) -> Answer:
        """Raises what made it fail, or what it was aborted with."""
        return await self._result

    def abort(self, error: ServiceError | None = None) -> None:
        """End it if it has not ended; with `error`, who waits for the answer gets it at once."""
        self._alarm.cancel()
        if error is not None and not self._result.done():
            self._result.set_exception(error)
        if not self._is_aborted:  # once: what a second one would interrupt is the lane being cleared
            self._is_aborted = True
            self._task.cancel()

    async def _run(self) -> Answer:
        with self._lane.place():
            wanted = self._wanted
            served = await self._served() if wanted.compares_served else None
            message: Json = {
                "request": message_of(wanted.request),
                "served": served,
                "format": wanted.form,
                "model": self._info.model_id,
            }
            return await self._lane.ask(message)

    async def _served(self) -> Json:
        """What the serving path makes of it, with the precision in which it does."""
        wanted = self._wanted
        served = await serve(self._generator, wanted.request.prompt, wanted.request.top_n, wanted.arrived, wanted.deadline)
        return {"dtype": self._info.dtype, **asdict(served)}

    def _finish(self, task: asyncio.Task[Answer]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if self._result.done():
            return
        if error is None:
            self._result.set_result(task.result())
        else:
            self._result.set_exception(error)
