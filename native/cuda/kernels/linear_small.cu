/**
 * Products of up to 64 rows on devices without Hopper's copy engine: near the speed at which the device reads the weights.
 *
 * Weights are the left operand of the tensor cores: 128 of their rows a tile, 64 columns a step, rows of x the right one.
 * All steps of all tiles form one line that is cut into equal pieces, a block each, so that no multiprocessor waits for
 * another ("stream-K"). A tile that is cut is summed by the block that finishes last, in the order of the pieces. A row's
 * sums depend on the shape alone.
 *
 * Weights depend on no other kernel, so the first steps' are under way before the kernel before this one has ended. A
 * block leaves half of its multiprocessor free, where adapters' kernels run beside it.
 *
 * Source of the partition: Osama et al., "Stream-K", PPoPP 2023.
 */
#include "device.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int TILE = 128, DEPTH = 64, WARPS = 8, THREADS = WARPS * 32;
constexpr int CHUNKS = DEPTH / 8; /* of 16 bytes in a row of a step */
static_assert(TILE == WARPS * 16, "a warp takes 16 rows of a tile");

/** Eight rows' chunks of one column meet different banks. */
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * DEPTH + (chunk ^ (row & 7)) * 8; }

/** Eight rows of a step: what the tensor cores' swizzle repeats after. */
constexpr int STAGE_ALIGNMENT = 8 * DEPTH * sizeof(bf16);

template <int N_TILES> struct Stage {
  bf16 weights[TILE * DEPTH];
  bf16 x[N_TILES * 8 * DEPTH];
};

template <int N_TILES> constexpr int STAGES_OF = N_TILES >= 8 ? 4 : 5;

