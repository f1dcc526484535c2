"""The runner: the network's own numbers, and the same bits for a sequence whatever runs beside it."""

import functools
import math
import random
from collections.abc import Iterator, Sequence

import pytest
import torch

from model.batch import (
    NOT_FINITE,
    Chunk,
    Draw,
    ForwardBatch,
    RunnerLost,
    SampledToken,
    SamplingParams,
    Scores,
    StepOutput,
    TokenMask,
)
from model.config import GPT2Config
from model.download import Download
from model.gpt2 import GPT2
from model.layout import Grids
from model.runner import TorchRunner
from tests.model.execute import execute
from tests.model.schedules import bits

CHUNK = 16
NUM_SLOTS = 32
NUM_NEW = 5
# Widths that vectors divide and do not divide; a vocabulary of which torch reduces a single row on several threads; a width for
# which oneDNN has other kernels for many rows in bfloat16.
SHAPES = {
    "width_100": GPT2Config(vocab_size=500, n_positions=96, n_embd=100, n_layer=2, n_head=4, eos_token_ids=(0,)),
    "width_64": GPT2Config(vocab_size=500, n_positions=96, n_embd=64, n_layer=2, n_head=4, eos_token_ids=(0,)),
    "width_75_heads_of_25": GPT2Config(vocab_size=501, n_positions=100, n_embd=75, n_layer=2, n_head=3, eos_token_ids=(0,)),
    "large_vocabulary": GPT2Config(vocab_size=40_001, n_positions=64, n_embd=32, n_layer=1, n_head=2, eos_token_ids=(0,)),
    "width_768": GPT2Config(vocab_size=501, n_positions=64, n_embd=768, n_layer=2, n_head=12, eos_token_ids=(0,)),
}


