"""An inspection as what POST /v1/inspect answers: JSON, or tensors by their names with all else beside them. Texts come in here.

Numbers that are none are null: masked scores, -inf, which the tensors have as they are, and figures that are not defined.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor

from model.inspection.attribution import Attribution
from model.inspection.continuation import Continuation
from model.inspection.inspector import InspectedRun, Inspection
from model.inspection.lens import Lens
from model.inspection.network import Look, no_look
from model.inspection.order import Initialization, Orders
from model.inspection.summarizer import Summaries
from model.tokenizer import Tokenizer

Json = dict[str, Any]

CONVENTIONS = (
    "Weights are as they are: nothing is folded into them or centred. hook_normalized has its LayerNorm's weight and bias.",
    "hook_scale is what a LayerNorm divides by, sqrt(variance + epsilon), or 1 where it is replaced. Scores are scaled and masked.",
    "Log-probabilities, losses and entropies are in nats. logprobs[i] is that of token i after those before it.",
    "The logit lens reads each stream by the run's last LayerNorm and the unembedding. Its rank 0 is the likeliest token.",
    "attribution holds the last LayerNorm's scale at what the run divided by. What a patch or a residual left out has taken out of "
    "the stream has no share; interventions are what patches and directions put there themselves.",
    "attention has means over the positions after the first, which sees itself alone; induction over those whose token has come "
    "before, and null where there are none.",
    "prompt_attribution is the gradient of the logit by a token's embedding, times that embedding.",
    "layer_norm_order is of untrained networks: pre and post by Xavier's initialisation with embeddings of unit variance, "
    "gpt2_initialization by GPT-2's own.",
    "A token that is part of a character has an empty text, and the one that completes it the character.",
)


@dataclass(frozen=True, slots=True)
class Served:
    """What the serving path made of the prompt: log-probabilities of each token but the first, and the likeliest after the last."""

    dtype: str
    logprobs: tuple[float, ...]
    next: tuple[tuple[int, float], ...]


def json_of(
    inspection: Inspection, tokenizer: Tokenizer, model: str, served: Served | None, seconds: float, look: Look = no_look
) -> bytes:
    """`look` is called before each part, and may raise, to end the writing there."""
    answer = _Answer(inspection, tokenizer, model, served, seconds, look)
    whole = answer.whole(with_activations=True)
    look()
    return orjson.dumps(whole, option=orjson.OPT_SERIALIZE_NUMPY)


def answer_of(inspection: Inspection, tokenizer: Tokenizer, model: str, seconds: float) -> Json:
    """The same as values, of which the serving path has no part."""
    answer: Json = orjson.loads(json_of(inspection, tokenizer, model, None, seconds))
    return answer


def safetensors_of(
    inspection: Inspection, tokenizer: Tokenizer, model: str, served: Served | None, seconds: float, look: Look = no_look
) -> bytes:
    """Activations by their names, those of the ablated run behind `ablated.`; the answer without them as metadata `inspection`.

    `look` is called before each part, and may raise, to end the writing there.
    """
    tensors = {name: _array(x) for name, x in inspection.run.activations.items()}
    if inspection.ablated:
        tensors |= {f"ablated.{name}": _array(x) for name, x in inspection.ablated.activations.items()}
    answer = _Answer(inspection, tokenizer, model, served, seconds, look).whole(with_activations=False)
    look()
    return save(tensors, {"inspection": orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY).decode()})


def _array(x: Tensor) -> NDArray[np.generic]:
    return np.ascontiguousarray(x.numpy())


class _Answer:
    """Writes an answer's parts; tensors become NumPy's arrays, which orjson writes in a fraction of the time that lists take."""

    def __init__(
        self, inspection: Inspection, tokenizer: Tokenizer, model: str, served: Served | None, seconds: float, look: Look
    ) -> None:
        self._inspection, self._tokenizer, self._model, self._served = inspection, tokenizer, model, served
        self._seconds, self._look = seconds, look
        self._prompt = inspection.request.prompt
        self._text = lru_cache(None)(self._decode)

    def whole(self, *, with_activations: bool) -> Json:
        run, ablated, orders = self._inspection.run, self._inspection.ablated, self._inspection.orders
        runs = [self._run(one, with_activations=with_activations) for one in (run, ablated) if one]
        return {
            "object": "inspection",
            "model": self._model,
            "dtype": "float32",
            "conventions": CONVENTIONS,
            "tokens": self._tokens(),
            "run": runs[0],
            "ablated": runs[1] if ablated else None,
            "served": self._served and self._compared(self._served, run),
            **({"layer_norm_order": _orders(orders)} if orders else {}),
            "usage": self._usage(),
            "seconds": self._seconds,
        }

    def _decode(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special_tokens=False)

    def _tokens(self) -> list[Json]:
        decoder = self._tokenizer.decoder(skip_special_tokens=False)
        texts = [decoder.decode(token_id) for token_id in self._prompt]
        texts[-1] += decoder.flush()
        return [
            {"id": token_id, "text": text, "special": self._tokenizer.is_special(token_id)}
            for token_id, text in zip(self._prompt, texts, strict=True)
        ]

    def _token(self, token_id: int) -> Json:
        return {"id": token_id, "text": self._text(token_id)}

    def _likely(self, token_id: int, logprob: float) -> Json:
        return self._token(token_id) | {"logprob": logprob, "probability": math.exp(logprob)}

    def _run(self, run: InspectedRun, *, with_activations: bool) -> Json:
        self._look()
        arrays = {name: _array(x) for name, x in run.activations.items()} if with_activations else {}
        return {
            "loss": run.loss,
            "logprobs": [None, *run.logprobs.tolist()],
            **({} if run.summaries.entropy is None else {"entropy": _array(run.summaries.entropy)}),
            "next": [self._likely(*pair) for pair in zip(run.next_ids.tolist(), run.next_logprobs.tolist(), strict=True)],
            "continuation": run.continuation and self._continuation(run.continuation),
            "activations": {name: {"shape": x.shape, "data": x} for name, x in arrays.items()},
            "summaries": self._summaries(run.summaries),
        }

    def _continuation(self, continuation: Continuation) -> Json:
        """As one text behind the prompt's; special tokens are told among the tokens alone."""
        decoder = self._tokenizer.decoder(skip_special_tokens=False)
        for token_id in self._prompt:
            decoder.decode(token_id)
        texts = [decoder.decode(token_id) for token_id in continuation.token_ids]
        texts[-1] += decoder.flush()
        rows = list(zip(continuation.token_ids, texts, continuation.logprobs, strict=True))
        return {
            "text": "".join(text for token_id, text, _ in rows if token_id not in self._tokenizer.special_ids),
            "tokens": [{"id": token_id, "text": text, "logprob": logprob} for token_id, text, logprob in rows],
        }

    def _summaries(self, found: Summaries) -> Json:
        target = self._inspection.target
        about = {"position": target.position, "token": self._token(target.token_id)}
        written = {
            "norms": found.norms and _arrays(found.norms),
            "layer_norm": found.layer_norm and {name: _arrays(figures) for name, figures in found.layer_norm.items()},
            "attention": found.attention and _arrays(found.attention),
            "lens": found.lens and self._lens(found.lens),
            "attribution": found.attribution and about | _attribution(found.attribution),
        }
        if found.prompt_attribution is not None:
            written["prompt_attribution"] = about | {"scores": _array(found.prompt_attribution)}
        return {name: summary for name, summary in written.items() if summary is not None}

    def _lens(self, lens: Lens) -> Json:
        ids, probabilities = lens.top_ids.tolist(), lens.top_probabilities.tolist()
        return {
            "names": lens.names,
            "top": [self._tops(*stream) for stream in zip(ids, probabilities, strict=True)],
            "rank": _array(lens.rank),
            "probability": _array(lens.probability),
            "entropy": _array(lens.entropy),
        }

    def _tops(self, ids: list[list[int]], probabilities: list[list[float]]) -> list[list[Json]]:
        """Of one stream, a row a position."""
        self._look()
        return [self._most_likely(*row) for row in zip(ids, probabilities, strict=True)]

    def _most_likely(self, ids: list[int], probabilities: list[float]) -> list[Json]:
        return [self._token(i) | {"probability": probability} for i, probability in zip(ids, probabilities, strict=True)]

    def _compared(self, served: Served, run: InspectedRun) -> Json:
        theirs, ours = np.array(served.logprobs), run.logprobs.double().numpy()
        differences = np.abs(theirs - ours)
        is_empty = not len(differences)
        return {
            "dtype": served.dtype,
            "loss": None if is_empty else -float(theirs.mean()),
            "logprobs": [None, *served.logprobs],
            "next": [self._likely(*pair) for pair in served.next],
            "max_difference": None if is_empty else float(differences.max()),
            "mean_difference": None if is_empty else float(differences.mean()),
        }

    def _usage(self) -> Json:
        runs = [run for run in (self._inspection.run, self._inspection.ablated) if run and run.continuation]
        prompt, completion = len(self._prompt), sum(len(run.continuation.token_ids) for run in runs if run.continuation)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _arrays(tensors: Mapping[str, Tensor]) -> Json:
    return {name: _array(x) for name, x in tensors.items()}


def _attribution(attribution: Attribution) -> Json:
    return {
        "logit": attribution.logit,
        "embed": attribution.embed,
        "pos_embed": attribution.pos_embed,
        "heads": _array(attribution.heads),
        "attention_biases": _array(attribution.attention_biases),
        "mlps": _array(attribution.mlps),
        "ln_final_bias": attribution.ln_final_bias,
        "interventions": attribution.interventions,
        "sum": attribution.sum,
    }


def _orders(orders: Mapping[Initialization, Orders]) -> Json:
    """Each order's figures where a branch writes about as much as the stream holds, and beside them those of GPT-2's own start."""
    xavier, gpt2 = (asdict(orders[initialization]) for initialization in ("xavier", "gpt2"))
    return {"layers": list(range(len(orders["xavier"].pre.gradient_norms))), **xavier, "gpt2_initialization": gpt2}
