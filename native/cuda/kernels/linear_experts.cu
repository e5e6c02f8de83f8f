/**
 * Products of every expert with the rows that it was given.
 *
 * A block has a tile of routed rows of one expert and a tile of its matrix's rows, and walks along all columns. Which expert
 * that is follows from `starts`, so the grid, an upper bound, is the same for every choice. Weights are the left operand of
 * the tensor cores, as in linear_small.cu; columns of the right one beyond the tile's rows are left out, so that few rows cost
 * little. Neighbouring blocks have neighbouring tiles of rows: an expert with more than one reads its matrix from memory once.
 */
#include "device.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int DEPTH = 64, WARPS = 4, THREADS = WARPS * 32;
constexpr int CHUNKS = DEPTH / 8; /* of 16 bytes in a row of a step */

/** Eight rows' chunks of one column meet different banks. */
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * DEPTH + (chunk ^ (row & 7)) * 8; }

/** FRAGMENTS times sixteen outputs a warp, N_TILES times eight rows. */
template <int FRAGMENTS, int N_TILES> struct Shape {
  static constexpr int OUTPUTS = WARPS * FRAGMENTS * 16, ROWS = N_TILES * 8;
  /* Of several blocks on a multiprocessor some 128 KiB are under way. */
  static constexpr int STAGES = FRAGMENTS > 1 ? 3 : N_TILES >= 8 ? 4 : 5;
  struct Stage {
    bf16 weights[OUTPUTS * DEPTH];
    bf16 x[ROWS * DEPTH];
  };
  static constexpr int ALIGNMENT = 8 * DEPTH * sizeof(bf16);
  static constexpr size_t BYTES = STAGES * sizeof(Stage) + ALIGNMENT;
  static_assert(sizeof(Stage) % ALIGNMENT == 0);
};

struct Tile {
  int expert, first, count; /* count 0: none */
};

/** The `index`th run of at most `rows` routed rows of one expert. Every warp finds it for itself. */
__device__ __forceinline__ Tile find_tile(const Routed& routed, int rows, int index) {
  const int lane = threadIdx.x % 32;
  for (int base = 0, before = 0; base < routed.num_experts; base += 32) {
    const int expert = base + lane;
    const bool exists = expert < routed.num_experts;
    const int start = exists ? routed.starts[expert] : 0, end = exists ? routed.starts[expert + 1] : 0;
    const int own = (end - start + rows - 1) / rows;
    int up_to = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset <<= 1) {
      const int other = __shfl_up_sync(~0u, up_to, offset);
      if (lane >= offset) up_to += other;
    }
    const uint32_t behind = __ballot_sync(~0u, before + up_to > index);
    if (behind != 0) {
      const int owner = __ffs(behind) - 1;
      const int within = index - (before + __shfl_sync(~0u, up_to - own, owner));
      const int first = __shfl_sync(~0u, start, owner) + within * rows;
      return {base + owner, first, min(rows, __shfl_sync(~0u, end, owner) - first)};
    }
    before += __shfl_sync(~0u, up_to, 31);
  }
  return {0, 0, 0};
}