def network(config: GPT2Config) -> GPT2:
    """Random weights, large enough that attention is far from uniform."""
    model = GPT2(config).init_weights(torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
    return model


@functools.cache
def runner_of(shape: str, device: torch.device, dtype: torch.dtype = torch.float32) -> TorchRunner:
    return TorchRunner(network(SHAPES[shape]), NUM_SLOTS, CHUNK, device, dtype)


@pytest.fixture(params=[1, 2, 3], ids="{}_threads".format)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Running:
    """A sequence in a slot, run chunk by chunk as the engine does."""

    def __init__(self, slot: int, prompt: Sequence[int], params: SamplingParams, num_cached: int = 0) -> None:
        self.slot, self.token_ids, self.num_prompt, self.params = slot, list(prompt), len(prompt), params
        self.num_cached = num_cached
        self.drawn: list[SampledToken] = []
        self.error: str | None = None

    def chunk(self) -> Chunk:
        start = self.num_cached
        end = min((start // CHUNK + 1) * CHUNK, self.num_prompt) if start < self.num_prompt else start + 1
        draws = (Draw(end - start - 1, self.params, self.num_prompt),) if end == len(self.token_ids) else ()
        return Chunk(self.slot, start, tuple(self.token_ids[start:end]), draws)


def step(runner: TorchRunner, sequences: Sequence[Running]) -> StepOutput:
    chunks = tuple(sequence.chunk() for sequence in sequences)
    output = execute(runner, ForwardBatch(chunks))
    for sequence, chunk, out in zip(sequences, chunks, output.chunks, strict=True):
        sequence.num_cached = chunk.end
        sequence.error = out.error
        for (token,) in out.tokens:
            sequence.drawn.append(token)
            sequence.token_ids.append(token.token_id)
    return output


def generate(runner: TorchRunner, sequence: Running, num_new: int = NUM_NEW) -> list[tuple[int, str]]:
    while len(sequence.drawn) < num_new:
        step(runner, [sequence])
    return bits(sequence.drawn)


def random_prompt(chance: random.Random, vocab_size: int, longest: int = 2 * CHUNK + 3) -> list[int]:
    length = chance.choice([1, 2, CHUNK - 1, CHUNK, CHUNK + 1, chance.randint(1, longest), longest])
    return [chance.randrange(vocab_size) for _ in range(length)]


def random_params(chance: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=chance.choice([0.0, 0.8, 1.5]),
        top_k=chance.choice([0, 20]),
        top_p=chance.choice([1.0, 0.9]),
        min_p=chance.choice([0.0, 0.01]),
        typical_p=chance.choice([1.0, 0.9]),
        repetition_penalty=chance.choice([1.0, 1.2]),
        frequency_penalty=chance.choice([0.0, 0.3]),
        seed=chance.getrandbits(64),
    )


def check_invariance(runner: TorchRunner, nums_neighbours: Sequence[int]) -> None:
    """Run sequences alone, then each again in another slot between neighbours that come and go."""
    chance = random.Random(1)
    for num_neighbours in nums_neighbours:
        prompt, params = random_prompt(chance, runner.vocab_size), random_params(chance)
        slots = chance.sample(range(NUM_SLOTS), num_neighbours + 1)
        alone = generate(runner, Running(slots[-1], prompt, params))
        sequence = Running(slots[0], prompt, params)
        neighbours = [Running(slot, random_prompt(chance, runner.vocab_size), random_params(chance)) for slot in slots[1:]]
        while len(sequence.drawn) < NUM_NEW:
            step(runner, random_order(chance, [sequence, *(n for n in neighbours if chance.random() < 0.8)]))
        assert bits(sequence.drawn) == alone, f"with {num_neighbours} neighbours, {len(prompt)} prompt tokens"


def random_order(chance: random.Random, sequences: list[Running]) -> list[Running]:
    return chance.sample(sequences, len(sequences))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sequence_gets_the_same_bits_alone_and_among_others(device, threads, shape):
    check_invariance(runner_of(shape, device), [1, 2, 3, 5, 9, 17, 31])


@pytest.mark.usefixtures("needs_packed_bfloat16")
@pytest.mark.parametrize("shape", ["width_75_heads_of_25", "width_768"])
def test_so_it_does_in_bfloat16(device, threads, shape):
    check_invariance(runner_of(shape, device, torch.bfloat16), [2, 5, 9, 14, 20, 31])


def test_a_copied_prefix_of_whole_chunks_gives_the_bits_of_a_computed_one(device, threads):
    runner = runner_of("width_75_heads_of_25", device)
    chance = random.Random(2)
    prompt = [chance.randrange(501) for _ in range(3 * CHUNK + 5)]
    expected = generate(runner, Running(0, prompt, SamplingParams()))
    runner.copy_prefix(0, 7, 2 * CHUNK)
    generate(runner, Running(0, prompt[::-1], SamplingParams()))  # the source may be written over
    assert generate(runner, Running(7, prompt, SamplingParams(), num_cached=2 * CHUNK)) == expected


def test_a_slot_serves_one_sequence_after_another_as_if_it_were_new(device):
    chance = random.Random(3)
    prompts = [random_prompt(chance, 500) for _ in range(4)]
    first = [generate(runner_of("width_100", device), Running(i, prompt, SamplingParams())) for i, prompt in enumerate(prompts)]
    again = [generate(runner_of("width_100", device), Running(5, prompt, SamplingParams())) for prompt in prompts]
    assert again == first


def on_grids(runner: TorchRunner, monkeypatch: pytest.MonkeyPatch) -> TorchRunner:
    """Let a CPU lay its rows out in the GPU's fixed shapes, too."""
    monkeypatch.setattr(runner, "layout", Grids(runner.cache, runner.chunk_size))
    return runner


@pytest.mark.parametrize("layout", ["own", "grids"])
@pytest.mark.parametrize("shape", ["width_100", "width_64", "width_75_heads_of_25"])
def test_log_probabilities_are_the_networks_own(device, monkeypatch, shape, layout):
    runner = runner_of(shape, device)
    if layout == "grids":
        on_grids(runner, monkeypatch)
    chance = random.Random(4)
    sequences = [Running(i, random_prompt(chance, 500), SamplingParams(temperature=1.0, seed=i)) for i in range(6)]
    while len(sequences[-1].drawn) < NUM_NEW:
        step(runner, random_order(chance, sequences))
    exact = network(SHAPES[shape]).double()
    for sequence in sequences:
        logprobs = exact(torch.tensor([sequence.token_ids]))[0].log_softmax(dim=-1)  # (T, V)
        first = sequence.num_prompt
        expected = [logprobs[first + i - 1, token.token_id].item() for i, token in enumerate(sequence.drawn)]
        assert [token.logprob for token in sequence.drawn] == pytest.approx(expected, abs=1e-5)


def test_the_two_layouts_of_rows_agree(device, monkeypatch):
    chance = random.Random(5)
    prompts = [random_prompt(chance, 500) for _ in range(8)]
    greedy = SamplingParams()
    ragged = [Running(i, prompt, greedy) for i, prompt in enumerate(prompts)]
    while min(len(sequence.drawn) for sequence in ragged) < NUM_NEW:
        step(runner_of("width_100", torch.device("cpu")), ragged)
    runner = on_grids(runner_of("width_100", device), monkeypatch)
    grids = [Running(i, prompt, greedy) for i, prompt in enumerate(prompts)]
    while min(len(sequence.drawn) for sequence in grids) < NUM_NEW:
        step(runner, random_order(chance, grids))
    for one, other in zip(ragged, grids, strict=True):
        assert [token.token_id for token in one.drawn] == [token.token_id for token in other.drawn]
        assert [token.logprob for token in one.drawn] == pytest.approx([token.logprob for token in other.drawn], abs=1e-5)


def test_on_grids_a_sequence_gets_the_same_bits_alone_and_among_others(device, monkeypatch):
    if device.type == "cpu":
        # Attention over masked rows in one batch: on a Zen 4 a slot's place there changes its last bits, on a Xeon it does not.
        pytest.skip("grids are the GPU's layout; a CPU has its own, whose bits are tested above")
    check_invariance(on_grids(runner_of("width_100", device), monkeypatch), [1, 2, 5, 31])


BROKEN = 20  # the position at which the next runner computes no numbers


@pytest.fixture(params=["own", "grids"])
def breakable(request, device, monkeypatch):
    model = network(SHAPES["width_64"])
    model.wpe.weight.data[BROKEN] = math.nan
    runner = TorchRunner(model, 3, CHUNK, device, torch.float32)
    return runner if request.param == "own" else on_grids(runner, monkeypatch)


def test_a_sequence_that_computed_no_numbers_leaves_nothing_in_its_slot(breakable):
    expected = generate(breakable, Running(0, range(5), SamplingParams()))
    other = Running(1, range(7), SamplingParams())
    step(breakable, [other, broken := Running(0, range(25), SamplingParams())])
    assert broken.error is None
    step(breakable, [other, broken])
    assert (broken.error, broken.drawn) == (NOT_FINITE, [])
    assert other.error is None
    assert len(other.drawn) == 2
    assert generate(breakable, Running(0, range(5), SamplingParams())) == expected


def test_a_chunk_without_a_draw_that_computed_no_numbers_says_so_and_leaves_nothing_in_its_slot(breakable):
    """Its request was gone before anything was drawn, and the next one in its slot computed no numbers either."""
    expected = generate(breakable, Running(0, range(5), SamplingParams()))
    step(breakable, [prompt := Running(0, range(40), SamplingParams())])
    step(breakable, [prompt])
    assert prompt.error == NOT_FINITE
    assert generate(breakable, Running(0, range(5), SamplingParams())) == expected


def test_a_slot_is_clean_before_anybody_knows_that_it_computed_no_numbers(breakable):
    """The next step may be launched before this one is collected."""
    expected = generate(breakable, Running(0, range(5), SamplingParams()))
    chunk = Chunk(0, 16, tuple(range(16)))
    broken = breakable.launch(ForwardBatch((chunk,)))
    after = breakable.launch(ForwardBatch((Running(0, range(5), SamplingParams()).chunk(),)))
    assert broken.collect().chunks[0].error == NOT_FINITE
    assert bits(after.collect().chunks[0].tokens[0]) == expected[:1]


def test_a_decoded_token_that_is_no_number_spoils_no_later_one(breakable):
    expected = generate(breakable, Running(1, range(5), SamplingParams()))
    step(breakable, [sequence := Running(1, range(18), SamplingParams())])
    for _ in range(BROKEN - 18 + 2):
        step(breakable, [sequence])
    assert sequence.error == NOT_FINITE
    assert len(sequence.drawn) == BROKEN - 18 + 1
    assert generate(breakable, Running(1, range(5), SamplingParams())) == expected


@pytest.mark.parametrize("layout", ["own", "grids"])
def test_a_step_without_draws_gives_no_tokens_but_fills_the_cache(device, monkeypatch, layout):
    runner = runner_of("width_64", device)
    if layout == "grids":
        on_grids(runner, monkeypatch)
    prompt = [7 * i % 500 for i in range(2 * CHUNK + 1)]
    sequence = Running(4, prompt, SamplingParams())
    assert [len(step(runner, [sequence]).chunks[0].tokens) for _ in range(3)] == [0, 0, 1]
    logprobs = network(SHAPES["width_64"])(torch.tensor([prompt]))[0, -1].log_softmax(dim=-1)
    assert sequence.drawn[0].token_id == logprobs.argmax()
    assert sequence.drawn[0].logprob == pytest.approx(logprobs.max().item(), abs=1e-5)
    assert execute(runner, ForwardBatch(())) == StepOutput(())


def test_tokens_come_in_the_order_of_their_chunks(device):
    runner = runner_of("width_64", device)
    prompts = [[1, 2, 3], list(range(CHUNK)), [9], list(range(CHUNK + 1, 2 * CHUNK))]
    alone = [execute(runner, ForwardBatch((Running(5, p, SamplingParams()).chunk(),))).chunks[0].tokens[0] for p in prompts]
    for order in ([0, 1, 2, 3], [3, 1, 2, 0], [2, 3, 0, 1]):
        together = execute(runner, ForwardBatch(tuple(Running(i, prompts[i], SamplingParams()).chunk() for i in order)))
        assert [bits(chunk.tokens[0]) for chunk in together.chunks] == [bits(alone[i]) for i in order]


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(0, 0, (*range(10), 500), (Draw(10, SamplingParams()),)),
        Chunk(0, 96, (1,), (Draw(0, SamplingParams()),)),
        Chunk(NUM_SLOTS + 1, 0, (1,), (Draw(0, SamplingParams()),)),
    ],
    ids=["token_beyond_the_vocabulary", "position_beyond_the_context", "slot_that_is_not_there"],
)
@pytest.mark.parametrize("layout", ["own", "grids"])
def test_what_cannot_be_run_raises_and_harms_no_later_step(monkeypatch, chunk, layout):
    runner = runner_of("width_64", torch.device("cpu"))  # on a GPU such an index would end the process's use of the device
    if layout == "grids":
        on_grids(runner, monkeypatch)
    prompts, penalised = {1: range(20), 0: range(1)}, SamplingParams(repetition_penalty=1.3)
    expected = [generate(runner, Running(slot, prompt, penalised)) for slot, prompt in prompts.items()]
    with pytest.raises((IndexError, RuntimeError)):
        execute(runner, ForwardBatch((Running(2, range(5), SamplingParams()).chunk(), chunk)))
    # Both in one step: of each slot as many tokens are looked at as the longest of the two has.
    sequences = [Running(slot, prompt, penalised) for slot, prompt in prompts.items()]
    step(runner, sequences[:1])
    while len(sequences[0].drawn) < NUM_NEW:
        step(runner, sequences)
    assert [bits(sequence.drawn) for sequence in sequences] == expected


@pytest.mark.parametrize("when", ["launch", "collect", "copy"])
def test_torchs_errors_become_those_of_the_border(monkeypatch, when):
    runner = TorchRunner(network(SHAPES["width_64"]), 2, CHUNK, torch.device("cpu"), torch.float32)
    batch = ForwardBatch((Running(0, range(20), SamplingParams()).chunk(),))
    raised: list[Exception] = []

    def fail(*_: object) -> None:
        raise raised[-1]

    owner, name = {"launch": (runner.cache, "write"), "collect": (Download, "__getitem__"), "copy": (runner.cache, "copy_prefix")}[
        when
    ]
    monkeypatch.setattr(owner, name, fail)
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    for error, expected in (
        (torch.OutOfMemoryError("CUDA out of memory"), MemoryError),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), RunnerLost),
    ):
        raised.append(error)
        with pytest.raises(expected):
            runner.copy_prefix(0, 1, 3) if when == "copy" else runner.launch(batch).collect()


