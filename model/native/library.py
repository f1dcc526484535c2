"""The compiled step as a ctypes library: found, checked, its functions typed. Knows no network and no batch."""

import ctypes
import enum
import functools
import platform
import struct
from pathlib import Path

ABI = 5  # GPT2_ABI in src/interface.h
NAME = "_step.so"
MACHINES = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}


class NativeUnavailable(Exception):
    """The native step cannot run here; the message says why."""


class KernelsUnavailable(NativeUnavailable):
    """The kernels asked for cannot run on this CPU."""


class NotFinite(ValueError):
    """The weight `name` has values that are NaN or infinite."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has values that are NaN or infinite")
        self.name = name


class ErrorCode(enum.IntEnum):
    """The values of gpt2_error."""

    OUT_OF_MEMORY = 1
    OUT_OF_RANGE = 2
    UNAVAILABLE = 3
    NOT_FINITE = 4
    NOTHING_TO_DRAW = 5


class Dtype(enum.IntEnum):
    """What a weight's values are, by safetensors' names; the values of gpt2_dtype."""

    F32 = 0
    F16 = 1
    BF16 = 2


class Precision(enum.IntEnum):
    """What products are computed in; the values of gpt2_precision."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2

    @property
    def label(self) -> str:
        return self.name.lower()


class Config(ctypes.Structure):
    """gpt2_config."""

    _fields_ = [
        ("precision", ctypes.c_int32),
        ("is_streamed", ctypes.c_int32),
        ("kernels", ctypes.c_char_p),
        ("arithmetic", ctypes.c_char_p),
        *((name, ctypes.c_int32) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")),
        ("layer_norm_epsilon", ctypes.c_float),
        ("num_slots", ctypes.c_int32),
        ("num_threads", ctypes.c_int32),
    ]


class NativeInput(ctypes.Structure):
    """gpt2_step_input; arrays are bytes, whose values are packed as below."""

    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("chunks", "token_ids", "draws", "scored_ids", "biases", "banned_ids", "masks")),
        *((name, ctypes.c_int32) for name in ("num_chunks", "num_tokens", "num_draws", "num_scored", "num_biases", "num_banned")),
        ("num_mask_bytes", ctypes.c_int64),
    ]


class NativeOutput(ctypes.Structure):
    """gpt2_step_output; its arrays are whoever's who fills it."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("errors", "tokens", "logprobs", "tops")),
        *((name, ctypes.c_int32) for name in ("num_errors", "num_tokens", "num_logprobs", "num_tops")),
    ]


CHUNK = struct.Struct("=7i")  # gpt2_chunk
DRAW = struct.Struct("=6i8d4i")  # gpt2_draw
BIAS = struct.Struct("=if")  # gpt2_bias
TOKEN = struct.Struct("=i4xd")  # gpt2_token

_INT, _POINTER, _STRING = ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p
_INPUT, _OUTPUT = ctypes.POINTER(NativeInput), ctypes.POINTER(NativeOutput)
_SIGNATURES = {
    "gpt2_abi": (_INT, ()),
    "gpt2_last_error": (_STRING, ()),
    "gpt2_kernels": (_STRING, ()),
    "gpt2_create": (_INT, (ctypes.POINTER(Config), ctypes.POINTER(_POINTER))),
    "gpt2_destroy": (None, (_POINTER,)),
    "gpt2_kernels_of": (_STRING, (_POINTER,)),
    "gpt2_arithmetic_of": (_STRING, (_POINTER,)),
    "gpt2_load": (_INT, (_POINTER, _STRING, _POINTER, ctypes.c_int64, _INT, _INT)),
    "gpt2_step": (_INT, (_POINTER, _INPUT, _OUTPUT)),
    "gpt2_logits": (_INT, (_POINTER, _INPUT, _STRING, _INT, _POINTER, ctypes.c_int64)),
    "gpt2_copy_prefix": (_INT, (_POINTER, _INT, _INT, _INT)),
    "gpt2_sample": (_INT, (_STRING, _POINTER, _INT, _INPUT, _OUTPUT)),
}


@functools.cache
def load_library(directory: Path = Path(__file__).parent) -> ctypes.CDLL:
    """The library that the installation built. Raises NativeUnavailable."""
    file = directory / NAME
    if not file.exists():
        raise NativeUnavailable("it was not built: no C++ compiler was found when the package was installed")
    if platform.machine() not in MACHINES:
        raise NativeUnavailable(f"it is written for x86-64 and aarch64, and this is {platform.machine()}")
    try:
        built_for = _machine_of(file)
        if built_for not in ("", MACHINES[platform.machine()]):  # of such a file the loader would say that there is none
            raise NativeUnavailable(
                f"{NAME} was built for {built_for}, and this is {platform.machine()}; install the package again"
            )
        library = ctypes.CDLL(str(file))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise NativeUnavailable(f"{NAME} cannot be loaded: {error}") from error
    if library.gpt2_abi() != ABI:
        raise NativeUnavailable(f"{NAME} is of another version of this package; install it again")
    return library


def _machine_of(file: Path) -> str:
    """What an ELF file's code is for; empty for a file of another kind, of which the loader may say what is wrong."""
    with file.open("rb") as opened:
        header = opened.read(20)
    if len(header) < 20 or not header.startswith(b"\x7fELF"):
        return ""
    number = int.from_bytes(header[18:], "little")
    return _ELF_MACHINES.get(number, f"another machine (ELF's {number})")


def available_kernels() -> tuple[str, ...]:
    """The sets of kernels that this CPU can run, the widest vectors first. Raises NativeUnavailable where there is no library."""
    return tuple(load_library().gpt2_kernels().decode().split(","))


def check_available(kernels: str) -> None:
    """Raise KernelsUnavailable unless this CPU has these kernels; "auto" every CPU has."""
    if kernels not in ("auto", *available_kernels()):
        raise KernelsUnavailable(f"the kernels {kernels} cannot run on this CPU; {', '.join(available_kernels())} can")
