"""TorchRunner: integers in, integers out. Owns the device, the network, the cache and the sampler; knows no text and no requests.

The reference among runners. A row of a step has the same bits whatever else is in the step: see `model.layout`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from model.batch import (
    NOT_FINITE,
    NOTHING_TO_DRAW,
    Capabilities,
    Chunk,
    ChunkOutput,
    Draw,
    ForwardBatch,
    Launched,
    SampledToken,
    SamplingParams,
    ScoredToken,
    StepOutput,
)
from model.device_errors import translated_errors
from model.download import Download
from model.gpt2 import GPT2
from model.history import History
from model.kv_cache import KVCache
from model.layout import Grids, LaidOut, Layout, Pass, Ragged
from model.packed_linear import packed, padded_rows
from model.sampler import DrawRow, Sampler, SamplingPlan, ScoringPlan, log_softmax, score
from model.steps import Done, run_steps
from model.top import to_top
from model.upload import Handle, Upload

# Rows of the output head at a time on a CPU: 13 MB of logits for GPT-2's 50,257 tokens, and as much for each thing made of them.
MAX_HEAD_ROWS = 64
MAX_DRAWS = 64  # of a chunk; more would do as well


class HeadRows(NamedTuple):
    """Some of a step's rows for the output head, padded, and what is made of the logits and log-probabilities of `num_rows`."""

    rows: Handle
    num_rows: int
    told_of: Callable[[Tensor, Tensor], Tensor]


class TorchRunner:
    """A Runner in plain PyTorch for `cpu` and `cuda`.

    `chunk_size` is the most tokens that one chunk may have. The network stays as it is: what computes is a copy, which shares the
    weights that it does not need in another form.
    """

    capabilities = Capabilities(exact_at_any_cut=False, max_draws=MAX_DRAWS)

    def __init__(self, model: GPT2, num_slots: int, chunk_size: int, device: torch.device, dtype: torch.dtype) -> None:
        on_cpu = device.type == "cpu"
        self.model = packed(model, dtype) if on_cpu else model.for_inference(device, dtype)
        self.device, self.chunk_size = device, chunk_size
        self.cache = KVCache(model.config, num_slots, dtype, device)
        self.history = History(num_slots, model.config.n_positions, device)
        self.sampler = Sampler(self.history, device)
        self.layout: Layout = Ragged(self.cache) if on_cpu else Grids(self.cache, chunk_size)

    @property
    def num_slots(self) -> int:
        return self.cache.num_slots

    @property
    def max_positions(self) -> int:
        return self.model.config.n_positions

    @property
    def vocab_size(self) -> int:
        return self.model.config.vocab_size

    def launch(self, batch: ForwardBatch) -> Launched:
        """Begin to run the chunks; waits for nothing on the device unless the batch has several steps."""
        with translated_errors(), torch.inference_mode():
            if batch.num_steps > 1:
                return Done(run_steps(lambda step: self._launch(step.chunks).collect(), batch))
            return self._launch(batch.chunks)

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        with translated_errors():
            self.cache.copy_prefix(source, target, length)
            self.history.copy_prefix(source, target, length)

    def warm_up(self) -> None:
        """Run the largest chunk and a decoding step, so that the first request does not pay for allocations and kernel choices."""
        num_tokens = min(self.chunk_size, self.max_positions - 1)
        params = SamplingParams(temperature=1.0)
        self.launch(ForwardBatch((Chunk(0, 0, (0,) * num_tokens, (Draw(num_tokens - 1, params),)),))).collect()
        self.launch(ForwardBatch((Chunk(0, num_tokens, (0,), (Draw(0, params),)),))).collect()

    def _launch(self, chunks: Sequence[Chunk]) -> Launched:
        if not chunks:
            return Done(StepOutput(()))
        upload, download = Upload(self.device), Download()
        laid_out = self.layout(chunks, upload)
        draws, scores = self._draws(chunks, laid_out, upload), self._scores(chunks, laid_out, upload)
        last_rows = upload.ints(first + len(chunk.token_ids) - 1 for first, chunk in zip(laid_out.first_rows, chunks, strict=True))
        upload.send()
        hidden = torch.cat([self._hidden(one, upload) for one in laid_out.passes])  # (R, C)
        finite = download.add(hidden[upload[last_rows]].isfinite().all(dim=-1, keepdim=True))
        drawn, scored = ([download.add(self._told(block, hidden, upload)) for block in blocks] for blocks in (draws, scores))
        download.send()
        return UnderWay(chunks, download, finite, drawn, scored)

    def _hidden(self, one: Pass, upload: Upload) -> Tensor:
        """Run a pass and leave in the slots nothing that is no number.

        Masked positions weigh nothing, but nothing times NaN is NaN: a slot's next sequence would inherit it. All is done on the
        device, as a step may be launched before the last one's errors are known. A NaN anywhere in a chunk reaches its last row.
        """
        token_ids, positions, slots = upload[one.token_ids], upload[one.positions], upload[one.slots]
        self.history.write(slots, positions, token_ids)
        hidden = self.model.hidden_states(token_ids, positions, one.attention())  # (R, C)
        if one.last_rows is not None:
            is_sound = hidden.isfinite().all(dim=-1)[upload[one.last_rows]]  # (R,)
            self.cache.erase(slots.masked_fill(is_sound, self.cache.scratch), positions)
        return hidden

    def _draws(self, chunks: Sequence[Chunk], laid_out: LaidOut, upload: Upload) -> list[HeadRows]:
        rows, asked = [], []
        for first, chunk in zip(laid_out.first_rows, chunks, strict=True):
            for draw in chunk.draws:
                assert 0 <= draw.row < len(chunk.token_ids), "a draw follows a row of its chunk"
                rows.append(first + draw.row)
                asked.append(DrawRow(chunk.slot, chunk.start + draw.row + 1, draw))
        blocks = []
        for part in self._parts(len(rows)):
            plan = SamplingPlan(asked[part], upload)
            blocks.append(self._head_rows(rows[part], upload, partial(self.sampler.draw, plan=plan, upload=upload)))
        return blocks

    def _scores(self, chunks: Sequence[Chunk], laid_out: LaidOut, upload: Upload) -> list[HeadRows]:
        rows: list[int] = []
        token_ids: list[int] = []
        top_ns: list[int] = []
        for first, chunk in zip(laid_out.first_rows, chunks, strict=True):
            if (scores := chunk.scores) is not None:
                num = len(scores.token_ids)
                assert 0 <= scores.first_row <= len(chunk.token_ids) - num, "scores follow rows of their chunk"
                rows += range(first + scores.first_row, first + scores.first_row + num)
                token_ids += scores.token_ids
                top_ns += [scores.top_n] * num
        blocks = []
        for part in self._parts(len(rows)):
            plan = ScoringPlan(token_ids[part], top_ns[part], upload)
            blocks.append(self._head_rows(rows[part], upload, partial(_score, plan=plan, upload=upload)))
        return blocks

    def _parts(self, num_rows: int) -> Iterator[slice]:
        """Rows for the output head, so many at a time that its logits keep to a bound."""
        most = MAX_HEAD_ROWS if self.device.type == "cpu" else self.num_slots
        return (slice(first, first + most) for first in range(0, num_rows, most))

    def _head_rows(self, rows: list[int], upload: Upload, told_of: Callable[[Tensor, Tensor], Tensor]) -> HeadRows:
        """The rows, padded to a number for which a row's bits are the same whatever the others."""
        wanted = padded_rows(len(rows)) if self.device.type == "cpu" else self.num_slots
        return HeadRows(upload.ints(rows + rows[:1] * (wanted - len(rows))), len(rows), told_of)

    def _told(self, block: HeadRows, hidden: Tensor, upload: Upload) -> Tensor:
        logits = self.model.lm_head(hidden[upload[block.rows]])[: block.num_rows].float()  # (B, V)
        return block.told_of(logits, log_softmax(logits))


