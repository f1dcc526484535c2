"""What the tests of the native step share: every way in which it can compute."""

from typing import NamedTuple

import pytest

from model.native.library import Feature, NativeUnavailable, Precision, available_features

AMX = Feature.AMX_BF16 | Feature.AMX_INT8


class Kind(NamedTuple):
    """A precision, and instruction sets that it must have and must do without."""

    precision: Precision
    needs: Feature
    without: Feature = Feature(0)

    @property
    def features(self) -> Feature:
        return available_features() & ~self.without


KINDS = {
    "float32": Kind(Precision.FLOAT32, Feature.AVX512),
    "bfloat16_amx": Kind(Precision.BFLOAT16, Feature.AVX512_BF16 | Feature.AMX_BF16),
    "bfloat16_avx512": Kind(Precision.BFLOAT16, Feature.AVX512_BF16, without=AMX),
    "int8_amx": Kind(Precision.INT8, Feature.AVX512_VNNI | Feature.AVX512_BF16 | Feature.AMX_INT8),
    "int8_avx512": Kind(Precision.INT8, Feature.AVX512_VNNI | Feature.AVX512_BF16, without=AMX),
    "int8_without_bfloat16": Kind(Precision.INT8, Feature.AVX512_VNNI, without=AMX | Feature.AVX512_BF16),
}


@pytest.fixture(scope="session")
def features() -> Feature:
    """What this machine has; without AVX-512 or a built library there is nothing to test."""
    try:
        available = available_features()
    except NativeUnavailable as error:
        pytest.skip(str(error))
    if Feature.AVX512 not in available:
        pytest.skip("needs AVX-512")
    return available


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def kind(request: pytest.FixtureRequest, features: Feature) -> Kind:
    if request.param.needs not in features:
        pytest.skip(f"needs {request.param.needs & ~features!r}")
    return request.param
