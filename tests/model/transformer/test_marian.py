"""Network and search against transformers' Marian, a published kind of post-LayerNorm encoder-decoder, on the same random weights.

Marian puts all sines of a position before its cosines, where the paper has them by turns. That is the same network with the
channels of its residual stream in another order, so that our weights are copied in that order and nothing else is changed.
"""

import pytest
import torch
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

from model.gpt2 import CausalAttention, LayerNorm, SelfAttention
from model.transformer.config import TransformerConfig
from model.transformer.decoding import beam_search, greedy
from model.transformer.network import CrossAttention, Transformer
from tests.model.transformer.networks import random_transformer, sizes

MAX_TOKENS = 14
NUM_SOURCES = 24


@pytest.fixture(scope="module")
def model() -> Transformer:
    """Marian begins targets with its padding token. With this seed token 9 comes late, and ends some targets before the limit."""
    return random_transformer(sizes(vocab_size=23, bos_id=0, eos_id=9, layer_norm_epsilon=1e-5), seed=6)


@pytest.fixture(scope="module")
def source() -> Tensor:
    """Rows of 2 to 9 tokens."""
    generator = torch.Generator().manual_seed(4)
    source = torch.randint(3, 23, (NUM_SOURCES, 9), generator=generator)
    lengths = torch.randint(2, 10, (NUM_SOURCES, 1), generator=generator)
    return source.masked_fill(torch.arange(9) >= lengths, 0)


@pytest.fixture(scope="module")
def marian(model: Transformer) -> MarianMTModel:
    config = model.config
    theirs = MarianMTModel(marian_config(config)).eval()
    order = torch.cat((torch.arange(0, config.d_model, 2), torch.arange(1, config.d_model, 2)))
    with torch.no_grad():
        theirs.model.shared.weight.copy_(model.wte.weight[:, order])
        for layer, ours in zip(theirs.model.encoder.layers, model.encoder, strict=True):
            copy_layer(layer, ours, order, last_norm=ours.ln_2)
        for layer, ours in zip(theirs.model.decoder.layers, model.decoder, strict=True):
            copy_layer(layer, ours, order, last_norm=ours.ln_3)
            copy_cross_attention(layer.encoder_attn, ours.cross, order)
            copy_norm(layer.encoder_attn_layer_norm, ours.ln_2, order)
    return theirs


def marian_config(config: TransformerConfig) -> MarianConfig:
    return MarianConfig(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        encoder_layers=config.num_encoder_layers,
        decoder_layers=config.num_decoder_layers,
        encoder_attention_heads=config.n_head,
        decoder_attention_heads=config.n_head,
        encoder_ffn_dim=config.d_ff,
        decoder_ffn_dim=config.d_ff,
        max_position_embeddings=config.max_positions,
        activation_function="relu",
        dropout=0.0,
        scale_embedding=True,
        pad_token_id=config.pad_id,
        decoder_start_token_id=config.bos_id,
        eos_token_id=config.eos_id,
        forced_eos_token_id=None,
    )


def copy_linear(theirs: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    theirs.weight.copy_(weight)
    theirs.bias.copy_(bias)


def copy_norm(theirs: nn.LayerNorm, ours: LayerNorm, order: Tensor) -> None:
    theirs.weight.copy_(ours.weight[order])
    theirs.bias.copy_(ours.bias[order])


def copy_attention(theirs: nn.Module, weight: Tensor, bias: Tensor, output: nn.Linear, order: Tensor) -> None:
    names = (theirs.q_proj, theirs.k_proj, theirs.v_proj)
    for linear, part, part_bias in zip(names, weight.chunk(3), bias.chunk(3), strict=True):
        copy_linear(linear, part[:, order], part_bias)
    copy_linear(theirs.out_proj, output.weight[order], output.bias[order])


def copy_self_attention(theirs: nn.Module, ours: SelfAttention, order: Tensor) -> None:
    copy_attention(theirs, ours.c_attn.weight, ours.c_attn.bias, ours.c_proj, order)


def copy_cross_attention(theirs: nn.Module, ours: CrossAttention, order: Tensor) -> None:
    weight, bias = torch.cat((ours.c_q.weight, ours.c_kv.weight)), torch.cat((ours.c_q.bias, ours.c_kv.bias))
    copy_attention(theirs, weight, bias, ours.c_proj, order)


def copy_layer(theirs: nn.Module, ours: nn.Module, order: Tensor, last_norm: LayerNorm) -> None:
    copy_self_attention(theirs.self_attn, ours.attn, order)
    copy_norm(theirs.self_attn_layer_norm, ours.ln_1, order)
    copy_linear(theirs.fc1, ours.mlp.c_fc.weight[:, order], ours.mlp.c_fc.bias)
    copy_linear(theirs.fc2, ours.mlp.c_proj.weight[order], ours.mlp.c_proj.bias[order])
    copy_norm(theirs.final_layer_norm, last_norm, order)


def generated(marian: MarianMTModel, source: Tensor, num_beams: int) -> tuple[list[list[int]], Tensor]:
    """Its targets without their first token and without the end, and their scores; a length penalty of 0 is the sum of the logs."""
    output = marian.generate(
        source,
        attention_mask=source.ne(0).long(),
        num_beams=num_beams,
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        length_penalty=0.0,
        early_stopping=False,
        suppress_tokens=[0],
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows = [row[1:].tolist() for row in output.sequences]
    ended = [row[: row.index(9)] if 9 in row else row for row in rows]
    return ended, output.sequences_scores if num_beams > 1 else torch.empty(0)


def test_logits_are_marians(model: Transformer, marian: MarianMTModel, source: Tensor) -> None:
    target = source.roll(1, dims=0).masked_fill(source.roll(1, dims=0).eq(0), 5)
    with torch.no_grad():
        expected = marian(input_ids=source, attention_mask=source.ne(0).long(), decoder_input_ids=target).logits
        torch.testing.assert_close(model.decode(target, model.encode(source), CausalAttention()), expected, rtol=1e-5, atol=1e-4)


def test_greedy_tokens_are_marians(model: Transformer, marian: MarianMTModel, source: Tensor) -> None:
    expected, _ = generated(marian, source, num_beams=1)
    assert greedy(model, source, MAX_TOKENS) == expected
    assert {len(row) < MAX_TOKENS for row in expected} == {True, False}  # some end by themselves, some at the limit


@pytest.mark.parametrize("num_beams", [2, 4, 7])
def test_beam_searchs_tokens_and_scores_are_marians(
    model: Transformer, marian: MarianMTModel, source: Tensor, num_beams: int
) -> None:
    expected, scores = generated(marian, source, num_beams)
    ours = beam_search(model, source, MAX_TOKENS, num_beams, alpha=0.0)
    assert [hypothesis.tokens for hypothesis in ours] == expected
    torch.testing.assert_close(torch.tensor([hypothesis.score for hypothesis in ours]), scores, rtol=1e-4, atol=1e-4)
    assert expected != greedy(model, source, MAX_TOKENS)  # or there would be nothing to search for
