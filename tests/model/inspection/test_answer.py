"""The answer of an inspection: every number of it in its place, as JSON, as values and as tensors; texts of tokens."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from model.checkpoint import load_tokenizer
from model.inspection.answer import Served, answer_of, json_of, safetensors_of
from model.inspection.inspector import Inspection, Inspector
from model.inspection.request import SUMMARIES, InspectionRequest, MLPAblation, NoResidual
from model.network_files import load_model
from model.tokenizer import Tokenizer

NAMES = ("blocks.0.attn.hook_attn_scores", "blocks.*.hook_resid_*", "blocks.1.attn.hook_z")
FIGURES = {
    "norms": 9,
    "layer_norm": 3,
    "attention": 6,
    "lens": 5,
    "attribution": 11,
    "prompt_attribution": 3,
}


@pytest.fixture(scope="module")
def inspector(tiny_checkpoint: Path) -> Inspector:
    return Inspector(load_model(tiny_checkpoint))


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> Tokenizer:
    return load_tokenizer(tiny_checkpoint)


@pytest.fixture(scope="module")
def request_of_all(tokenizer: Tokenizer) -> InspectionRequest:
    prompt = tuple(tokenizer.encode("the cat, the dog, the"))
    return InspectionRequest(prompt, NAMES, None, SUMMARIES, ablations=(NoResidual("mlp", 1),), max_new_tokens=4)


@pytest.fixture(scope="module")
def inspection(inspector: Inspector, request_of_all: InspectionRequest) -> Inspection:
    return inspector.inspect(request_of_all)


def test_all_numbers_are_there_in_their_shapes(inspection: Inspection, tokenizer: Tokenizer) -> None:
    answer = answer_of(inspection, tokenizer, "tiny", 0.25)
    T, L, H = len(inspection.request.prompt), 2, 4
    assert (answer["object"], answer["model"], answer["dtype"], answer["seconds"]) == ("inspection", "tiny", "float32", 0.25)
    assert len(answer["conventions"]) > 5
    for run in (answer["run"], answer["ablated"]):
        summaries = run["summaries"]
        assert {name: len(figures) for name, figures in summaries.items()} == FIGURES
        assert len(run["logprobs"]) == len(run["entropy"]) == T
        assert run["logprobs"][0] is None
        assert run["loss"] == pytest.approx(-sum(run["logprobs"][1:]) / (T - 1), rel=1e-5)
        assert np.shape(summaries["norms"]["embed"]) == np.shape(summaries["layer_norm"]["ln_final"]["mean"]) == (T,)
        assert np.shape(summaries["norms"]["mlp_cosine"]) == np.shape(summaries["layer_norm"]["ln1"]["deviation"]) == (L, T)
        assert np.shape(summaries["attention"]["induction"]) == np.shape(summaries["attribution"]["heads"]) == (L, H)
        assert np.shape(summaries["lens"]["rank"]) == (L + 1, T)
        assert np.shape(summaries["lens"]["top"]) == (L + 1, T, 5)
        assert np.shape(summaries["prompt_attribution"]["scores"]) == (T,)
        assert summaries["attribution"]["sum"] == pytest.approx(summaries["attribution"]["logit"], abs=1e-4)
    order = answer["layer_norm_order"]
    assert order["layers"] == [0, 1]
    for figures in (order["pre"], order["post"], order["gpt2_initialization"]["pre"], order["gpt2_initialization"]["post"]):
        assert figures["loss"] > 0
        assert len(figures["gradient_norms"]) == L


def test_a_run_tells_what_comes_next_and_how_it_goes_on(inspection: Inspection, tokenizer: Tokenizer) -> None:
    answer = answer_of(inspection, tokenizer, "tiny", 0.0)
    run = answer["run"]
    assert len(run["next"]) == 5
    for token in run["next"]:
        assert token["probability"] == pytest.approx(math.exp(token["logprob"]))
        assert token["text"] == tokenizer.decode([token["id"]], skip_special_tokens=False)
    going_on = run["continuation"]
    assert going_on["tokens"][0]["id"] == run["next"][0]["id"]
    assert going_on["text"] == tokenizer.decode([token["id"] for token in going_on["tokens"]])
    assert run["summaries"]["lens"]["top"][-1][-1][0]["id"] == run["next"][0]["id"]
    numbers = [len(answer[name]["continuation"]["tokens"]) for name in ("run", "ablated")]
    prompt = len(inspection.request.prompt)
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": sum(numbers), "total_tokens": prompt + sum(numbers)}


def test_activations_are_nested_lists_with_nulls_for_masked_scores(inspection: Inspection, tokenizer: Tokenizer) -> None:
    activations = answer_of(inspection, tokenizer, "tiny", 0.0)["run"]["activations"]
    for name, tensor in inspection.run.activations.items():
        assert activations[name]["shape"] == list(tensor.shape)
        data = np.array(activations[name]["data"], dtype=np.float32)  # None becomes NaN
        assert np.array_equal(np.isnan(data), ~np.isfinite(tensor.detach().numpy())), name
        assert np.array_equal(np.nan_to_num(data), np.where(np.isnan(data), 0, tensor.detach().numpy())), name
    scores = activations["blocks.0.attn.hook_attn_scores"]["data"]
    assert scores[0][0][1] is None
    assert scores[0][1][1] is not None


def test_tensors_have_what_json_has(inspection: Inspection, tokenizer: Tokenizer) -> None:
    written = safetensors_of(inspection, tokenizer, "tiny", None, 0.0)
    tensors, answer = load(written), metadata_of(written)
    assert inspection.ablated is not None
    both = {"": inspection.run, "ablated.": inspection.ablated}
    wanted = {prefix + name: tensor for prefix, run in both.items() for name, tensor in run.activations.items()}
    assert tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert np.array_equal(tensors[name], tensor.detach().numpy()), name
    assert np.isneginf(tensors["blocks.0.attn.hook_attn_scores"][0, 0, 1])
    assert answer["run"].pop("activations") == answer["ablated"].pop("activations") == {}
    whole = answer_of(inspection, tokenizer, "tiny", 0.0)
    for run in (whole["run"], whole["ablated"]):
        del run["activations"]
    assert answer == whole


def metadata_of(written: bytes) -> Any:
    header = json.loads(written[8 : 8 + int.from_bytes(written[:8], "little")])
    return json.loads(header["__metadata__"]["inspection"])


def test_summaries_that_were_not_asked_for_are_absent(
    inspector: Inspector, request_of_all: InspectionRequest, tokenizer: Tokenizer
) -> None:
    request = replace(request_of_all, names=(), summaries=("norms",), ablations=(), max_new_tokens=0)
    answer = answer_of(inspector.inspect(request), tokenizer, "tiny", 0.0)
    assert answer["run"]["summaries"].keys() == {"norms"}
    assert answer["ablated"] is answer["served"] is answer["run"]["continuation"] is None
    assert answer["run"]["activations"] == {}
    assert "entropy" not in answer["run"]
    assert "layer_norm_order" not in answer


def test_figures_that_are_not_defined_are_null(
    inspector: Inspector, request_of_all: InspectionRequest, tokenizer: Tokenizer
) -> None:
    """Of one token, which nothing came before; and the cosine of an MLP that adds nothing."""
    request = replace(request_of_all, prompt=(5,), positions=None, summaries=SUMMARIES[:-1], ablations=(MLPAblation(0),))
    answer = answer_of(inspector.inspect(request), tokenizer, "tiny", 0.0)
    assert answer["run"]["loss"] is None
    assert answer["run"]["logprobs"] == [None]
    assert answer["run"]["summaries"]["attention"]["previous"] == [[None] * 4] * 2
    assert answer["ablated"]["summaries"]["norms"]["mlp_cosine"][0] == [None]
    assert answer["run"]["summaries"]["norms"]["mlp_cosine"][0] != [None]


def test_positions_choose_rows_in_their_order(
    inspector: Inspector, request_of_all: InspectionRequest, tokenizer: Tokenizer
) -> None:
    whole = answer_of(inspector.inspect(request_of_all), tokenizer, "tiny", 0.0)["run"]
    rows = answer_of(inspector.inspect(replace(request_of_all, positions=(-1, 2))), tokenizer, "tiny", 0.0)["run"]
    assert rows["activations"]["blocks.1.attn.hook_z"]["data"] == [
        whole["activations"]["blocks.1.attn.hook_z"]["data"][i] for i in (-1, 2)
    ]
    norms, whole_norms = rows["summaries"]["norms"]["resid_post"], whole["summaries"]["norms"]["resid_post"]
    assert norms == [[layer[-1], layer[2]] for layer in whole_norms]
    ranks, whole_ranks = rows["summaries"]["lens"]["rank"], whole["summaries"]["lens"]["rank"]
    assert ranks == [[stream[-1], stream[2]] for stream in whole_ranks]
    assert len(rows["logprobs"]) == len(request_of_all.prompt)


def test_what_serving_made_of_it_is_compared(inspection: Inspection, tokenizer: Tokenizer) -> None:
    logprobs = [logprob + difference for logprob, difference in zip(inspection.run.logprobs.tolist(), cycle(), strict=False)]
    served = Served("int8", tuple(logprobs), ((5, -0.5), (6, -1.0)))
    told = json.loads(json_of(inspection, tokenizer, "tiny", served, 0.0))["served"]
    assert told["dtype"] == "int8"
    assert told["logprobs"] == [None, *logprobs]
    assert told["loss"] == pytest.approx(-sum(logprobs) / len(logprobs))
    assert told["max_difference"] == pytest.approx(0.5, abs=1e-6)
    assert told["mean_difference"] == pytest.approx(sum(map(abs, cycle()[: len(logprobs)])) / len(logprobs), abs=1e-6)
    assert told["next"][0] == {"id": 5, "text": tokenizer.decode([5]), "logprob": -0.5, "probability": math.exp(-0.5)}


def cycle() -> list[float]:
    return [0.25, -0.5, 0.0] * 20


def test_a_single_token_is_compared_by_what_comes_next_alone(
    inspector: Inspector, request_of_all: InspectionRequest, tokenizer: Tokenizer
) -> None:
    inspection = inspector.inspect(replace(request_of_all, prompt=(5,), summaries=(), ablations=()))
    told = json.loads(json_of(inspection, tokenizer, "tiny", Served("int8", (), ((5, -0.5),)), 0.0))["served"]
    assert told["loss"] is told["max_difference"] is told["mean_difference"] is None
    assert told["logprobs"] == [None]
    assert len(told["next"]) == 1


def test_a_character_s_text_is_that_of_the_token_that_completes_it(inspector: Inspector, tokenizer: Tokenizer) -> None:
    ids = tuple(tokenizer.encode("a 🙂 b"))
    tokens = tokens_of(inspector, tokenizer, ids)
    assert "".join(token["text"] for token in tokens) == "a 🙂 b"
    assert [token["text"] for token in tokens] == [span.text for span in tokenizer.spans("a 🙂 b")]
    assert "" in [token["text"] for token in tokens]


def test_a_character_that_is_never_completed_is_told(inspector: Inspector, tokenizer: Tokenizer) -> None:
    first_byte = tokenizer.encode("🙂")[0]
    assert tokens_of(inspector, tokenizer, (5, first_byte))[1]["text"] == "\ufffd"


def test_special_tokens_are_told(inspector: Inspector, tokenizer: Tokenizer) -> None:
    (end,) = tokenizer.special_ids
    assert tokens_of(inspector, tokenizer, (end, 5))[0] == {"id": end, "text": "<|endoftext|>", "special": True}


def tokens_of(inspector: Inspector, tokenizer: Tokenizer, ids: tuple[int, ...]) -> list[dict[str, Any]]:
    inspection = inspector.inspect(InspectionRequest(ids, summaries=(), max_new_tokens=0))
    tokens: list[dict[str, Any]] = answer_of(inspection, tokenizer, "tiny", 0.0)["tokens"]
    return tokens
