/**
 * The matrix product that needs nothing of its machine: 64 x 64 outputs a block, sixteen columns of k at a time, with
 * tensor cores through mma.sync. It runs where cuBLASLt is missing, and checks what cuBLASLt gives.
 */
#include "device.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int TILE = 64, DEPTH = 32, THREADS = 128, PADDING = 8;

/** Rows [first, first + TILE) and columns [k0, k0 + DEPTH) of a row-major matrix; zeros outside of it. */
__device__ __forceinline__ void fetch(bf16 (&tile)[TILE][DEPTH + PADDING], const bf16* from, int stride, int first, int rows,
                                      int k0, int k) {
  for (int i = threadIdx.x; i < TILE * DEPTH / 8; i += THREADS) {
    const int row = i / (DEPTH / 8), column = i % (DEPTH / 8) * 8;
    const bool inside = first + row < rows && k0 + column < k;
    const bf16* source = from + static_cast<int64_t>(inside ? first + row : 0) * stride + (inside ? k0 + column : 0);
    copy_async_16(&tile[row][column], source, inside);
  }
}

/** k counts whole strides: what lies between a row's width and its stride is zero in both operands. */
__global__ void __launch_bounds__(THREADS) linear_plain_kernel(LinearArgs args) {
  __shared__ __align__(16) bf16 x[2][TILE][DEPTH + PADDING], w[2][TILE][DEPTH + PADDING];
  wait_for_previous_kernels();
  const int m0 = blockIdx.y * TILE, n0 = blockIdx.x * TILE, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float sums[TILE / 8][4] = {};
  const int steps = (args.k + DEPTH - 1) / DEPTH;
  const auto fetch_step = [&](int step) {
    if (step < steps) {
      fetch(x[step % 2], args.x, args.x_stride, m0, args.m, step * DEPTH, args.k);
      fetch(w[step % 2], args.weight, args.weight_stride, n0, args.n, step * DEPTH, args.k);
    }
    copy_async_commit();
  };
  fetch_step(0);
  for (int step = 0; step < steps; step++) {
    fetch_step(step + 1);
    copy_async_wait<1>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < DEPTH; k += 16) {
      uint32_t a[4], b[4];
      load_matrices(a, &x[step % 2][warp * 16 + lane / 8 % 2 * 8 + lane % 8][k + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < TILE / 16; n++) {
        load_matrices(b, &w[step % 2][n * 16 + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
        multiply_add(sums[2 * n], a[0], a[1], a[2], a[3], b[0], b[1]);
        multiply_add(sums[2 * n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    }
    __syncthreads();
  }
  for (int n = 0; n < TILE / 8; n++) {
    for (int e = 0; e < 4; e++) {
      const int row = m0 + warp * 16 + lane / 4 + e / 2 * 8, column = n0 + n * 8 + lane % 4 * 2 + e % 2;
      if (row >= args.m || column >= args.n) continue;
      const int64_t at = static_cast<int64_t>(row) * args.out_stride + column;
      if (args.out_type == OutType::f32) {
        float* out = static_cast<float*>(args.out) + at;
        *out = args.accumulate ? *out + sums[n][e] : sums[n][e];
      } else {
        bf16* out = static_cast<bf16*>(args.out) + at;
        *out = __float2bfloat16(args.accumulate ? __bfloat162float(*out) + sums[n][e] : sums[n][e]);
      }
    }
  }
}

}  // namespace

void linear_plain(const LinearArgs& args, Queue queue) {
  launch(linear_plain_kernel, dim3((args.n + TILE - 1) / TILE, (args.m + TILE - 1) / TILE), dim3(THREADS), 0, queue, args);
}

}  // namespace lorikeet
