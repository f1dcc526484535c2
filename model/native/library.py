"""The compiled step as a ctypes library: found, checked, its functions typed. Knows no network and no batch."""

import ctypes
import enum
import functools
import platform
from pathlib import Path

ABI = 3  # GPT2_ABI in src/interface.h
NAME = "_step.so"


class NativeUnavailable(Exception):
    """The native step cannot run here; the message says why."""


class ErrorCode(enum.IntEnum):
    """The values of gpt2_error."""

    OUT_OF_MEMORY = 1
    OUT_OF_RANGE = 2
    UNAVAILABLE = 3


class Feature(enum.IntFlag):
    """Instruction sets that the kernels use; the values of gpt2_feature."""

    AVX512 = 1
    AVX512_BF16 = 2
    AVX512_VNNI = 4
    AMX_BF16 = 8
    AMX_INT8 = 16


class Precision(enum.IntEnum):
    """What products are computed in; the values of gpt2_precision."""

    FLOAT32 = 0
    BFLOAT16 = 1
    INT8 = 2

    @property
    def label(self) -> str:
        return self.name.lower()

    @property
    def needs(self) -> Feature:
        return {Precision.FLOAT32: Feature.AVX512, Precision.BFLOAT16: Feature.AVX512_BF16, Precision.INT8: Feature.AVX512_VNNI}[
            self
        ]


class Config(ctypes.Structure):
    """gpt2_config."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("precision", "features", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner")
        ),
        ("layer_norm_epsilon", ctypes.c_float),
        ("num_slots", ctypes.c_int32),
    ]


class Token(ctypes.Structure):
    """gpt2_token."""

    _fields_ = [("token_id", ctypes.c_int32), ("reserved", ctypes.c_int32), ("logprob", ctypes.c_double)]


_INT, _POINTER, _STRING = ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p
_SIGNATURES = {
    "gpt2_abi": (_INT, ()),
    "gpt2_features": (_INT, ()),
    "gpt2_last_error": (_STRING, ()),
    "gpt2_create": (_INT, (ctypes.POINTER(Config), ctypes.POINTER(_POINTER))),
    "gpt2_destroy": (None, (_POINTER,)),
    "gpt2_load": (_INT, (_POINTER, _STRING, _POINTER, ctypes.c_int64, _INT)),
    "gpt2_step": (_INT, (_POINTER, _STRING, _INT, _STRING, _INT, _STRING, _STRING, _POINTER, _INT)),
    "gpt2_logits": (_INT, (_POINTER, _STRING, _INT, _STRING, _INT, _POINTER, _INT)),
    "gpt2_copy_prefix": (_INT, (_POINTER, _INT, _INT, _INT)),
    "gpt2_sample": (Token, (_POINTER, _INT, _STRING, _STRING, _STRING)),
}


@functools.cache
def load_library(directory: Path = Path(__file__).parent) -> ctypes.CDLL:
    """The library that the installation built; torch is to be imported before, so that both share the OpenMP that it brings.

    Raises NativeUnavailable.
    """
    file = directory / NAME
    if not file.exists():
        raise NativeUnavailable("it was not built: no C++ compiler was found when the package was installed")
    if platform.machine() not in ("x86_64", "AMD64"):
        raise NativeUnavailable(f"it is written for x86-64, and this is {platform.machine()}")
    try:
        library = ctypes.CDLL(str(file))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise NativeUnavailable(f"{NAME} cannot be loaded: {error}") from error
    if library.gpt2_abi() != ABI:
        raise NativeUnavailable(f"{NAME} is of another version of this package; install it again")
    return library


def available_features() -> Feature:
    """What this CPU can run of what the kernels know. Raises NativeUnavailable where there is no library."""
    return Feature(load_library().gpt2_features())
