"""What the serving path itself makes of an inspected prompt, in its own precision: scored and continued as any request's is."""

from dataclasses import dataclass

from app.deadline import Deadline
from app.generation import GenerationRequest, TextGenerator
from model.batch import SamplingParams, Top


@dataclass(frozen=True, slots=True)
class Served:
    """The log-probability of each token of the prompt but the first, and the likeliest tokens after the last.

    There are none of these where the prompt fills the context: the engine draws no token for which there is no place.
    """

    logprobs: list[float]
    next: Top


async def serve(generator: TextGenerator, prompt: tuple[int, ...], top_n: int, arrived: float, deadline: Deadline) -> Served:
    """Let in as any request is; raises Overloaded, NotReady, DeadlinePassed or what made it fail."""
    room = generator.client.limits.max_positions - len(prompt)
    request = GenerationRequest(
        prompts=(prompt,),
        sampling=SamplingParams(),
        max_new_tokens=min(room, 1),
        top_n=top_n,
        prompt_top_n=0,
        timeout_seconds=deadline.seconds,
    )
    generation = await generator.start(request, arrived)
    try:
        top: Top = ()
        while not generation.is_finished:
            for token in await generation.next():
                top = token.top
    finally:
        generation.abort()
    return Served([logprob for logprob, _ in generation.prompts[0].scores if logprob is not None], top)
