"""Sequences that come and go in a runner's slots, each of which has to get the bits that it gets alone."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from model.batch import Chunk, ChunkOutput, Draw, ForwardBatch, Runner, SampledToken, SamplingParams
from tests.model.execute import execute

CUTS = [1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 17, 20, 31, 33, 64, 65, 100, 150]


@dataclass
class Running:
    """A sequence: its tokens, how many of them are in the cache, and what came out."""

    token_ids: list[int]
    num_prompt: int
    params: SamplingParams = field(default_factory=SamplingParams)
    num_cached: int = 0
    slot: int = 0
    drawn: list[SampledToken] = field(default_factory=list)

    def chunk(self, length: int) -> Chunk:
        """The next tokens, with a draw if they are the last known."""
        start, end = self.num_cached, min(self.num_cached + length, len(self.token_ids))
        draws = (Draw(end - start - 1, self.params, self.num_prompt),) if end == len(self.token_ids) else ()
        return Chunk(self.slot, start, tuple(self.token_ids[start:end]), draws)

    def take(self, output: ChunkOutput) -> None:
        for (token,) in output.tokens:
            self.drawn.append(token)
            self.token_ids.append(token.token_id)


class Schedule:
    """Sequences that come and go in the slots of one runner; slots keep what they held, and a prefix may be taken from any."""

    def __init__(self, runner: Runner, chance: random.Random, max_running: int) -> None:
        self.runner, self.chance, self.max_running = runner, chance, max_running
        self.held: dict[int, list[int]] = {}

    def steps(self, waiting: list[Running], num_new: int) -> Iterator[list[tuple[Running, Chunk]]]:
        """Each step's chunks; whoever iterates runs them. A sequence is done with `num_new` draws."""
        waiting, running = list(waiting), []
        while waiting or running:
            while waiting and len(running) < self.max_running and (not running or self.chance.random() < 0.7):
                running.append(self._start(waiting.pop(), {sequence.slot for sequence in running}))
            chosen = [sequence for sequence in running if self.chance.random() < 0.8] or running[:1]
            self.chance.shuffle(chosen)
            chunks = [(sequence, sequence.chunk(self.chance.choice(CUTS))) for sequence in chosen]
            yield chunks
            for sequence, chunk in chunks:
                sequence.num_cached = chunk.end
                self.held[sequence.slot][chunk.start :] = chunk.token_ids
            running = [s for s in running if len(s.drawn) < num_new if s.num_cached < len(s.token_ids)]

    def _start(self, sequence: Running, busy: set[int]) -> Running:
        sequence.slot = self.chance.choice([slot for slot in range(self.runner.num_slots) if slot not in busy])
        shared = {slot: common_prefix(held, sequence.token_ids[:-1]) for slot, held in self.held.items()}
        sources = [slot for slot, length in shared.items() if length]
        if sources and self.chance.random() < 0.8:
            source = self.chance.choice(sources)
            sequence.num_cached = self.chance.choice([shared[source], self.chance.randint(1, shared[source])])
            if source != sequence.slot:
                self.runner.copy_prefix(source, sequence.slot, sequence.num_cached)
        self.held[sequence.slot] = list(sequence.token_ids[: sequence.num_cached])
        return sequence


def common_prefix(one: list[int], other: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def random_sequences(chance: random.Random, lengths: list[int], vocab_size: int) -> list[Running]:
    """Tokens of these lengths, most of them with a beginning in common."""
    base = [chance.randrange(vocab_size) for _ in range(max(lengths))]
    sequences = []
    for length in lengths:
        shared = chance.choice([0, chance.randint(0, length), length])
        ids = base[:shared] + [chance.randrange(vocab_size) for _ in range(length - shared)]
        sequences.append(Running(ids, length, random_params(chance)))
    return sequences


def random_params(chance: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=chance.choice([0.0, 0.8, 1.5]),
        top_k=chance.choice([0, 20]),
        top_p=chance.choice([1.0, 0.9]),
        min_p=chance.choice([0.0, 0.01]),
        typical_p=chance.choice([1.0, 0.9]),
        repetition_penalty=chance.choice([1.0, 1.2]),
        frequency_penalty=chance.choice([0.0, 0.5]),
        logit_bias=chance.choice([(), ((3, 2.0), (9, -100.0))]),
        seed=chance.getrandbits(64),
    )


def generate_alone(runner: Runner, prompt: list[int], params: SamplingParams, num_new: int) -> list[tuple[int, str]]:
    sequence = Running(list(prompt), len(prompt), params)
    while len(sequence.drawn) < num_new:
        chunk = sequence.chunk(1)
        (output,) = execute(runner, ForwardBatch((chunk,))).chunks
        sequence.num_cached = chunk.end
        sequence.take(output)
    return bits(sequence.drawn)


def bits(tokens: Sequence[SampledToken]) -> list[tuple[int, str]]:
    return [(token.token_id, token.logprob.hex()) for token in tokens]


def check_schedule(schedule: Schedule, alone: Runner, sequences: list[Running], num_new: int) -> None:
    """Token ids and log-probabilities of every sequence are those of that sequence alone, one token a step."""
    for step in schedule.steps(sequences, num_new):
        outputs = execute(schedule.runner, ForwardBatch(tuple(chunk for _, chunk in step))).chunks
        for (sequence, _), output in zip(step, outputs, strict=True):
            sequence.take(output)
    for sequence in sequences:
        prompt = sequence.token_ids[: sequence.num_prompt]
        assert bits(sequence.drawn) == generate_alone(alone, prompt, sequence.params, num_new), f"prompt of {len(prompt)} tokens"
