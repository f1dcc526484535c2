"""A generation on an engine whose outputs are given by hand: samples, stop strings, scores and times."""

import asyncio
import time

import pytest

from app.billing import Billing
from app.deadline import Timeouts
from app.engine.client import Limits
from app.engine.mailbox import Mailbox
from app.engine.sequence import EngineRequest, FinishReason, PromptScores, ScoresOutput, TokensOutput
from app.errors import ClientLeft, DeadlinePassed, InvalidRequest, PromptTooLong
from app.generation import Generation, GenerationRequest, TextGenerator
from app.metrics import Metrics
from app.scoring import start_scoring
from model.batch import SampledToken, SamplingParams, ScoredToken
from model.config import GPT2Config
from model.cost import Cost
from model.tokenizer import DEFAULT_READING

BILLING = Billing(Cost(GPT2Config(), "float32"), num_threads=1, power=None)


class ClientByHand:
    """Takes requests in and notes what is aborted; the test puts the outputs into the mailboxes."""

    limits = Limits(max_positions=64, vocab_size=500, num_slots=4)

    def __init__(self) -> None:
        self.mailbox = Mailbox(range(0))
        self.ends: list[str] = []
        self.requests: list[EngineRequest] = []
        self.aborted: list[tuple[int, int | None]] = []

    def check_ready(self) -> None:
        pass

    def submit(self, *requests: EngineRequest, patience: float | None = None) -> Mailbox:
        self.requests += requests
        self.mailbox = Mailbox(range(len(requests)))
        return self.mailbox

    def abort(self, mailbox: Mailbox, how: str = "aborted") -> None:
        self.ends.append(how)
        self.aborted += [(request_id, None) for request_id in mailbox.request_ids]

    def end_sample(self, request_id: int, sample: int) -> None:
        self.aborted.append((request_id, sample))


class Bench:
    """A text generator on a client by hand."""

    def __init__(self, tokenizer) -> None:
        self.client, self.metrics = ClientByHand(), Metrics()
        self.generator = TextGenerator(self.client, tokenizer, (499,), self.metrics, BILLING)  # type: ignore[arg-type]  # plays the client

    async def start(self, arrived: float | None = None, **wanted: object) -> Generation:
        fields = {"prompts": ("#$",), "sampling": SamplingParams(seed=2**64 - 1), "max_new_tokens": 8} | wanted
        return await self.generator.start(GenerationRequest(**fields), arrived)

    def draw(self, text: str, sample: int = 0, at: float = 0.0, ended: FinishReason | None = None, request: int = 0) -> None:
        """A step's tokens of a sample: one a letter."""
        tokens = tuple(SampledToken(token_id, -1.0) for letter in text for token_id in self.generator.tokenizer.encode(letter))
        self.client.mailbox.put(TokensOutput(request, sample, tokens, ended, at, 0.25, 3))

    def score(self, *logprobs: float, is_last: bool = False, request: int = 0) -> None:
        scores = tuple(ScoredToken(logprob) for logprob in logprobs)
        self.client.mailbox.put(ScoresOutput(request, scores, is_last, 1.0, 0.25, 3))

    def observed(self, name: str, kind: str = "sum") -> float:
        return self.metrics.registry.get_sample_value(f"gpt2_{name}_{kind}") or 0.0


@pytest.fixture
def bench(small_tokenizer):
    return Bench(small_tokenizer)


def test_each_samples_tokens_become_its_own_text(bench):
    async def run():
        generation = await bench.start(num_samples=2)
        for text, sample in (("a", 0), ("x", 1), ("y", 1), ("b", 0)):
            bench.draw(text, sample)
        tokens = await generation.next()
        assert [(token.sample, token.number, token.text) for token in tokens] == [
            (0, 1, "a"),
            (1, 1, "x"),
            (1, 2, "y"),
            (0, 2, "b"),
        ]
        assert [sample.text for sample in generation.samples] == ["ab", "xy"]
        assert [sample.seed for sample in generation.samples] == [2**64 - 1, 0]

    asyncio.run(run())


