/**
 * Activation and rotation of many rows, which add B · shrunk on their way: an expanded part of their own would be written and read
 * as often as the product itself. By tiles of rows, those without an adapter too.
 */
#include <algorithm>

#include "device.cuh"
#include "expand_units.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "rows.cuh"

namespace lorikeet {

namespace {

using namespace expand_units;

/** Block (tile, outputs). Width a multiple of 8. */
__global__ void __launch_bounds__(THREADS, 3) expand_silu_mul_kernel(SiluArgs args, LoraArgs lora, int block_width) {
  extern __shared__ __align__(128) uint8_t memory[];
  const RowTile tile = lora.tiles[blockIdx.x];
  if (tile.num_rows == 0) return;
  const SiteRecord& site = site_of(lora, tile);
  begin_behind_previous_kernels();
  const int first = blockIdx.y * block_width, end = min(args.width, first + block_width), t = threadIdx.x % 4;
  const auto columns_of = [&](int unit, int side) { return side * args.width + first + unit * SIDE; };
  const auto end_of = [&](int side) { return side * args.width + end; };
  const auto finish = [&](int unit, const float (&sums)[2][OCTETS][4], Stage& stage) {
    const int column = first + unit * SIDE;
#pragma unroll
    for (int j = 0; j < OCTETS; j++) {
      float2 gate_bias = make_float2(0.0f, 0.0f), up_bias = gate_bias;
      const int at = column + j * B_OCTET + t * 2;
      if (args.pending.bias != nullptr && at < end) {
        gate_bias = *reinterpret_cast<const float2*>(args.pending.bias + at);
        up_bias = *reinterpret_cast<const float2*>(args.pending.bias + args.width + at);
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float low = silu(sums[0][j][2 * half] + gate_bias.x) * (sums[1][j][2 * half] + up_bias.x);
        const float high = silu(sums[0][j][2 * half + 1] + gate_bias.y) * (sums[1][j][2 * half + 1] + up_bias.y);
        put_pair(stage, 0, half, j, low, high);
      }
    }
    __syncwarp();
    write_side(stage, 0, end - column, [&](int row) { return row < tile.num_rows ? args.out + static_cast<int64_t>(tile.row + row) * args.out_stride + column : nullptr; });
  };
  run(lora, tile, site, args.gate_up, args.gate_up_stride, (end - first + SIDE - 1) / SIDE, memory, columns_of, end_of, finish);
}

/** Block (tile, heads). A unit is a head of 128 or two of 64, so both halves of what is rotated are a thread's own. */
template <int D> __global__ void __launch_bounds__(THREADS, 2) expand_rope_kv_write_kernel(RopeArgs args, LoraArgs lora, int block_heads) {
  extern __shared__ __align__(128) uint8_t memory[];
  constexpr int HALF = D / 2, HEADS = 2 * SIDE / D, N = HALF / B_OCTET;
  const RowTile tile = lora.tiles[blockIdx.x];
  if (tile.num_rows == 0) return;
  const SiteRecord& site = site_of(lora, tile);
  begin_behind_previous_kernels();
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int num_heads = args.num_heads + 2 * args.num_kv_heads, first_head = blockIdx.y * block_heads, end_head = min(num_heads, first_head + block_heads);
  const HeadNorms norms(args, tile.row);
  /* Every head turns a row by the same angles. */
  float2 cosines[2][N], sines[2][N];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = warp * 16 + half * 8 + g;
    const float* const table = args.table + static_cast<int64_t>(row < tile.num_rows ? args.positions[tile.row + row] : 0) * D + t * 2;
#pragma unroll
    for (int j = 0; j < N; j++) {
      cosines[half][j] = *reinterpret_cast<const float2*>(table + j * B_OCTET);
      sines[half][j] = *reinterpret_cast<const float2*>(table + HALF + j * B_OCTET);
    }
  }
  const auto columns_of = [&](int unit, int side) { return first_head * D + unit * 2 * SIDE + side * SIDE; };
  const auto end_of = [&](int) { return end_head * D; };
  const auto finish = [&](int unit, float (&sums)[2][OCTETS][4], Stage& stage) {
#pragma unroll
    for (int i = 0; i < HEADS; i++) {
      const int head = first_head + unit * HEADS + i;
      if (head >= end_head) break;
      const bool is_value = head >= args.num_heads + args.num_kv_heads;
      const float* const norm = is_value ? nullptr : head < args.num_heads ? norms.q : norms.k;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        /* Of a head of 128 the second half is the second side. */
        const auto low = [&](int j, int e) -> float& { return sums[i][j][2 * half + e]; };
        const auto high = [&](int j, int e) -> float& { return D == SIDE ? sums[i][N + j][2 * half + e] : sums[1][j][2 * half + e]; };
        float squares = 0.0f;
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            if (args.pending.bias != nullptr) {
              const float* const bias = args.pending.bias + head * D + j * B_OCTET + t * 2 + e;
              low(j, e) += bias[0], high(j, e) += bias[HALF];
            }
            squares += low(j, e) * low(j, e) + high(j, e) * high(j, e);
          }
        if (norm != nullptr) {
          /* A row's numbers are with four neighbouring threads. */
          squares += __shfl_xor_sync(~0u, squares, 1);
          squares += __shfl_xor_sync(~0u, squares, 2);
          const float factor = rsqrtf(squares / static_cast<float>(D) + args.eps);
#pragma unroll
          for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) low(j, e) *= factor * norm[j * B_OCTET + t * 2 + e], high(j, e) *= factor * norm[HALF + j * B_OCTET + t * 2 + e];
        }
#pragma unroll
        for (int j = 0; j < N; j++) {
          const float2 a = make_float2(low(j, 0), low(j, 1)), b = make_float2(high(j, 0), high(j, 1)), cosine = cosines[half][j], sine = sines[half][j];
          if (!is_value) {
            low(j, 0) = a.x * cosine.x - b.x * sine.x, low(j, 1) = a.y * cosine.y - b.y * sine.y;
            high(j, 0) = b.x * cosine.x + a.x * sine.x, high(j, 1) = b.y * cosine.y + a.y * sine.y;
          }
          put_pair(stage, i, half, j, low(j, 0), low(j, 1));
          put_pair(stage, D == SIDE ? i : 1, half, D == SIDE ? N + j : j, high(j, 0), high(j, 1));
        }
      }
    }
    __syncwarp();
