"""The weights of the native step: of a wrong size, name, type or value they are refused by name, as is what cannot be computed."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from model.config import GPT2Config
from model.gpt2 import GPT2
from model.native.library import ErrorCode, NativeUnavailable, NotFinite, Precision, load_library
from model.native.runner import NativeRunner
from model.network_files import weights_of
from model.weights import Weight

CONFIG = GPT2Config(vocab_size=500, n_positions=100, n_embd=64, n_layer=1, n_head=1, eos_token_ids=(0,))

pytestmark = pytest.mark.usefixtures("available")


def weights_with(name: str, change: Callable[[Weight], Weight]) -> dict[str, Weight]:
    weights = weights_of(GPT2(CONFIG))
    return weights | {name: change(weights[name])}


@pytest.mark.parametrize(
    "name", ["wte.weight", "wpe.weight", "ln_f.bias", "h.0.ln_1.weight", "h.0.mlp.c_fc.weight", "h.0.mlp.c_fc.bias"]
)
@pytest.mark.parametrize("num_more", [-1, 1])
def test_a_weight_of_another_size_is_refused_with_both_sizes(kind, name, num_more):
    size = weights_of(GPT2(CONFIG))[name].values.size
    wrong = weights_with(name, lambda w: w._replace(values=np.zeros(size + num_more, np.float32)))
    with pytest.raises(NativeUnavailable, match=f"^{name}: it has {size + num_more} values, not {size}$"):
        kind.runner(CONFIG, wrong)


@pytest.mark.parametrize(
    "name",
    [
        *("", "h", "h.", "h.0", "h.0.", "h.1.ln_1.weight", "h.-1.ln_1.weight", "h.0.attn.c_other.weight", "lm_head.weight"),
        *("h.0.ln_1", "h.0.ln_1.gain", "ln_f.", "h.0.mlp.c_fc.scale"),
    ],
)
def test_a_weight_that_the_network_does_not_have_is_refused_by_name(kind, name):
    extra = {name: Weight(np.zeros(64, np.float32), "F32", False)}
    with pytest.raises(NativeUnavailable, match=f"^{name}: no such parameter$"):
        kind.runner(CONFIG, weights_of(GPT2(CONFIG)) | extra)


@pytest.mark.parametrize("dtype", [-1, 3, 2**31 - 1])
def test_a_type_that_no_weight_has_is_refused(dtype):
    runner = NativeRunner(CONFIG, weights_of(GPT2(CONFIG)), 1, Precision.FLOAT32, 1)
    values = np.zeros(64, np.float32)
    code = load_library().gpt2_load(runner._model, b"ln_f.bias", values.ctypes.data, 64, dtype, False)
    assert code == ErrorCode.UNAVAILABLE
    assert load_library().gpt2_last_error() == b"ln_f.bias: its type is none of float32, float16 and bfloat16"


NO_NUMBERS = {"F32": [math.nan, math.inf, -math.inf], "F16": [0x7C00, 0xFC00, 0x7E01], "BF16": [0x7F80, 0xFF80, 0x7FC1]}


@pytest.mark.parametrize("is_transposed", [False, True], ids=["out_in", "in_out"])
@pytest.mark.parametrize("dtype", NO_NUMBERS)
@pytest.mark.parametrize("name", ["h.0.attn.c_attn.weight", "h.0.mlp.c_proj.weight", "wte.weight", "wpe.weight", "h.0.ln_2.bias"])
def test_a_weight_that_is_no_number_is_refused_by_name_in_every_type(kind, name, dtype, is_transposed):
    is_transposed = is_transposed and ".c_" in name
    shape = CONFIG.parameter_shapes[name]
    for value in NO_NUMBERS[dtype]:
        for place in (0, -1):
            values = np.zeros(shape[::-1] if is_transposed else shape, np.float32 if dtype == "F32" else np.uint16)
            values.flat[place] = value
            stored = values.view(np.float16) if dtype == "F16" else values
            with pytest.raises(NotFinite) as refusal:
                kind.runner(CONFIG, weights_with(name, lambda w, stored=stored: Weight(stored, dtype, is_transposed)))
            assert refusal.value.name == name


def test_a_precision_or_a_width_that_cannot_be_computed_is_refused():
    for precision in (-1, 3):
        with pytest.raises(NativeUnavailable, match="no such precision"):
            NativeRunner(CONFIG, {}, 1, precision, 1)
    wide = replace(CONFIG, n_embd=2048, n_head=1)
    with pytest.raises(NativeUnavailable, match="heads are larger than 1024"):
        NativeRunner(wide, {}, 1, Precision.FLOAT32, 1)
    deep = replace(CONFIG, n_inner=133_121)
    with pytest.raises(NativeUnavailable, match="int8 sums up at most 133120 inputs, not 133121"):
        NativeRunner(deep, {}, 1, Precision.INT8, 1)
    long = replace(CONFIG, n_positions=133_121)
    with pytest.raises(NativeUnavailable, match="int8 sums up at most 133120 positions, not 133121"):
        NativeRunner(long, {}, 1, Precision.INT8, 1)


@pytest.mark.parametrize("name", ["wte.weight", "wpe.weight"])
def test_a_table_that_is_said_to_be_transposed_is_refused(kind, name):
    turned = weights_with(name, lambda w: Weight(np.ascontiguousarray(w.values.T), "F32", True))
    with pytest.raises(NativeUnavailable, match=f"^{name}: a table's rows lie one after another, it is never transposed$"):
        kind.runner(CONFIG, turned)


def test_only_float32_runs_from_weights_as_they_lie(kind):
    if kind.precision is Precision.FLOAT32:
        pytest.skip("it does")
    with pytest.raises(NativeUnavailable, match="only float32 runs from weights as they lie"):
        kind.runner(CONFIG, weights_of(GPT2(CONFIG)), is_streamed=True)


@pytest.mark.parametrize("precision", Precision)
def test_an_arithmetic_that_the_kernels_lack_is_refused_with_those_that_they_have(available, precision):
    has = {Precision.FLOAT32: "float32", Precision.INT8: "int8", Precision.BFLOAT16: "bfloat16-fma"}[precision]
    with pytest.raises(NativeUnavailable, match=f"the kernels scalar have no arithmetic bfloat16-vdpbf16ps; they have {has}"):
        NativeRunner(CONFIG, {}, 1, precision, 1, "scalar", arithmetic="bfloat16-vdpbf16ps")