def _score(_: Tensor, logprobs: Tensor, plan: ScoringPlan, upload: Upload) -> Tensor:
    return score(logprobs, plan, upload)


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A step whose results are on their way: the places of what is told of its chunks' last rows, draws and scores."""

    chunks: Sequence[Chunk]
    download: Download
    finite: int
    drawn: list[int]
    scored: list[int]

    def collect(self) -> StepOutput:
        with translated_errors():
            finite = self.download[self.finite]
        drawn, scored = (iter([row for place in places for row in self.download[place]]) for places in (self.drawn, self.scored))
        outputs = []
        for chunk, (is_finite,) in zip(self.chunks, finite, strict=True):
            num_scores = len(chunk.scores.token_ids) if chunk.scores else 0
            of_draws, of_scores = list(islice(drawn, len(chunk.draws))), list(islice(scored, num_scores))
            outputs.append(_output(chunk, bool(is_finite), of_draws, of_scores))
        return StepOutput(tuple(outputs))


def _output(chunk: Chunk, is_finite: bool, drawn: list[list[float]], scored: list[list[float]]) -> ChunkOutput:
    """What the rows of `Sampler.draw` and of `score` say of a chunk."""
    if not is_finite or not all(math.isfinite(logprob) for logprob, *_ in scored):
        return ChunkOutput(error=NOT_FINITE)
    if any(nothing_left for _, _, nothing_left, *_ in drawn):
        return ChunkOutput(error=NOTHING_TO_DRAW)
    if not all(math.isfinite(logprob) for _, logprob, *_ in drawn):
        return ChunkOutput(error=NOT_FINITE)
    tokens = tuple(
        (SampledToken(int(token_id), logprob, to_top(top, draw.top_n)),)
        for draw, (token_id, logprob, _, *top) in zip(chunk.draws, drawn, strict=True)
    )
    top_n = chunk.scores.top_n if chunk.scores else 0
    return ChunkOutput(tokens, tuple(ScoredToken(logprob, to_top(top, top_n)) for logprob, *top in scored))