template <int FRAGMENTS, int N_TILES> __global__ void __launch_bounds__(THREADS) linear_experts_kernel(ExpertLinearArgs args) {
  using S = Shape<FRAGMENTS, N_TILES>;
  extern __shared__ uint8_t memory[];
  typename S::Stage* stage = reinterpret_cast<typename S::Stage*>((reinterpret_cast<uintptr_t>(memory) + S::ALIGNMENT - 1) / S::ALIGNMENT * S::ALIGNMENT);
  begin_behind_previous_kernels();
  const Tile tile = find_tile(args.routed, S::ROWS, blockIdx.x);
  if (tile.count == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int first_output = blockIdx.y * S::OUTPUTS, steps = (args.k + DEPTH - 1) / DEPTH;
  const bf16* matrix = args.weight + (static_cast<int64_t>(tile.expert) * args.n + first_output) * args.weight_stride;

  /* A thread copies one chunk of every sixteenth row. */
  constexpr int ROWS_AT_ONCE = THREADS / CHUNKS, X_COPIES = (S::ROWS + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  const int own_row = threadIdx.x / CHUNKS, own_chunk = threadIdx.x % CHUNKS, own_place = swizzled(own_row, own_chunk);
  static_assert(ROWS_AT_ONCE % 8 == 0, "all of a thread's rows are swizzled alike");
  int64_t x_at[X_COPIES];
#pragma unroll
  for (int i = 0; i < X_COPIES; i++) {
    const int row = tile.first + min(own_row + i * ROWS_AT_ONCE, tile.count - 1);
    x_at[i] = static_cast<int64_t>(args.by_source ? args.routed.sources[row] : row) * args.x_stride;
  }
  const auto fetch = [&](int step) {
    if (step < steps) {
      typename S::Stage& to = stage[step % S::STAGES];
      const int column = step * DEPTH + own_chunk * 8;
#pragma unroll
      for (int i = 0; i < S::OUTPUTS / ROWS_AT_ONCE; i++) {
        const int row = own_row + i * ROWS_AT_ONCE;
        const bool inside = first_output + row < args.n && column < args.k;
        copy_async_16(to.weights + own_place + i * ROWS_AT_ONCE * DEPTH, inside ? matrix + static_cast<int64_t>(row) * args.weight_stride + column : args.weight, inside);
      }
#pragma unroll
      for (int i = 0; i < X_COPIES; i++) {
        const int row = own_row + i * ROWS_AT_ONCE;
        /* What is multiplied comes in sixteens. */
        if (row >= S::ROWS || i * ROWS_AT_ONCE >= tile.count) continue;
        const bool inside = row < tile.count && column < args.k;
        copy_async_16(to.x + own_place + i * ROWS_AT_ONCE * DEPTH, inside ? args.x + x_at[i] + column : args.x, inside);
      }
    }
    copy_async_commit();
  };

  float sums[FRAGMENTS][N_TILES][4];
#pragma unroll
  for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[f][n][e] = 0.0f;
  for (int s = 0; s < S::STAGES - 1; s++) fetch(s);
  for (int step = 0; step < steps; step++) {
    copy_async_wait<S::STAGES - 2>();
    __syncthreads();
    fetch(step + S::STAGES - 1);
    const typename S::Stage& here = stage[step % S::STAGES];
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) {
      uint32_t a[FRAGMENTS][4];
#pragma unroll
      for (int f = 0; f < FRAGMENTS; f++) load_matrices(a[f], here.weights + swizzled((warp * FRAGMENTS + f) * 16 + lane / 8 % 2 * 8 + lane % 8, k * 2 + lane / 16));
      if constexpr (N_TILES == 1) {
        /* One load brings two steps' worth; every other one is enough. */
        uint32_t b[4];
        load_matrices(b, here.x + swizzled(lane % 8, k / 2 * 4 + lane / 8));
#pragma unroll
        for (int f = 0; f < FRAGMENTS; f++) multiply_add(sums[f][0], a[f][0], a[f][1], a[f][2], a[f][3], b[k % 2 * 2], b[k % 2 * 2 + 1]);
      } else {
#pragma unroll
        for (int n = 0; n < N_TILES; n += 2) {
          if (n * 8 >= tile.count) continue;
          uint32_t b[4];
          load_matrices(b, here.x + swizzled(n * 8 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
#pragma unroll
          for (int f = 0; f < FRAGMENTS; f++) {
            multiply_add(sums[f][n], a[f][0], a[f][1], a[f][2], a[f][3], b[0], b[1]);
            multiply_add(sums[f][n + 1], a[f][0], a[f][1], a[f][2], a[f][3], b[2], b[3]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int n = 0; n < N_TILES; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const int row = n * 8 + t * 2 + e % 2;
      if (row >= tile.count) continue;
      bf16* out = args.out + static_cast<int64_t>(tile.first + row) * args.out_stride + first_output;
#pragma unroll
      for (int f = 0; f < FRAGMENTS; f++) {
        const int output = (warp * FRAGMENTS + f) * 16 + e / 2 * 8 + g;
        if (first_output + output < args.n) out[output] = __float2bfloat16(sums[f][n][e]);
      }
    }
}

template <int FRAGMENTS, int N_TILES> void launch_experts(const ExpertLinearArgs& args, Queue queue) {
  using S = Shape<FRAGMENTS, N_TILES>;
  static const bool allowed = (allow_shared_bytes(linear_experts_kernel<FRAGMENTS, N_TILES>, S::BYTES), true);
  (void)allowed;
  /* Each expert's last tile may not be full. */
  const int routed = args.rows * args.routed.top_k;
  const int tiles = (routed < args.routed.num_experts ? routed : args.routed.num_experts) + routed / S::ROWS;
  launch(linear_experts_kernel<FRAGMENTS, N_TILES>, dim3(tiles, (args.n + S::OUTPUTS - 1) / S::OUTPUTS), dim3(THREADS), S::BYTES, queue, args);
}

}  // namespace

void linear_experts(const ExpertLinearArgs& args, Queue queue) {
  /* No expert has more rows than the step. */
  if (args.rows <= 8) launch_experts<1, 1>(args, queue);
  else if (args.rows <= 16) launch_experts<1, 2>(args, queue);
  else if (args.rows <= 32) launch_experts<1, 4>(args, queue);
  else if (args.rows <= 64) launch_experts<1, 8>(args, queue);
  else launch_experts<2, 16>(args, queue);
}

}  // namespace lorikeet