def test_warming_up_changes_no_answer(device):
    runner = TorchRunner(network(SHAPES["width_64"]), 2, CHUNK, device, torch.float32)
    before = generate(runner, Running(0, range(20), SamplingParams()))
    runner.warm_up()
    assert generate(runner, Running(0, range(20), SamplingParams())) == before


def test_a_runner_says_what_it_holds(device):
    runner = runner_of("width_75_heads_of_25", device)
    assert (runner.num_slots, runner.max_positions, runner.vocab_size) == (NUM_SLOTS, 100, 501)
    assert not runner.capabilities.exact_at_any_cut  # PyTorch's kernels are others for other numbers of rows
    assert runner.capabilities.num_steps == 1


@pytest.mark.usefixtures("needs_packed_bfloat16")
def test_the_network_that_a_runner_is_given_stays_as_it_is(device):
    model = GPT2(SHAPES["width_64"]).init_weights(torch.Generator().manual_seed(0))
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for dtype in (torch.float32, torch.bfloat16):
        generate(TorchRunner(model, 2, CHUNK, device, dtype), Running(0, range(5), SamplingParams()))
    assert model.training
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert all(torch.equal(parameter, weights[name]) and parameter.requires_grad for name, parameter in model.named_parameters())
    model(torch.tensor([[1, 2, 3]])).sum().backward()


@pytest.mark.gpu
def test_a_launch_waits_for_nothing_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU; none is here")
    runner = runner_of("width_64", torch.device("cuda"))
    params = SamplingParams(1.0, 20, 0.9, 0.01, 0.9, 1.2, 0.1, 0.1, ((3, 1.0),))
    mask = TokenMask.of(tuple(range(400)), 500)
    chunks = (
        Chunk(0, 0, (1, 2, 3), (Draw(2, params, 3, banned_ids=(0,), mask=mask, top_n=3),), Scores(0, (2, 3), top_n=2)),
        Chunk(1, 0, (4,), (Draw(0, SamplingParams(), 1),)),
    )
    expected = execute(runner, ForwardBatch(chunks))
    torch.cuda.set_sync_debug_mode("error")
    try:
        launched = runner.launch(ForwardBatch(chunks))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert launched.collect() == expected
