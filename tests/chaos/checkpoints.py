"""Ways to corrupt a checkpoint's directory, by accident or on purpose: each makes of the tiny one what no start may take.

Plain data: the tests of what is refused take them, and the chaos suite counts how each ends.
"""

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Corruption = Callable[[Path], object]
MERGES, VOCAB, CONFIG, WEIGHTS = "merges.txt", "vocab.json", "config.json", "model.safetensors"
WTE, C_FC, LN = "transformer.wte.weight", "transformer.h.0.mlp.c_fc.weight", "transformer.ln_f.weight"
HUGE = 10**400
LONG = "x" * 1_000_000
SPARSE_BYTES = 1 << 34  # a file that says to be so large, and takes no room


def content(name: str, contents: bytes | str) -> Corruption:
    return lambda directory: (directory / name).write_bytes(contents if isinstance(contents, bytes) else contents.encode())


def config(**fields: object) -> Corruption:
    """Fields of config.json; ... removes one."""

    def change(directory: Path) -> None:
        merged = json.loads((directory / CONFIG).read_text()) | fields
        (directory / CONFIG).write_text(json.dumps({name: value for name, value in merged.items() if value is not ...}))

    return change


def vocab(change: Callable[[dict[str, Any]], object]) -> Corruption:
    def rewrite(directory: Path) -> None:
        tokens = json.loads((directory / VOCAB).read_text())
        change(tokens)
        (directory / VOCAB).write_text(json.dumps(tokens))

    return rewrite


def merges(change: Callable[[list[str]], list[str]]) -> Corruption:
    """Of the lines, the version first."""

    def rewrite(directory: Path) -> None:
        lines = (directory / MERGES).read_text().splitlines()
        (directory / MERGES).write_text("".join(f"{line}\n" for line in change(lines)))

    return rewrite


def weights(change: Callable[[dict[str, Any]], object]) -> Corruption:
    def rewrite(directory: Path) -> None:
        tensors = {name: values.copy() for name, values in load_file(directory / WEIGHTS).items()}
        change(tensors)
        save_file(tensors, directory / WEIGHTS)

    return rewrite


def value(name: str, number: float, dtype: type = np.float32) -> Corruption:
    """One number of one tensor."""

    def change(tensors: dict[str, Any]) -> None:
        tensors[name] = tensors[name].astype(dtype)
        tensors[name].flat[7] = number

    return weights(change)


def header(change: Callable[[dict[str, Any]], object]) -> Corruption:
    """Of the weights; the tensors behind it stay where they are."""

    def rewrite(directory: Path) -> None:
        fields, tensors = _parted((directory / WEIGHTS).read_bytes())
        change(fields)
        _join(directory, json.dumps(fields).encode(), tensors)

    return rewrite


def raw_header(contents: bytes) -> Corruption:
    return lambda directory: _join(directory, contents, _parted((directory / WEIGHTS).read_bytes())[1])


def _parted(contents: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(contents[:8], "little")
    return json.loads(contents[8:end]), contents[end:]


def _join(directory: Path, head: bytes, tensors: bytes) -> None:
    (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(head)) + head + tensors)


def header_size(size: int) -> Corruption:
    return lambda directory: (directory / WEIGHTS).write_bytes(struct.pack("<Q", size) + (directory / WEIGHTS).read_bytes()[8:])


def cut_to(name: str, share: float) -> Corruption:
    def cut(directory: Path) -> None:
        contents = (directory / name).read_bytes()
        (directory / name).write_bytes(contents[: int(len(contents) * share)])

    return cut


def replaced(name: str, make: Callable[[Path], object]) -> Corruption:
    def replace(directory: Path) -> None:
        (directory / name).unlink(missing_ok=True)
        make(directory / name)

    return replace


def pipe(name: str) -> Corruption:
    return replaced(name, os.mkfifo)