#pragma unroll
    for (int side = 0; side < 2; side++) {
      const int column = columns_of(unit, side), head = column / D;
      if (head >= end_head) break;
      const auto row_at = [&](int row) -> bf16* {
        if (row >= tile.num_rows) return nullptr;
        if (head < args.num_heads) return args.qkv + static_cast<int64_t>(tile.row + row) * args.qkv_stride + column;
        const int slot = args.kv_slots[tile.row + row];
        if (slot < 0) return nullptr;
        return args.layer_kv + slot / PAGE_TOKENS * args.page_stride + (static_cast<int64_t>(head - args.num_heads) * PAGE_TOKENS + slot % PAGE_TOKENS) * D + column % D;
      };
      write_side(stage, side, SIDE, row_at);
    }
  };
  run(lora, tile, site, args.qkv, args.qkv_stride, (end_head - first_head + HEADS - 1) / HEADS, memory, columns_of, end_of, finish);
}

/** Blocks that the outputs of all tiles are cut into: whole waves, nearly, of as many as a multiprocessor holds at once. */
constexpr int SILU_BLOCKS_PER_MULTIPROCESSOR = 6, ROPE_BLOCKS_PER_MULTIPROCESSOR = 2;

/** @param width outputs, or heads, that tiles and parts of them are shared out by, `step` at a time */
template <typename Args> void launch_parts(void (*kernel)(Args, LoraArgs, int), const Args& args, const LoraArgs& lora, int width, int step, int blocks, Queue queue) {
  const int steps = (width + step - 1) / step, parts = std::clamp(blocks / std::max(1, lora.num_tiles), 1, steps), block_steps = (steps + parts - 1) / parts;
  launch(kernel, dim3(lora.num_tiles, (steps + block_steps - 1) / block_steps), dim3(THREADS), shared_bytes(lora.max_rank), queue, args, lora, block_steps * step);
}

template <int D> void launch_rope(const RopeArgs& args, const LoraArgs& lora, int blocks, Queue queue) {
  static const bool allowed = (allow_shared_bytes(expand_rope_kv_write_kernel<D>, shared_bytes(MAX_EXPANDED_RANK)), true);
  (void)allowed;
  launch_parts(expand_rope_kv_write_kernel<D>, args, lora, args.num_heads + 2 * args.num_kv_heads, 2 * SIDE / D, blocks, queue);
}

}  // namespace

bool expands_silu_mul(int width) { return width % 8 == 0; }
bool expands_rope_kv_write(int head_dim, int rotary_dim) { return rotary_dim == head_dim && (head_dim == 64 || head_dim == 128); }

void expand_silu_mul(const SiluArgs& args, const LoraArgs& lora, int num_multiprocessors, Queue queue) {
  static const bool allowed = (allow_shared_bytes(expand_silu_mul_kernel, shared_bytes(MAX_EXPANDED_RANK)), true);
  (void)allowed;
  launch_parts(expand_silu_mul_kernel, args, lora, args.width, SIDE, SILU_BLOCKS_PER_MULTIPROCESSOR * num_multiprocessors, queue);
}

void expand_rope_kv_write(const RopeArgs& args, const LoraArgs& lora, int num_multiprocessors, Queue queue) {
  const int blocks = ROPE_BLOCKS_PER_MULTIPROCESSOR * num_multiprocessors;
  if (args.head_dim == 64) launch_rope<64>(args, lora, blocks, queue);
  else launch_rope<128>(args, lora, blocks, queue);
}

}  // namespace lorikeet
