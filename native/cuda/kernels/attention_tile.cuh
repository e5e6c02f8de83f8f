/** Steps that both attention kernels take on a page of keys and values in shared memory. */
#pragma once
#include "device.cuh"
#include "kernels.h"

namespace lorikeet {

/** Rows of shared memory are longer than the head by this much, so that eight of them meet different banks. */
constexpr int TILE_PADDING = 8;

template <int D> struct PageTile {
  bf16 keys[PAGE_TOKENS][D + TILE_PADDING];
  bf16 values[PAGE_TOKENS][D + TILE_PADDING];
};

/** Starts to copy the first `valid` positions of one kv head's page; the rest becomes zero. */
template <int D, int THREADS>
__device__ __forceinline__ void fetch_page(PageTile<D>& tile, const bf16* page, int kv_head, int num_kv_heads, int valid) {
  const bf16* keys = page + static_cast<int64_t>(kv_head) * PAGE_TOKENS * D;
  const bf16* values = keys + static_cast<int64_t>(num_kv_heads) * PAGE_TOKENS * D;
  constexpr int CHUNKS = D / 8;
#pragma unroll
  for (int i = threadIdx.x; i < PAGE_TOKENS * CHUNKS; i += THREADS) {
    const int token = i / CHUNKS, chunk = i % CHUNKS;
    copy_async_16(&tile.keys[token][chunk * 8], keys + token * D + chunk * 8, token < valid);
    copy_async_16(&tile.values[token][chunk * 8], values + token * D + chunk * 8, token < valid);
  }
}

/** Sixteen rows of q as the left operand of a product over D; rows at or past `num_rows` are zero. */
template <int D> struct QueryFragment {
  uint32_t parts[D / 16][4];

  __device__ __forceinline__ void load(const bf16* q, int64_t row_stride, int num_rows) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
#pragma unroll
      for (int part = 0; part < 4; part++) {
        const int row = g + part % 2 * 8, column = k * 16 + part / 2 * 8 + t * 2;
        parts[k][part] = row < num_rows ? *reinterpret_cast<const uint32_t*>(q + row * row_stride + column) : 0u;
      }
    }
  }
};

/** scores[2 tiles of 8 positions] = q · keys of 16 positions from `first` on. */
template <int D>
__device__ __forceinline__ void score_16(const QueryFragment<D>& q, const PageTile<D>& tile, int first, float (&scores)[2][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; i++) scores[0][i] = scores[1][i] = 0.0f;
  const int token = first + lane / 16 * 8 + lane % 8, column = lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    uint32_t b[4];
    load_matrices(b, &tile.keys[token][k * 16 + column]);
    multiply_add(scores[0], q.parts[k][0], q.parts[k][1], q.parts[k][2], q.parts[k][3], b[0], b[1]);
    multiply_add(scores[1], q.parts[k][0], q.parts[k][1], q.parts[k][2], q.parts[k][3], b[2], b[3]);
  }
}

/** sums += weights of 16 positions · their values. */
template <int D>
__device__ __forceinline__ void gather_16(const float (&weights)[2][4], const PageTile<D>& tile, int first, float (&sums)[D / 8][4]) {
  const int lane = threadIdx.x % 32;
  const uint32_t a0 = pack_bf16(weights[0][0], weights[0][1]), a1 = pack_bf16(weights[0][2], weights[0][3]);
  const uint32_t a2 = pack_bf16(weights[1][0], weights[1][1]), a3 = pack_bf16(weights[1][2], weights[1][3]);
  const int token = first + lane / 8 % 2 * 8 + lane % 8, column = lane / 16 * 8;
#pragma unroll
  for (int d = 0; d < D / 16; d++) {
    uint32_t b[4];
    load_matrices_transposed(b, &tile.values[token][d * 16 + column]);
    multiply_add(sums[2 * d], a0, a1, a2, a3, b[0], b[1]);
    multiply_add(sums[2 * d + 1], a0, a1, a2, a3, b[2], b[3]);
  }
}

/** Over the four lanes that hold one row of a product. */
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

/** The exponent base is 2: scores are scaled by log2(e) beforehand. */
constexpr float LOG2E = 1.44269504088896341f;

/** exp2(x - max), and 0 where nothing has been seen yet. */
__device__ __forceinline__ float weight_of(float x, float max) { return max == -INFINITY ? 0.0f : exp2f(x - max); }

}  // namespace lorikeet