def test_a_stop_string_ends_its_own_sample_alone(bench):
    async def run():
        generation = await bench.start(num_samples=2, stop=("yz",))
        for text, sample in (("y", 1), ("z", 1), ("a", 0), ("b", 1)):
            bench.draw(text, sample)
        tokens = await generation.next()
        assert [(token.sample, token.finish_reason) for token in tokens] == [(1, None), (1, FinishReason.STOP), (0, None)]
        assert bench.client.aborted == [(0, 1)]
        assert not generation.is_finished
        bench.draw("c", 1)  # drawn before the engine heard of it
        bench.draw("b", 0, ended=FinishReason.LENGTH)
        assert [token.text for token in await generation.next()] == ["b"]
        assert generation.is_finished
        assert [sample.text for sample in generation.samples] == ["ab", ""]
        assert bench.client.aborted == [(0, 1)], "the other ended by itself"

    asyncio.run(run())


def test_of_tokens_that_come_together_those_behind_a_stop_string_are_nobodys(bench):
    async def run():
        generation = await bench.start(stop=("yz",))
        bench.draw("ab")
        bench.draw("yzcd", ended=FinishReason.LENGTH)
        tokens = await generation.next()
        assert [(token.number, token.text, token.finish_reason) for token in tokens] == [
            (1, "a", None),
            (2, "b", None),
            (3, "", None),
            (4, "", FinishReason.STOP),
        ]
        assert generation.is_finished
        (sample,) = generation.samples
        assert (sample.text, sample.num_generated, sample.sum_logprob) == ("ab", 4, -4.0)

    asyncio.run(run())


def test_equal_tokens_that_come_together_end_with_the_last_of_them(bench):
    """Values may be the very same object, where they are equal."""

    async def run():
        generation = await bench.start()
        (token_id,) = bench.generator.tokenizer.encode("a")
        bench.client.mailbox.put(TokensOutput(0, 0, (SampledToken(token_id, -1.0),) * 3, FinishReason.LENGTH, 0.0, 0.0, 0))
        assert [token.finish_reason for token in await generation.next()] == [None, None, FinishReason.LENGTH]

    asyncio.run(run())


def test_tokens_that_come_together_share_the_time_since_those_before(bench):
    async def run():
        generation = await bench.start()
        arrived = generation.timings.arrived
        bench.draw("a", at=arrived + 0.5)
        bench.draw("bcde", at=arrived + 0.9, ended=FinishReason.LENGTH)
        await generation.next()

    asyncio.run(run())
    assert bench.observed("time_to_first_token_seconds") == pytest.approx(0.5)
    assert bench.observed("inter_token_seconds", "count") == 4
    assert bench.metrics.registry.get_sample_value("gpt2_inter_token_seconds_bucket", {"le": "0.05"}) == 0
    assert bench.metrics.registry.get_sample_value("gpt2_inter_token_seconds_bucket", {"le": "0.2"}) == 4
    assert bench.observed("inter_token_seconds") == pytest.approx(0.4)


def test_a_reader_who_is_late_distorts_no_time(bench):
    async def run():
        generation = await bench.start(num_samples=2)
        arrived = generation.timings.arrived
        bench.draw("a", 0, arrived + 0.5)
        bench.draw("a", 1, arrived + 0.75)
        bench.draw("b", 0, arrived + 1.5)
        await asyncio.sleep(0.05)
        await generation.next()
        await asyncio.sleep(0.05)
        bench.draw("b", 1, arrived + 2.0, FinishReason.EOS)
        bench.draw("c", 0, arrived + 2.5, FinishReason.LENGTH)
        await generation.next()

    asyncio.run(run())
    assert bench.observed("time_to_first_token_seconds") == pytest.approx(0.5 + 0.75)
    assert bench.observed("inter_token_seconds") == pytest.approx(1.0 + 1.25 + 1.0)
    assert bench.observed("request_seconds") == pytest.approx(2.5)
    assert bench.observed("queue_seconds") == 0.25
    assert [bench.observed(name, "count") for name in ("queue_seconds", "request_seconds")] == [1, 1]


