// Matrix products on AMX: a tile of 16 rows by 64 bytes of inputs times one of 64 bytes by 16 outputs (Intel SDM, TDPBSSD,
// TDPBF16PS).
//
// The same packed weights as for AVX-512 serve: 16 steps along k of 16 outputs are a tile, 256 bytes from row to row. Integer sums
// are the same to the bit; bfloat16 sums are AMX's own, in one order for every number of rows.
#pragma once

#include "../kernels/ahead.h"
#include "../kernels/finish.h"

namespace gpt2 {
namespace {

constexpr int TILE_ROWS = 16, STEP = 4 * BLOCK, TILE_BYTES = TILE_ROWS * STEP;
// How far ahead weights are asked for where few rows leave the memory as the bound.
constexpr int PREFETCH_BYTES = 8192;

struct alignas(64) TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
};

// C += A B by tile numbers; gcc's own _tile_dp... take literals alone, not template parameters.
struct Int8Tiles {
    using Element = int32_t;
    template <int C, int A, int B>
    static void dot() {
        __asm__ volatile("tdpbssd\t%%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    }
};

struct BFloat16Tiles {
    using Element = float;
    template <int C, int A, int B>
    static void dot() {
        __asm__ volatile("tdpbf16ps\t%%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    }
};

constexpr int ROW_BYTES = BLOCK * 4;  // of sums

// Up to 16 rows by 64 outputs. Tiles 0-3: sums; 4: inputs; 5-7: weights.
template <class Precision>
void sum_16_rows(const char* w, int num_tiles, const char* x, size_t stride, typename Precision::Element* sums) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < num_tiles; ++k, w += TILE_BYTES, x += 64) {
        for (int line = 0; line < TILE_BYTES; line += 64) __builtin_prefetch(w + PREFETCH_BYTES + line, 0, 3);
        _tile_loadd(4, x, stride);
        _tile_loadd(5, w, STEP);
        Precision::template dot<0, 4, 5>();
        _tile_loadd(6, w + 64, STEP);
        Precision::template dot<1, 4, 6>();
        _tile_loadd(7, w + 128, STEP);
        Precision::template dot<2, 4, 7>();
        _tile_loadd(5, w + 192, STEP);
        Precision::template dot<3, 4, 5>();
    }
    _tile_stored(0, sums, ROW_BYTES);
    _tile_stored(1, sums + 16, ROW_BYTES);
    _tile_stored(2, sums + 32, ROW_BYTES);
    _tile_stored(3, sums + 48, ROW_BYTES);
}

// 32 rows by 32 outputs: each tile that is loaded is used twice. Tiles 0-3: sums; 4, 5: inputs; 6, 7: weights.
template <class Precision>
void sum_32_rows(const char* w, int num_tiles, const char* x, size_t stride, typename Precision::Element* sums, Ahead& ahead) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < num_tiles; ++k, w += TILE_BYTES, x += 64) {
        fetch(ahead);
        _tile_loadd(4, x, stride);
        _tile_loadd(6, w, STEP);
        Precision::template dot<0, 4, 6>();
        _tile_loadd(5, x + TILE_ROWS * stride, stride);
        Precision::template dot<2, 5, 6>();
        _tile_loadd(7, w + 64, STEP);
        Precision::template dot<1, 4, 7>();
        Precision::template dot<3, 5, 7>();
    }
    _tile_stored(0, sums, ROW_BYTES);
    _tile_stored(1, sums + 16, ROW_BYTES);
    _tile_stored(2, sums + TILE_ROWS * BLOCK, ROW_BYTES);
    _tile_stored(3, sums + TILE_ROWS * BLOCK + 16, ROW_BYTES);
}

template <class Precision>
void multiply_tiles(const Product& product, Ahead&) {
    alignas(64) typename Precision::Element sums[2 * TILE_ROWS * BLOCK];
    const Input& x = *product.x;
    const size_t block_bytes = product.layer->block_bytes;
    const int num_rows = product.num_rows, num_tiles = int(block_bytes / TILE_BYTES);
    const char* w = product.weights;
    // Spread over all passes through this block, so that the memory is read while the tiles multiply.
    const int num_pairs = (num_rows + TILE_ROWS - 1) / (2 * TILE_ROWS) * 2;
    Ahead ahead = make_ahead(product.next, block_bytes, 0, product.next ? 1 : 0, (num_pairs ? num_pairs : 1) * num_tiles);
    int row = 0;
    for (; num_rows - row > TILE_ROWS; row += 2 * TILE_ROWS) {
        const char* rows = x.data + row * x.stride;
        sum_32_rows<Precision>(w, num_tiles, rows, x.stride, sums, ahead);
        sum_32_rows<Precision>(w + 128, num_tiles, rows, x.stride, sums + 32, ahead);
        finish_block(product, row, num_rows - row < 2 * TILE_ROWS ? num_rows - row : 2 * TILE_ROWS, sums);
    }
    if (row < num_rows) {
        sum_16_rows<Precision>(w, num_tiles, x.data + row * x.stride, x.stride, sums);
        finish_block(product, row, num_rows - row, sums);
    }
}

// A thread's tiles, for as long as it multiplies: set up before, let go of after.
void configure_tiles(int num_rows) {
    TileConfig config = {1};
    for (int tile = 0; tile < 8; ++tile) config.bytes_per_row[tile] = 64, config.rows[tile] = TILE_ROWS;
    // A step of fewer than 16 rows neither loads nor multiplies what it does not have.
    if (num_rows < TILE_ROWS)
        for (int tile = 0; tile < 5; ++tile) config.rows[tile] = uint8_t(num_rows);
    // Not gcc 12's _tile_loadconfig, which tells the compiler of the first eight bytes alone: the others were never written.
    __asm__ volatile("ldtilecfg\t%0" ::"m"(config));
}

void release_tiles() { _tile_release(); }

}  // namespace
}  // namespace gpt2
