"""The encoder-decoder against torch.nn.Transformer with the same weights: values, gradients, masks, both places of LayerNorm."""

import math

import pytest
import torch
from torch import Tensor, nn

from model.gpt2 import MLP, LayerNorm, SelfAttention
from model.transformer.config import TransformerConfig
from model.transformer.network import CrossAttention, DecoderLayer, EncoderLayer, Transformer, sinusoids
from tests.model.transformer.networks import SOURCE, TARGET, random_transformer, sizes

PADDING = SOURCE.eq(0)


@pytest.fixture(params=[False, True], ids=["post-norm", "pre-norm"])
def config(request: pytest.FixtureRequest) -> TransformerConfig:
    return sizes(pre_norm=request.param)


def torchs(model: Transformer) -> nn.Transformer:
    """PyTorch's own, with our weights; where LayerNorm stands behind each sum it has no final one, as published."""
    config = model.config
    options = {"dropout": 0.0, "layer_norm_eps": config.layer_norm_epsilon, "batch_first": True, "norm_first": config.pre_norm}
    part = (config.d_model, config.n_head, config.d_ff)
    norms = [nn.LayerNorm(config.d_model, config.layer_norm_epsilon) if config.pre_norm else None for _ in range(2)]
    encoder_layer, decoder_layer = nn.TransformerEncoderLayer(*part, **options), nn.TransformerDecoderLayer(*part, **options)
    encoder = nn.TransformerEncoder(encoder_layer, config.num_encoder_layers, norms[0], enable_nested_tensor=False)
    decoder = nn.TransformerDecoder(decoder_layer, config.num_decoder_layers, norms[1])
    theirs = nn.Transformer(*part[:2], custom_encoder=encoder, custom_decoder=decoder, batch_first=True).double()
    for norm, ours in zip(norms, (model.encoder_ln_f, model.decoder_ln_f), strict=True):
        if norm is not None:
            copy_norm(norm, ours)
    for layer, ours in zip(theirs.encoder.layers, model.encoder, strict=True):
        copy_encoder_layer(layer, ours)
    for layer, ours in zip(theirs.decoder.layers, model.decoder, strict=True):
        copy_decoder_layer(layer, ours)
    return theirs


def share(theirs: nn.Parameter, ours: Tensor) -> None:
    theirs.data = ours.detach().clone()


def copy_norm(theirs: nn.LayerNorm, ours: LayerNorm) -> None:
    share(theirs.weight, ours.weight)
    share(theirs.bias, ours.bias)


def copy_linear(theirs: nn.Linear, ours: nn.Linear) -> None:
    share(theirs.weight, ours.weight)
    share(theirs.bias, ours.bias)


def copy_self_attention(theirs: nn.MultiheadAttention, ours: SelfAttention) -> None:
    share(theirs.in_proj_weight, ours.c_attn.weight)
    share(theirs.in_proj_bias, ours.c_attn.bias)
    copy_linear(theirs.out_proj, ours.c_proj)


def copy_cross_attention(theirs: nn.MultiheadAttention, ours: CrossAttention) -> None:
    share(theirs.in_proj_weight, torch.cat((ours.c_q.weight, ours.c_kv.weight)))
    share(theirs.in_proj_bias, torch.cat((ours.c_q.bias, ours.c_kv.bias)))
    copy_linear(theirs.out_proj, ours.c_proj)


def copy_mlp(theirs: nn.Module, ours: MLP) -> None:
    copy_linear(theirs.linear1, ours.c_fc)
    copy_linear(theirs.linear2, ours.c_proj)


def copy_encoder_layer(theirs: nn.Module, ours: EncoderLayer) -> None:
    copy_self_attention(theirs.self_attn, ours.attn)
    copy_norm(theirs.norm1, ours.ln_1)
    copy_mlp(theirs, ours.mlp)
    copy_norm(theirs.norm2, ours.ln_2)


def copy_decoder_layer(theirs: nn.Module, ours: DecoderLayer) -> None:
    copy_self_attention(theirs.self_attn, ours.attn)
    copy_norm(theirs.norm1, ours.ln_1)
    copy_cross_attention(theirs.multihead_attn, ours.cross)
    copy_norm(theirs.norm2, ours.ln_2)
    copy_mlp(theirs, ours.mlp)
    copy_norm(theirs.norm3, ours.ln_3)