def test_scores_alone_are_no_silence(bench):
    """A streamed answer's headers go out with the first silence or token; until then a failure has its own status."""

    async def run():
        generation = await bench.start(prompts=("#$%",), prompt_top_n=0)
        waiting = asyncio.create_task(generation.next(60))
        bench.score(-0.5)
        await asyncio.sleep(0.01)
        bench.score(-0.25)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        bench.draw("d")
        assert [token.text for token in await waiting] == ["d"]
        assert [(token.text, token.logprob) for token in generation.prompts[0].tokens(bench.generator.tokenizer)] == [
            ("#", None),
            ("$", -0.5),
            ("%", -0.25),
        ]

    asyncio.run(run())


def test_silence_is_an_empty_list(bench):
    async def run():
        generation = await bench.start()
        assert await generation.next(0.001) == []
        assert not generation.is_finished

    asyncio.run(run())


@pytest.mark.parametrize(("asked", "scores"), [(None, PromptScores(first=3)), (2, PromptScores(first=1, top_n=2))])
def test_a_request_for_no_tokens_ends_with_its_scores(bench, asked, scores):
    async def run():
        generation = await bench.start(prompts=("#$%",), max_new_tokens=0, prompt_top_n=asked, num_samples=3)
        (request,) = bench.client.requests
        assert (request.max_new_tokens, request.num_samples, request.scores) == (0, 1, scores)
        bench.score(*([-1.0] * (3 - scores.first)), is_last=True)
        assert await generation.next() == []
        assert generation.is_finished
        assert {sample.finish_reason for sample in generation.samples} == {FinishReason.LENGTH}
        assert [token.logprob for token in generation.prompts[0].tokens(bench.generator.tokenizer)] == [
            None,
            *([None, None] if asked is None else [-1.0, -1.0]),
        ]

    asyncio.run(run())


def test_a_prompt_leaves_room_for_a_token_if_one_is_wanted(bench):
    async def run():
        prompt = "\x00" * 64
        with pytest.raises(PromptTooLong, match="at most 63"):
            await bench.start(prompts=(prompt,))
        assert len((await bench.start(prompts=(prompt,), max_new_tokens=0)).prompts[0].ids) == 64
        with pytest.raises(PromptTooLong, match="at most 64"):
            await bench.start(prompts=(prompt + "\x00",), max_new_tokens=0)

    asyncio.run(run())


def test_samples_are_ranked_by_their_mean_log_probability_and_then_by_index(bench):
    async def run():
        generation = await bench.start(num_samples=4)
        for sample, (total, num) in zip(generation.samples, [(-6.0, 2), (-5.0, 5), (-3.0, 1), (-1.0, 1)], strict=True):
            sample.sum_logprob, sample.num_generated = total, num
        assert [sample.index for sample in generation.samples_of(0, ranked=True)] == [1, 3, 0, 2]

    asyncio.run(run())


def test_one_whose_client_leaves_wakes_up(bench):
    async def run():
        generation = await bench.start(num_samples=2)
        waiting = asyncio.create_task(generation.next())
        await asyncio.sleep(0)
        generation.abort(ClientLeft("the client left"))
        with pytest.raises(ClientLeft):
            await waiting
        assert bench.client.aborted == [(0, None)]

    asyncio.run(run())