def device(name: str) -> Corruption:
    """A link to one that never ends."""
    return replaced(name, lambda file: file.symlink_to("/dev/zero"))


def folder(name: str) -> Corruption:
    return replaced(name, Path.mkdir)


def link_to_nowhere(name: str) -> Corruption:
    return replaced(name, lambda file: file.symlink_to("nowhere"))


def link_to_itself(name: str) -> Corruption:
    return replaced(name, lambda file: file.symlink_to(file.name))


def sparse(name: str) -> Corruption:
    def make(file: Path) -> None:
        file.touch()
        os.truncate(file, SPARSE_BYTES)

    return replaced(name, make)


def _bound(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{file.name}")  # a path of its own may be too long for a socket
        finally:
            os.close(directory)


def tokenizer_json(**fields: object) -> Corruption:
    """One that would do, on the tiny vocabulary, but for these fields."""

    def write(directory: Path) -> None:
        tokens = json.loads((directory / VOCAB).read_text())
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        model = {"type": "BPE", "vocab": tokens, "merges": (directory / MERGES).read_text().splitlines()[1:]}
        whole = {"added_tokens": [], "normalizer": None, "pre_tokenizer": byte_level, "decoder": byte_level, "model": model}
        changed = {name: {**model, **part} if name == "model" and isinstance(part, dict) else part for name, part in fields.items()}
        (directory / "tokenizer.json").write_text(json.dumps(whole | changed))

    return write


def word_list(contents: bytes) -> Corruption:
    def write(directory: Path) -> None:
        for name in (VOCAB, MERGES):
            (directory / name).unlink()
        (directory / "vocab.txt").write_bytes(contents)

    return write


def both(*corruptions: Corruption) -> Corruption:
    return lambda directory: [corrupt(directory) for corrupt in corruptions]


class Runs:
    """What unpickling it would do: leave a file behind, in the directory itself."""

    def __init__(self, directory: Path) -> None:
        self.trace = directory / "code-was-run"

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


def _pickle(name: str) -> Corruption:
    import pickle

    return both(
        replaced(WEIGHTS, lambda file: None), lambda directory: (directory / name).write_bytes(pickle.dumps(Runs(directory)))
    )


def _index(weight_map: object) -> Corruption:
    index = {"metadata": {}, "weight_map": weight_map}
    return replaced(WEIGHTS, lambda file: file.with_name(f"{WEIGHTS}.index.json").write_text(json.dumps(index)))


READ_AT_START = (CONFIG, VOCAB, MERGES, WEIGHTS, "tokenizer_config.json", "generation_config.json", "tokenizer.json", "vocab.txt")
OTHERS_READ = ("added_tokens.json", "special_tokens_map.json", "chat_template.jinja", f"{WEIGHTS}.index.json")

CORRUPTIONS: dict[str, Corruption] = {
    # Files that are none
    **{f"{name} is a pipe": pipe(name) for name in READ_AT_START},
    **{f"{name} is a device": device(name) for name in READ_AT_START},
    **{f"{name} is a directory": folder(name) for name in (CONFIG, VOCAB, MERGES, WEIGHTS, "tokenizer_config.json")},
    **{f"{name} is a link to nowhere": link_to_nowhere(name) for name in (CONFIG, VOCAB, MERGES, WEIGHTS, "tokenizer_config.json")},
    "config.json is a link to itself": link_to_itself(CONFIG),
    "model.safetensors is a socket": replaced(WEIGHTS, _bound),
    "added_tokens.json is a pipe": pipe("added_tokens.json"),
    "special_tokens_map.json is a device": device("special_tokens_map.json"),
    "chat_template.jinja is a pipe": pipe("chat_template.jinja"),
    "the index is a pipe": both(replaced(WEIGHTS, lambda file: None), pipe(f"{WEIGHTS}.index.json")),
    # Too large
    **{f"{name} is said to have 16 GiB": sparse(name) for name in READ_AT_START},
    "merges.txt of 48 MB": content(MERGES, b"#version: 0.2\n" + b"a b\n" * 12_000_000),
    "config.json of 2 MB": content(CONFIG, b'{"model_type": "gpt2", "x": "' + b"x" * 2_000_000 + b'"}'),
    # The vocabulary
    "merges.txt is empty": content(MERGES, b""),
    "merges.txt has its version alone": merges(lambda lines: lines[:1]),
    "merges.txt is cut at a line's end": merges(lambda lines: lines[:120]),
    "merges.txt lacks its last line": merges(lambda lines: lines[:-1]),
    "merges.txt lacks a line in the middle": merges(lambda lines: lines[:60] + lines[61:]),
    "merges.txt is cut within a line": cut_to(MERGES, 0.5),
    "merges.txt is reversed": merges(lambda lines: lines[::-1]),
    "merges.txt is another vocabulary's": merges(lambda lines: [lines[0], *(f"{line}x" for line in lines[1:])]),
    "merges.txt is binary": content(MERGES, bytes(range(256)) * 8),
    "merges.txt is UTF-16": lambda d: (d / MERGES).write_bytes((d / MERGES).read_text().encode("utf-16")),
    "merges.txt has a byte order mark": lambda d: (d / MERGES).write_bytes(b"\xef\xbb\xbf" + (d / MERGES).read_bytes()),
    "merges.txt has a line of a megabyte": content(MERGES, f"#version: 0.2\n{LONG}\n"),
    "merges.txt is missing": replaced(MERGES, lambda file: None),
    "vocab.json is empty": content(VOCAB, b""),
    "vocab.json is cut": cut_to(VOCAB, 0.5),
    "vocab.json is a list": content(VOCAB, b"[1, 2]"),
    "vocab.json has an id of 400 digits": vocab(lambda tokens: tokens.update(a=HUGE)),
    "vocab.json has a negative id": vocab(lambda tokens: tokens.update(a=-1)),
    "vocab.json has an id of 2^31": vocab(lambda tokens: tokens.update(a=2**31)),
    "vocab.json has an id that is no number": content(VOCAB, b'{"a": NaN}'),
    "vocab.json has an id twice": vocab(lambda tokens: tokens.update(a=tokens["b"])),
    "vocab.json has a key twice": lambda d: (d / VOCAB).write_text('{"a": 7, ' + (d / VOCAB).read_text()[1:]),
    "vocab.json lacks a byte": vocab(lambda tokens: tokens.pop("a")),
    "vocab.json lacks a merge's token": vocab(lambda tokens: tokens.pop("Ġthe")),
    "vocab.json has ids beyond the model": vocab(lambda tokens: tokens.update(a=499 + 7)),
    "vocab.json is nested without end": content(VOCAB, b"[" * 1_000_000),
    "vocab.json has a byte order mark": lambda d: (d / VOCAB).write_bytes(b"\xef\xbb\xbf" + (d / VOCAB).read_bytes()),
    "vocab.json is no UTF-8": content(VOCAB, b'{"\xff\xfe": 1}'),
    "vocab.json is missing": replaced(VOCAB, lambda file: None),
    "vocab.json has a token of a megabyte twice": content(VOCAB, '{"' + LONG + '": 1, "' + LONG + '": 2}'),
    "tokenizer.json without merges": tokenizer_json(model={"merges": []}),
    "tokenizer.json with merges that are none": tokenizer_json(model={"merges": [[LONG]]}),
    "tokenizer.json of a type of a megabyte": tokenizer_json(model={"type": LONG}),
    "tokenizer.json with a normalizer of a megabyte": tokenizer_json(normalizer={"type": LONG}),
    "tokenizer.json with a broken expression": tokenizer_json(
        normalizer={"type": "Replace", "pattern": {"Regex": "(["}, "content": ""}
    ),
    "tokenizer.json with an id of 400 digits": tokenizer_json(added_tokens=[{"id": HUGE, "content": "x"}]),
    "tokenizer.json with a token of a megabyte": tokenizer_json(added_tokens=[{"id": 7, "content": LONG}]),
    "tokenizer.json with a decoder of a list": tokenizer_json(decoder=[1]),
    "tokenizer.json without a model": tokenizer_json(model=None),
    "vocab.txt has a word twice": word_list(b"a\nb\na\n"),
    "vocab.txt has a byte order mark": word_list(b"\xef\xbb\xbf[UNK]\na\n"),
    "vocab.txt is empty": word_list(b""),
    "vocab.txt has no word for the unknown": word_list(b"a\nb\n"),
    "tokenizer_config.json is no JSON": content("tokenizer_config.json", b"{"),
    "tokenizer_config.json wants a class of a megabyte": content("tokenizer_config.json", json.dumps({"tokenizer_class": LONG})),
    "tokenizer_config.json adds tokens by a list": content("tokenizer_config.json", b'{"added_tokens_decoder": [1]}'),
    "tokenizer_config.json adds a token of no number": content("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}'),
    "tokenizer_config.json has code of its own": content(
        "tokenizer_config.json", b'{"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", null]}}'
    ),
    "added_tokens.json has an id of 400 digits": content("added_tokens.json", json.dumps({"<x>": HUGE})),
    "added_tokens.json is a list": content("added_tokens.json", b"[]"),
    "special_tokens_map.json is nested without end": content("special_tokens_map.json", b"[" * 1_000_000),
    # The config
    "config.json is empty": content(CONFIG, b""),
    "config.json is nested without end": content(CONFIG, b"[" * 1_000_000),
    "config.json has a key twice": lambda d: (d / CONFIG).write_text('{"n_layer": 7, ' + (d / CONFIG).read_text()[1:]),
    "config.json is UTF-16": lambda d: (d / CONFIG).write_bytes((d / CONFIG).read_text().encode("utf-16")),
    **{f"{name} of 400 digits": config(**{name: HUGE}) for name in ("n_layer", "n_embd", "vocab_size", "layer_norm_epsilon")},
    "a number of 5,000 digits": content(CONFIG, '{"model_type": "gpt2", "n_layer": ' + "9" * 5000 + "}"),
    **{f"{name} is -1": config(**{name: -1}) for name in ("n_layer", "n_head", "n_positions", "layer_norm_epsilon")},
    **{f"{name} is NaN": config(**{name: float("nan")}) for name in ("n_layer", "layer_norm_epsilon", "initializer_range")},
    "layer_norm_epsilon is infinite": config(layer_norm_epsilon=float("inf")),
    "layer_norm_epsilon is 1e300": config(layer_norm_epsilon=1e300),
    "n_embd is half": config(n_embd=50),
    "n_layer is more than there are": config(n_layer=3),
    "n_layer is less than there are": config(n_layer=1),
    "n_layer is the largest": config(n_layer=512),
    "all sizes are the largest": config(n_layer=512, n_embd=65536, n_head=65536, n_positions=1 << 20, vocab_size=1 << 24),
    "n_head does not divide": config(n_head=7),
    "n_positions is other than the weights'": config(n_positions=2048, n_ctx=2048),
    "vocab_size is other than the weights'": config(vocab_size=600),
    "two names of a size differ": config(hidden_size=64),
    "a value of a megabyte": config(activation_function=LONG),
    "a size of a megabyte": config(n_layer=LONG),
    "a size nested": config(n_layer={"a": [[[[LONG]]]]}),
    "eos_token_id of strings": config(eos_token_id=[LONG]),
    "another architecture": config(model_type="llama"),
    "an architecture of a megabyte": config(model_type=LONG),
    "a quarrelling number of names": config(**{f"n_{i}" + "x" * 5000: 1 for i in range(250)}),
    # The weights
    "weights are empty": content(WEIGHTS, b""),
    "weights are seven bytes": content(WEIGHTS, b"1234567"),
    "weights are cut": cut_to(WEIGHTS, 0.6),
    "weights are cut within the header": cut_to(WEIGHTS, 0.001),
    "weights are text": content(WEIGHTS, b"no weights at all" * 100),
    "a byte more behind the weights": lambda d: (d / WEIGHTS).write_bytes((d / WEIGHTS).read_bytes() + b"x"),
    "a header of 2^62": header_size(2**62),
    "a header of 2^64 - 1": header_size(2**64 - 1),
    "a header of 100 MB": header_size(100_000_000),
    "a header of nothing": header_size(0),
    "a header nested without end": raw_header(b"[" * 500_000),
    "a header of no JSON": raw_header(b"\xff" * 64),
    "a header of a list": raw_header(b"[]"),
    "a header of no tensors": raw_header(b"{}"),
    "tensors that overlap": header(lambda h: h[WTE].update(data_offsets=h["transformer.wpe.weight"]["data_offsets"])),
    "offsets of 2^62": header(lambda h: h[LN].update(data_offsets=[2**62, 2**62 + 400])),
    "offsets that are negative": header(lambda h: h[LN].update(data_offsets=[-400, 0])),
    "offsets of 400 digits": header(lambda h: h[LN].update(data_offsets=[HUGE, HUGE])),
    "a shape whose product overflows": header(lambda h: h[LN].update(shape=[2**33, 2**33])),
    "a shape of another tensor": header(lambda h: h[WTE].update(shape=[100, 500])),
    "a dtype that lies": header(lambda h: h[LN].update(dtype="F64")),
    "a dtype that nobody knows": header(lambda h: h[LN].update(dtype=LONG[:5000])),
    "a dtype of integers": header(lambda h: h[LN].update(dtype="I32")),
    "a tensor with a name of 5,000 characters": weights(lambda t: t.update({"x" * 5000: np.zeros(1, np.float32)})),
    "many tensors too many": weights(lambda t: t.update({f"{i}" + "x" * 500: np.zeros(1, np.float32) for i in range(999)})),
    "a tensor is missing": weights(lambda t: t.pop(C_FC)),
    "all tensors are missing": weights(lambda t: t.clear()),
    "a tensor is transposed": weights(lambda t: t.update({C_FC: np.ascontiguousarray(t[C_FC].T)})),
    "a head of its own": weights(lambda t: t.update({"lm_head.weight": t[WTE] + 1})),
    "a weight is NaN": value(C_FC, float("nan")),
    "a weight is infinite": value(WTE, float("inf")),
    "a gain is infinite": value(LN, -float("inf")),
    "a float64 beyond float32": value(C_FC, 1e300, np.float64),
    "a weight that overflows when it is used": weights(lambda t: t.update({C_FC: np.full_like(t[C_FC], 3e38)})),
    "a gain that overflows when it is used": weights(lambda t: t.update({LN: np.full_like(t[LN], 3e38)})),
    "a pickle": _pickle("pytorch_model.bin"),
    "a pickle named as weights": both(_pickle("pytorch_model.bin"), lambda d: (d / "pytorch_model.bin").rename(d / WEIGHTS)),
    "no weights": replaced(WEIGHTS, lambda file: None),
    "an index of no files": _index({"a": "missing.safetensors"}),
    "an index that leads out": _index({"a": "../../etc/passwd"}),
    "an index that leads to itself": _index({"a": ".."}),
    "an index of numbers": _index({"a": 1}),
    "an index of a name of a megabyte": _index({"a": LONG[:500_000]}),
    "an index of a name with a zero byte": _index({"a": "a\0b"}),
    "an index to a pipe": both(_index({"a": "part.safetensors"}), pipe("part.safetensors")),
    "an index to a device": both(_index({"a": "part.safetensors"}), device("part.safetensors")),
}  # fmt: skip