/** sums += weights · xᵀ of one step, for the warp's sixteen rows. */
template <int N_TILES> __device__ __forceinline__ void multiply_step(const Stage<N_TILES>& here, int warp, int lane, float (&sums)[N_TILES][4]) {
#pragma unroll
  for (int k = 0; k < DEPTH / 16; k++) {
    uint32_t a[4];
    load_matrices(a, here.weights + swizzled(warp * 16 + lane / 8 % 2 * 8 + lane % 8, k * 2 + lane / 16));
    if constexpr (N_TILES == 1) {
      /* One load brings two steps' worth; every other one is enough. */
      uint32_t b[4];
      load_matrices(b, here.x + swizzled(lane % 8, k / 2 * 4 + lane / 8));
      multiply_add(sums[0], a[0], a[1], a[2], a[3], b[k % 2 * 2], b[k % 2 * 2 + 1]);
    } else {
#pragma unroll
      for (int n = 0; n < N_TILES; n += 2) {
        uint32_t b[4];
        load_matrices(b, here.x + swizzled(n * 8 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
        multiply_add(sums[n], a[0], a[1], a[2], a[3], b[0], b[1]);
        multiply_add(sums[n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    }
  }
}

struct SmallLinear {
  LinearArgs args;
  float* partial; /* [blocks, 2, N_TILES * 8, TILE] */
  uint32_t* arrived; /* [tiles], zero before and after */
};

template <int N_TILES> __global__ void __launch_bounds__(THREADS) linear_small_kernel(SmallLinear op) {
  extern __shared__ uint8_t memory[];
  Stage<N_TILES>* stage = reinterpret_cast<Stage<N_TILES>*>((reinterpret_cast<uintptr_t>(memory) + STAGE_ALIGNMENT - 1) / STAGE_ALIGNMENT * STAGE_ALIGNMENT);
  constexpr int STAGES = STAGES_OF<N_TILES>, TOKENS = N_TILES * 8;
  __shared__ bool is_last;
  const LinearArgs& args = op.args;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int steps = (args.k + DEPTH - 1) / DEPTH, tiles = (args.n + TILE - 1) / TILE, units = tiles * steps, blocks = gridDim.x;
  const auto first_unit = [&](int block) { return static_cast<int>(static_cast<int64_t>(units) * block / blocks); };
  const int begin = first_unit(blockIdx.x), end = first_unit(blockIdx.x + 1);

  /* A thread copies one chunk of every 32nd row. Where it is in the line of steps is counted, since a division at each
     step costs more than the step's arithmetic. */
  constexpr int ROWS_AT_ONCE = THREADS / CHUNKS;
  const int own_row = threadIdx.x / CHUNKS, own_chunk = threadIdx.x % CHUNKS, own_place = swizzled(own_row, own_chunk);
  struct Place {
    int tile, step, stage;
  };
  const auto advance = [&](Place& place) {
    if (++place.step == steps) place.step = 0, place.tile++;
    if (++place.stage == STAGES) place.stage = 0;
  };
  const auto fetch_weights = [&](const Place& place) {
    bf16* to = stage[place.stage].weights + own_place;
    const int column = place.step * DEPTH + own_chunk * 8, first = place.tile * TILE + own_row;
    const bf16* from = args.weight + static_cast<int64_t>(first) * args.weight_stride + column;
    const int64_t row_step = static_cast<int64_t>(ROWS_AT_ONCE) * args.weight_stride;
#pragma unroll
    for (int i = 0; i < TILE / ROWS_AT_ONCE; i++) {
      const bool inside = first + i * ROWS_AT_ONCE < args.n && column < args.k;
      copy_async_16(to + i * ROWS_AT_ONCE * DEPTH, inside ? from + i * row_step : args.weight, inside);
    }
  };
  const auto fetch_x = [&](const Place& place) {
    bf16* to = stage[place.stage].x + own_place;
    const int column = place.step * DEPTH + own_chunk * 8;
#pragma unroll
    for (int i = 0; i < (TOKENS + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE; i++) {
      const int row = own_row + i * ROWS_AT_ONCE;
      if (TOKENS % ROWS_AT_ONCE != 0 && row >= TOKENS) continue;
      const bool inside = row < args.m && column < args.k;
      copy_async_16(to + i * ROWS_AT_ONCE * DEPTH, args.x + (inside ? static_cast<int64_t>(row) * args.x_stride + column : 0), inside);
    }
  };

  Place now = {begin / steps, begin % steps, 0}, next = now;
  const Place first = now;
  for (int s = 0; s < STAGES - 1; s++) {
    if (begin + s < end) fetch_weights(next);
    advance(next);
  }
  wait_for_previous_kernels();
  let_next_kernel_start();
  next = first;
  for (int s = 0; s < STAGES - 1; s++) {
    if (begin + s < end) fetch_x(next);
    copy_async_commit();
    advance(next);
  }

  float sums[N_TILES][4];
#pragma unroll
  for (int n = 0; n < N_TILES; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[n][e] = 0.0f;
  int piece_begin = begin;

  for (int unit = begin; unit < end; unit++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    if (unit + STAGES - 1 < end) {
      fetch_weights(next);
      fetch_x(next);
    }
    copy_async_commit();
    advance(next);
    const Stage<N_TILES>& here = stage[now.stage];
    const int tile = now.tile, tile_begin = unit - now.step, tile_end = tile_begin + steps;
    advance(now);
    multiply_step<N_TILES>(here, warp, lane, sums);
    if (unit + 1 != end && unit + 1 != tile_end) continue;

    const auto write = [&](int row, int token, float sum) {
      const int n = tile * TILE + row;
      if (n >= args.n || token >= args.m) return;
      const int64_t at = static_cast<int64_t>(token) * args.out_stride + n;
      if (args.out_type == OutType::f32) {
        float* out = static_cast<float*>(args.out) + at;
        *out = args.accumulate ? *out + sum : sum;
      } else {
        bf16* out = static_cast<bf16*>(args.out) + at;
        *out = __float2bfloat16(args.accumulate ? __bfloat162float(*out) + sum : sum);
      }
    };
    if (piece_begin == tile_begin && unit + 1 == tile_end) {
#pragma unroll
      for (int n = 0; n < N_TILES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) write(warp * 16 + e / 2 * 8 + g, n * 8 + t * 2 + e % 2, sums[n][e]);
    } else {
      /* A block has at most two cut tiles: the one it begins in and the one it ends in. */
      constexpr int PIECE = TOKENS * TILE;
      float* own = op.partial + (static_cast<int64_t>(blockIdx.x) * 2 + (piece_begin == begin ? 0 : 1)) * PIECE;
#pragma unroll
      for (int n = 0; n < N_TILES; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) own[(n * 8 + t * 2 + e % 2) * TILE + warp * 16 + e / 2 * 8 + g] = sums[n][e];
      const auto owner = [&](int u) {
        int block = static_cast<int>(static_cast<int64_t>(u) * blocks / units);
        while (first_unit(block + 1) <= u) block++;
        while (first_unit(block) > u) block--;
        return block;
      };
      const int from = owner(tile_begin), to = owner(tile_end - 1);
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) is_last = atomicInc(op.arrived + tile, to - from) == static_cast<uint32_t>(to - from);
      __syncthreads();
      if (is_last) {
        __threadfence();
        for (int i = threadIdx.x; i < PIECE / 4; i += THREADS) {
          const int token = i / (TILE / 4), row = i % (TILE / 4) * 4;
          if (token >= args.m) break;
          float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
          for (int block = from; block <= to; block++) {
            const int place = first_unit(block) < tile_begin ? 1 : 0;
            const float4 part = __ldcg(reinterpret_cast<const float4*>(op.partial + (static_cast<int64_t>(block) * 2 + place) * PIECE + token * TILE + row));
            sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
          }
          write(row, token, sum.x);
          write(row + 1, token, sum.y);
          write(row + 2, token, sum.z);
          write(row + 3, token, sum.w);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[n][e] = 0.0f;
    piece_begin = unit + 1;
  }
}

template <int N_TILES> void launch_small(const SmallLinear& op, int blocks, Queue queue) {
  constexpr size_t bytes = STAGES_OF<N_TILES> * sizeof(Stage<N_TILES>) + STAGE_ALIGNMENT;
  static_assert(sizeof(Stage<N_TILES>) % STAGE_ALIGNMENT == 0);
  static const bool allowed = (allow_shared_bytes(linear_small_kernel<N_TILES>, bytes), true);
  (void)allowed;
  /* Every block has work, or the blocks of a tile could not be counted. */
  const int64_t units = static_cast<int64_t>((op.args.n + TILE - 1) / TILE) * ((op.args.k + DEPTH - 1) / DEPTH);
  launch(linear_small_kernel<N_TILES>, dim3(static_cast<unsigned>(units < blocks ? units : blocks)), dim3(THREADS), bytes, queue, op);
}

}  // namespace

size_t linear_small_partial_bytes(int blocks) { return static_cast<size_t>(blocks) * 2 * MAX_SMALL_ROWS * TILE * sizeof(float); }
size_t linear_small_counter_bytes(int n) { return static_cast<size_t>((n + TILE - 1) / TILE) * sizeof(uint32_t); }

void linear_small(const LinearArgs& args, int blocks, float* partial, uint32_t* arrived, Queue queue) {
  const SmallLinear op = {args, partial, arrived};
  if (args.m <= 8) launch_small<1>(op, blocks, queue);
  else if (args.m <= 16) launch_small<2>(op, blocks, queue);
  else if (args.m <= 32) launch_small<4>(op, blocks, queue);
  else launch_small<8>(op, blocks, queue);
}

}  // namespace lorikeet
