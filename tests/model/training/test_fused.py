"""The fused operations against PyTorch's own: the same values and the same gradients."""

import os

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from model.config import GPT2Config
from model.gpt2 import GPT2, CausalAttention
from model.training import fused
from model.training.data.examples import IGNORED
from model.training.fused import FusedAttention, FusedGELU, linear_cross_entropy
from model.training.objective import NextTokenLoss, can_compile

TINY = GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2, eos_token_ids=(0,))
# Against float64; relative to the largest value where that is above 1.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture
def uncompiled():
    with torch.compiler.set_stance("force_eager"):
        yield


def with_gradients(function, *inputs, dtype=torch.float64):
    """The function's result and d sum(result * fixed noise) / d inputs, as float64."""
    inputs = [x.to(dtype).requires_grad_() for x in inputs]
    result = function(*inputs)
    noise = torch.randn(result.shape, generator=torch.Generator().manual_seed(7))
    (result * noise.to(result.dtype)).sum().backward()
    return [x.detach().double() for x in (result, *(x.grad for x in inputs))]


def assert_close(actual, expected, tolerance):
    for ours, theirs in zip(actual, expected, strict=True):
        assert (ours - theirs).abs().max() <= tolerance * max(1, theirs.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(2, 16, 3, 8), (1, 1, 1, 4), (1, 70, 2, 16)])
def test_attention(dtype, shape):
    q, k, v = (torch.randn(shape, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(3))
    expected = with_gradients(lambda q, k, v: CausalAttention()(0, q, k, v), q, k, v)
    actual = with_gradients(lambda q, k, v: FusedAttention()(0, q, k, v), q, k, v, dtype=dtype)
    assert_close(actual, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gelu(dtype):
    u = torch.cat([torch.linspace(-6, 6, 1000), torch.tensor([0.0, -1e4, 1e4, -80.0, 80.0])]).bfloat16()
    expected = with_gradients(lambda u: F.gelu(u, approximate="tanh"), u)
    actual = with_gradients(FusedGELU(), u, dtype=dtype)
    assert all(x.isfinite().all() for x in actual)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ((ours - theirs).abs() <= TOLERANCE[dtype] * theirs.abs().clamp(min=1)).all()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("num_rows", [1, 7, 8, 9, 16, 21])
def test_the_loss_over_borders_of_chunks_with_targets_ignored(monkeypatch, dtype, num_rows):
    monkeypatch.setattr(fused, "CHUNK_ROWS", 8)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, 12, generator=generator).bfloat16() for rows in (num_rows, 30))
    targets = torch.randint(30, (num_rows,), generator=generator)
    targets[1::3] = IGNORED
    expected = with_gradients(
        lambda hidden, weight: F.cross_entropy(hidden @ weight.t(), targets, reduction="sum", ignore_index=IGNORED), hidden, weight
    )
    actual = with_gradients(
        lambda hidden, weight: linear_cross_entropy(hidden.to(dtype), weight, targets), hidden, weight, dtype=torch.float32
    )
    assert_close(actual, expected, TOLERANCE[dtype])
    assert (actual[1][1::3] == 0).all()


@pytest.mark.usefixtures("uncompiled")
def test_nothing_to_learn_is_no_loss_and_no_gradient():
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(9, 8, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.full((4,), IGNORED))
    loss.backward()
    assert loss == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


@pytest.mark.usefixtures("uncompiled")
def test_logits_too_large_for_an_exponential_have_a_loss():
    hidden, weight = torch.tensor([[300.0, -300.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert linear_cross_entropy(hidden, weight, torch.tensor([0])) == 0
    assert linear_cross_entropy(hidden, weight, torch.tensor([1])) == 600


@pytest.mark.filterwarnings("ignore:<class 'torch.autograd:DeprecationWarning")  # torch's own, as it traces one
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="needs a C++ compiler")
def test_a_compiled_network_has_the_loss_and_the_gradients_of_a_plain_one():
    plain, compiled = (GPT2(TINY).init_weights(torch.Generator().manual_seed(0)) for _ in range(2))
    tokens = torch.randint(40, (3, 16), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1).masked_fill(tokens < 5, IGNORED)
    losses = [NextTokenLoss(model, False, how)(tokens, targets) for model, how in ((plain, False), (compiled, True))]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_what_is_measured_is_compiled_for_no_length_of_its_own():
    plain, compiled = (GPT2(TINY).init_weights(torch.Generator().manual_seed(0)) for _ in range(2))
    losses = [NextTokenLoss(model, False, how).eval() for model, how in ((plain, False), (compiled, True))]
    for shape in ((3, 16), (2, 8)):
        tokens = torch.randint(40, shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), torch.compiler.set_stance("fail_on_recompile"):
            expected, actual = (loss(tokens, tokens.roll(-1, 1)) for loss in losses)
        assert torch.equal(actual, expected)


@pytest.mark.gpu
def test_on_a_gpu_the_loss_compiled_with_the_network_has_the_gradients_of_a_plain_one():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU; none is here")
    device = torch.device("cuda")
    plain, compiled = (GPT2(TINY).init_weights(torch.Generator().manual_seed(0)).to(device) for _ in range(2))
    tokens = torch.randint(40, (3, 16), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1).masked_fill(tokens < 5, IGNORED).to(device)
    losses = [NextTokenLoss(model, True, how)(tokens.to(device), targets) for model, how in ((plain, False), (compiled, True))]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=1e-2)
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() <= 2e-2 * theirs.grad.norm()


@pytest.mark.parametrize("torch_has_looked", [False, True], ids=["at first", "after torch has set it"])
def test_compiled_code_is_kept_apart_by_the_length_of_the_vectors_it_is_for(monkeypatch, torch_has_looked):
    """From one cache, code for AVX-512 was run with AVX2: half the loss, without an error."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if torch_has_looked:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    NextTokenLoss(GPT2(TINY), False, compiled=True)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == f"{default_cache_dir()}{os.sep}AVX2"


def test_a_cache_that_is_named_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    NextTokenLoss(GPT2(TINY), False, compiled=True)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