def torchs_logits(model: Transformer, theirs: nn.Transformer) -> Tensor:
    causal = nn.Transformer.generate_square_subsequent_mask(TARGET.shape[1], dtype=torch.float64)
    masks = {"src_key_padding_mask": PADDING, "memory_key_padding_mask": PADDING, "tgt_mask": causal, "tgt_is_causal": True}
    return theirs(model.embed(SOURCE), model.embed(TARGET), **masks) @ model.wte.weight.T


def test_logits_are_those_of_torchs_transformer_in_rows_of_different_lengths(config: TransformerConfig) -> None:
    model = random_transformer(config).double()
    for is_training in (False, True):  # PyTorch has a faster way for the former, which is other code
        expected = torchs_logits(model, torchs(model).train(is_training))
        torch.testing.assert_close(model(SOURCE, TARGET), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_torchs_transformer(config: TransformerConfig) -> None:
    model = random_transformer(config).double()
    theirs = torchs(model).train()
    weights = torch.randn(*TARGET.shape, config.vocab_size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weights[config.pad_id == TARGET] = 0.0
    (expected,) = torch.autograd.grad((torchs_logits(model, theirs) * weights).sum(), model.wte.weight)
    (model(SOURCE, TARGET) * weights).sum().backward()
    torch.testing.assert_close(model.wte.weight.grad, expected, rtol=1e-5, atol=1e-8)
    (torchs_logits(model, theirs) * weights).sum().backward()
    first, last = theirs.encoder.layers[0], theirs.decoder.layers[-1]
    assert isinstance(first.self_attn, nn.MultiheadAttention)
    pairs = {
        "encoder.0.attn.c_attn.weight": first.self_attn.in_proj_weight,
        "encoder.0.ln_1.weight": first.norm1.weight,
        "encoder.0.mlp.c_fc.bias": first.linear1.bias,
        "decoder.1.cross.c_q.weight": last.multihead_attn.in_proj_weight,
        "decoder.1.mlp.c_proj.weight": last.linear2.weight,
        "decoder.1.ln_3.bias": last.norm3.bias,
    }
    ours = dict(model.named_parameters())
    for name, parameter in pairs.items():
        gradient = parameter.grad[: config.d_model] if "c_q" in name else parameter.grad
        torch.testing.assert_close(ours[name].grad, gradient, rtol=1e-5, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}")


def test_padding_changes_nothing(config: TransformerConfig) -> None:
    model = random_transformer(config)
    alone = model(SOURCE[1:, :3], TARGET[1:, :2])
    torch.testing.assert_close(model(SOURCE, TARGET)[1:, :2], alone, rtol=1e-5, atol=1e-5)


def test_a_target_sees_nothing_behind_it_and_all_of_the_source(config: TransformerConfig) -> None:
    model = random_transformer(config)
    other_end, other_source = TARGET.clone(), SOURCE.clone()
    other_end[0, -1], other_source[0, -1] = 7, 7
    logits = model(SOURCE, TARGET)
    torch.testing.assert_close(model(SOURCE, other_end)[0, :-1], logits[0, :-1])
    assert not torch.isclose(model(other_source, TARGET)[0, 0], logits[0, 0]).all()


def test_positions_are_the_papers_sines_and_cosines() -> None:
    table = sinusoids(50, 12)
    for position, i in ((0, 0), (1, 0), (7, 3), (49, 5)):
        angle = position / 10000 ** (2 * i / 12)
        assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_positions_are_no_parameters_and_the_embedding_is_one(config: TransformerConfig) -> None:
    model = Transformer(config)
    assert [name for name in model.state_dict() if "wte" in name or "wpe" in name] == ["wte.weight"]


def test_a_sequence_beyond_the_table_of_positions_is_refused_with_both_numbers(config: TransformerConfig) -> None:
    model = random_transformer(config)
    with pytest.raises(ValueError, match="has 25 tokens; the model takes at most 24"):
        model(torch.ones(1, 25, dtype=torch.long), TARGET)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_head": 3}, "d_model 20 is not a multiple of n_head 3"),
        ({"d_model": 15, "n_head": 5}, "d_model 15 is odd"),
        ({"eos_id": 11}, "eos_id 11 is outside the vocabulary of 11"),
    ],
)
def test_sizes_that_do_not_fit_are_named(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sizes(**wrong)


def test_dropout_acts_in_training_alone(config: TransformerConfig) -> None:
    model = Transformer(config, dropout=0.5).init_weights(torch.Generator().manual_seed(0)).eval()
    assert torch.equal(model(SOURCE, TARGET), model(SOURCE, TARGET))
    model.train()
    assert not torch.equal(model(SOURCE, TARGET), model(SOURCE, TARGET))
