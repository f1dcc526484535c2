// The kernels of AVX2 once more, with the dot products of AVX-VNNI.
#include "table.cpp"
