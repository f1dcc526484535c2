"""Whether the kernels compute what they should on this card: held against the plain network, and against themselves.

A prompt, the same tokens one by one, and a batch of all slots over several steps: the first comes near the plain network, and the
others have its bits.
"""

import torch

from model.batch import Chunk, ChunkOutput, Draw, ForwardBatch, SamplingParams, Scores
from model.cuda.runner import CudaRunner
from model.gpt2 import GPT2

NUM_TOKENS = 40  # more than two query tiles
NUM_SINGLE = 5  # of which so many are run once more one by one
NUM_NEW = 16  # a launch with all graphs of further steps
# Root mean square error of log-probabilities, as a share of the logits' standard deviation: rounding stays well below.
TOLERANCES = {torch.float32: 0.001, torch.float16: 0.02, torch.bfloat16: 0.1}
FILTERED = SamplingParams(temperature=0.9, top_k=50, top_p=0.9, min_p=0.01, typical_p=0.95)
PENALISED = SamplingParams(temperature=0.9, repetition_penalty=0.5, frequency_penalty=0.5)  # the prompt's tokens are made likelier
NUM_SEEDS = 16


class SelfTestFailed(Exception):
    """The kernels compute something else than they should."""


def check_runner(runner: CudaRunner, model: GPT2, dtype: torch.dtype) -> None:
    """Takes a second, and longer where kernels are compiled first; raises SelfTestFailed. `model` is the float32 network."""
    num = min(NUM_TOKENS, runner.max_positions)
    token_ids = tuple((7 + 11 * i * i) % runner.vocab_size for i in range(num))
    prompt = _scores_of(runner, token_ids, 0, 0, num)
    _check_error(prompt, model, token_ids, TOLERANCES[dtype])
    _check_single_tokens(runner, token_ids, prompt)
    num_new = min(NUM_NEW, runner.max_positions - num)
    if num_new > 0:
        _check_crowd(runner, token_ids, num_new)
        _check_sampling(runner, token_ids, FILTERED)
        _check_sampling(runner, token_ids, PENALISED)


def _scores_of(runner: CudaRunner, token_ids: tuple[int, ...], slot: int, start: int, end: int) -> list[float]:
    """The log-probability of each token that follows one of token_ids[start:end], which are run as one chunk."""
    chunk = Chunk(slot, start, token_ids[start:end], scores=Scores(0, token_ids[start + 1 : end + 1]))
    return [score.logprob for score in _run(runner, chunk)[0].scores]


def _run(runner: CudaRunner, *chunks: Chunk, num_steps: int = 1) -> tuple[ChunkOutput, ...]:
    outputs = runner.launch(ForwardBatch(chunks, num_steps)).collect().chunks
    for out in outputs:
        if out.error is not None:
            raise SelfTestFailed(out.error)
    return outputs


@torch.inference_mode()
def _check_error(logprobs: list[float], model: GPT2, token_ids: tuple[int, ...], tolerance: float) -> None:
    if not logprobs:
        return  # a model of one position
    logits = model.eval()(torch.tensor([token_ids[:-1]]))[0]  # (T, V)
    expected = logits.log_softmax(dim=-1).gather(-1, torch.tensor(token_ids[1:])[:, None])[:, 0]
    error = float((torch.tensor(logprobs) - expected).square().mean().sqrt() / logits.std())
    if not error <= tolerance:
        raise SelfTestFailed(f"a prompt's log-probabilities are {error:.3g} deviations of its logits off the plain network's")


def _check_single_tokens(runner: CudaRunner, token_ids: tuple[int, ...], prompt: list[float]) -> None:
    """The last tokens one by one, behind a prompt that ends in the middle of a query tile."""
    slot, first = runner.num_slots - 1, max(len(token_ids) - NUM_SINGLE, 1)
    logprobs = _scores_of(runner, token_ids, slot, 0, first)
    for position in range(first, len(token_ids) - 1):
        logprobs += _scores_of(runner, token_ids, slot, position, position + 1)
    if logprobs != prompt:
        raise SelfTestFailed("tokens one by one have other bits than in a prompt")


def _check_crowd(runner: CudaRunner, token_ids: tuple[int, ...], num_new: int) -> None:
    """Every slot continues the prompt for some steps in one launch, as one does alone, step by step."""
    prefix, last = token_ids[:-1], token_ids[-1:]
    if prefix:
        _run(runner, Chunk(0, 0, prefix))
    for slot in range(1, runner.num_slots):
        runner.copy_prefix(0, slot, len(prefix))
    draw = Draw(0, PENALISED, len(token_ids) - 1, max_new=num_new)
    chunks = [Chunk(slot, len(prefix), last, (draw,)) for slot in range(runner.num_slots)]
    crowd = {out.tokens for out in _run(runner, *chunks, num_steps=num_new)}
    alone, token_id = [], last[0]
    for i in range(num_new):
        ((token,),) = _run(runner, Chunk(0, len(prefix) + i, (token_id,), (draw._replace(max_new=1),)))[0].tokens
        alone.append(token)
        token_id = token.token_id
    if crowd != {(tuple(alone),)}:
        raise SelfTestFailed("a full batch has other bits than its sequences alone")


def _check_sampling(runner: CudaRunner, token_ids: tuple[int, ...], params: SamplingParams) -> None:
    """The kernels draw what PyTorch's sampler draws, which is who draws where the likeliest tokens are told too."""
    draws = [Draw(len(token_ids) - 1, params.of_sample(i), len(token_ids) // 2) for i in range(NUM_SEEDS)]
    draws += [draw._replace(top_n=1) for draw in draws]
    tokens = [token for (token,) in _run(runner, Chunk(0, 0, token_ids, tuple(draws)))[0].tokens]
    num_others = sum(a.token_id != b.token_id for a, b in zip(tokens[:NUM_SEEDS], tokens[NUM_SEEDS:], strict=True))
    if num_others > 1:  # one random number may lie on the border between two tokens
        raise SelfTestFailed(f"of {NUM_SEEDS} draws {num_others} are not those of PyTorch's sampler")