def test_candidates_are_read_in_order_however_their_scores_come(bench):
    async def run():
        scoring = await start_scoring(bench.generator, "#$", ["%&", "e"], DEFAULT_READING)
        assert [(request.prompt_ids[2:], request.scores) for request in bench.client.requests] == [
            (tuple(bench.generator.tokenizer.encode(candidate)), PromptScores(first=2)) for candidate in ("%&", "e")
        ]
        waiting = asyncio.create_task(scoring.scores())
        bench.score(-3.0, is_last=True, request=1)
        bench.score(-1.0)
        await asyncio.sleep(0.01)
        bench.score(-2.0, is_last=True)
        assert [score.logprobs for score in await waiting] == [[-1.0, -2.0], [-3.0]]
        assert scoring.num_reused == 2, "not more than the prompt has"

    asyncio.run(run())


def test_the_prompts_of_a_call_have_their_own_scores_and_samples(bench):
    async def run():
        generation = await bench.start(prompts=("#$", "%"), num_samples=2, prompt_top_n=0)
        bench.score(-1.5)
        bench.draw("a", sample=1, request=1)
        bench.draw("b", sample=0, request=0)
        tokens = await generation.next()
        assert [(token.sample, token.text) for token in tokens] == [(3, "a"), (0, "b")]
        assert [len(prompt.scores) for prompt in generation.prompts] == [1, 0]
        assert [sample.seed for sample in generation.samples] == [2**64 - 1, 0] * 2
        assert [sample.text for sample in generation.samples_of(1)] == ["", "a"]

    asyncio.run(run())


def test_what_is_finished_has_no_deadline(bench):
    async def run():
        generation = await bench.start(timeout_seconds=1000)
        assert not generation._alarm.cancelled()
        bench.draw("a", ended=FinishReason.LENGTH)
        assert [token.text for token in await generation.next()] == ["a"]
        assert generation.is_finished
        assert generation._alarm.cancelled()

    asyncio.run(run())


def test_a_deadline_wakes_who_waits(bench):
    async def run():
        generation = await bench.start(timeout_seconds=1.0)
        with pytest.raises(DeadlinePassed, match=r"timeout_seconds: the 1 s"):
            await generation.next()
        assert bench.client.aborted == [(0, None)]
        assert bench.client.ends == ["expired"]

    asyncio.run(run())


class LaterClock:
    """The time module of those who look at the clock two thousand seconds from now."""

    @staticmethod
    def monotonic() -> float:
        return time.monotonic() + 2000


def test_what_is_complete_after_its_deadline_is_late_all_the_same(bench, monkeypatch):
    async def run():
        generation = await bench.start(timeout_seconds=1000)
        bench.draw("a", ended=FinishReason.LENGTH)
        monkeypatch.setattr("app.deadline.time", LaterClock)
        with pytest.raises(DeadlinePassed, match="timeout_seconds: the 1000 s"):
            await generation.next()
        assert bench.client.ends == ["expired"]

    asyncio.run(run())


def test_what_was_done_for_a_request_before_is_part_of_its_time(bench):
    async def run():
        with pytest.raises(DeadlinePassed):
            await bench.start(arrived=time.monotonic() - 20, timeout_seconds=10)
        assert bench.client.requests == []

    asyncio.run(run())


def test_the_service_sets_a_deadline_to_who_names_none_and_bounds_the_others(bench):
    async def run():
        bench.generator.timeouts = Timeouts(default_seconds=30, max_seconds=60)
        assert (await bench.start()).deadline.seconds == 30
        assert (await bench.start(timeout_seconds=60)).deadline.seconds == 60
        with pytest.raises(InvalidRequest, match="timeout_seconds: 61 is refused: the most that this server takes is 60"):
            await bench.start(timeout_seconds=61)
        bench.generator.timeouts = Timeouts(max_seconds=60)
        assert (await bench.start()).deadline.seconds == 60
        bench.generator.timeouts = Timeouts()
        assert (await bench.start()).deadline is None
        assert (await bench.start(timeout_seconds=5000)).deadline.seconds == 5000

    asyncio.run(run())
