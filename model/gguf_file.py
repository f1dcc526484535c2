"""A checkpoint written as one GGUF file, as llama.cpp's own converter writes a GPT-2. Knows no torch.

The converter asks which pre-tokenizer a vocabulary has by a list of those that it knows; any vocabulary that is cut by GPT-2's
pattern and merged by its rules is one for llama.cpp's `gpt-2`, whoever learned it. What the format cannot say is refused.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from model.bpe import BPETokenizer
from model.checkpoint import Checkpoint, CheckpointError, load_tokenizer, open_checkpoint, read_inherited
from model.config import GPT2Config
from model.files import replace_file
from model.weights import Weight

# The type of matrices, and that of the file. What is small or added up stays float32, as in the converter.
PRECISIONS = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
MAX_F16 = 65504.0
NAMES = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}
BLOCK = re.compile(r"h\.(\d+)\.(.+)\.(weight|bias)")
BLOCK_NAMES = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
MAX_ENDS = 2  # that a file can name: the end of a text, and of a turn


def write_gguf(directory: Path, out: Path, precision: str, name: str, chat_template: str | None = None) -> None:
    """Write the checkpoint of a directory to `out`, whole or not at all; raises CheckpointError for what no such file can hold."""
    checkpoint, tokenizer = open_checkpoint(directory), load_tokenizer(directory)
    if not isinstance(tokenizer, BPETokenizer):
        raise CheckpointError(
            f"{directory}: its tokenizer is not GPT-2's plain byte-level BPE, and llama.cpp would read other tokens"
        )
    _check_ends(directory, checkpoint.config)
    pad = read_inherited(directory).config.get("pad_token_id")

    def write(file: Path) -> None:
        writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2])
        try:
            _add_sizes(writer, checkpoint.config, precision, name)
            _add_vocabulary(writer, tokenizer, checkpoint.config, pad)
            if chat_template is not None:
                writer.add_chat_template(chat_template)
            _write_tensors(writer, checkpoint, precision)
        finally:
            writer.close()

    replace_file(out, write)


def _check_ends(directory: Path, config: GPT2Config) -> None:
    if len(config.eos_token_ids) > MAX_ENDS:
        raise CheckpointError(
            f"{directory}: texts end at {len(config.eos_token_ids)} tokens, but a GGUF file names {MAX_ENDS}; "
            "leave the others out of eos_token_id in config.json and generation_config.json"
        )


def _add_sizes(writer: gguf.GGUFWriter, config: GPT2Config, precision: str, name: str) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.inner_size)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(PRECISIONS[precision][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: BPETokenizer, config: GPT2Config, pad: object) -> None:
    """Every id of the model has a token, those without one in the vocabulary an unused one; nothing is put around a text."""
    tokens, types = map(list, zip(*_tokens(tokenizer, config.vocab_size), strict=True))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in tokenizer.merges])
    writer.add_bos_token_id(config.eos_token_id)  # behind which texts begin
    writer.add_eos_token_id(config.eos_token_id)
    for token_id in config.eos_token_ids[1:]:
        writer.add_eot_token_id(token_id)
    if type(pad) is int and 0 <= pad < config.vocab_size:
        writer.add_pad_token_id(pad)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _tokens(tokenizer: BPETokenizer, vocab_size: int) -> Iterator[tuple[str, gguf.TokenType]]:
    """By id: ordinary ones in the byte alphabet, added ones as they are written in a text."""
    names = {token_id: token for token, token_id in tokenizer.vocab.items()}
    added = {token.id: token for token in tokenizer.added}
    for token_id in range(vocab_size):
        if token_id in added:
            token = added[token_id]
            yield token.content, gguf.TokenType.CONTROL if token.special else gguf.TokenType.USER_DEFINED
        elif token_id in names:
            yield names[token_id], gguf.TokenType.NORMAL
        else:
            yield f"[PAD{token_id}]", gguf.TokenType.UNUSED


def _write_tensors(writer: gguf.GGUFWriter, checkpoint: Checkpoint, precision: str) -> None:
    """One after the other: a large model is never in memory as a whole. Without an output head llama.cpp takes the embedding."""
    types = {name: _type_of(name, weight, precision) for name, weight in checkpoint.weights.items()}
    for name, weight in checkpoint.weights.items():
        shape = weight.values.shape[::-1] if weight.is_transposed else weight.values.shape
        dtype = np.dtype(np.float32 if types[name] == gguf.GGMLQuantizationType.F32 else np.float16)  # bfloat16 is as wide
        writer.add_tensor_info(gguf_name(name), shape, dtype, weight.values.size * dtype.itemsize, raw_dtype=types[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in checkpoint.weights:
        writer.write_tensor_data(_values(checkpoint, name, types[name]))


def gguf_name(name: str) -> str:
    """A parameter's name in the file, as in `blk.0.attn_qkv.weight`."""
    if block := BLOCK.fullmatch(name):
        return f"blk.{block[1]}.{BLOCK_NAMES[block[2]]}.{block[3]}"
    module, _, kind = name.partition(".")
    return f"{NAMES[module]}.{kind}"


def _type_of(name: str, weight: Weight, precision: str) -> gguf.GGMLQuantizationType:
    is_small = weight.values.ndim == 1 or name == "wpe.weight"
    return gguf.GGMLQuantizationType.F32 if is_small else PRECISIONS[precision][0]


def _values(checkpoint: Checkpoint, name: str, kind: gguf.GGMLQuantizationType) -> NDArray[Any]:
    """(out, in) as it is written."""
    weight = checkpoint.weights[name]
    values = weight.to_float32()
    if not np.isfinite(values).all():
        raise checkpoint.not_finite(name)
    if kind == gguf.GGMLQuantizationType.F16 and (largest := float(np.abs(values).max())) > MAX_F16:
        raise CheckpointError(f"{checkpoint.origins[name]} has values up to {largest:.3g}, beyond float16; take f32 or bf16")
    values = np.ascontiguousarray(values.T if weight.is_transposed else values)
    return gguf.quantize(values, kind)
