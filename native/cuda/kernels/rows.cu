/** Operations that touch each row on its own: norms, rotation, activation. */
#include "device.cuh"
#include "form_of.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "rows.cuh"

namespace lorikeet {

namespace {

__device__ __forceinline__ float pending_value(const Pending& pending, bool has_delta, int64_t delta_at, int column) {
  float value = pending.bias != nullptr ? pending.bias[column] : 0.0f;
  if (has_delta) value += __bfloat162float(pending.delta[delta_at + column]);
  return value;
}

__device__ __forceinline__ bool row_has_delta(const Pending& pending, int row) {
  return pending.delta != nullptr && pending.row_slot[row] >= 0;
}

__device__ __forceinline__ float4 pending_4(const Pending& pending, bool has_delta, int64_t delta_at, int column) {
  float4 value = pending.bias != nullptr ? *reinterpret_cast<const float4*>(pending.bias + column) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  if (has_delta) {
    const __nv_bfloat162* pairs = reinterpret_cast<const __nv_bfloat162*>(pending.delta + delta_at + column);
    const float2 low = __bfloat1622float2(pairs[0]), high = __bfloat1622float2(pairs[1]);
    value.x += low.x, value.y += low.y, value.z += high.x, value.w += high.y;
  }
  return value;
}

/** Width a multiple of 4; a thread keeps VECTORS runs of four numbers between the two passes. */
template <int VECTORS> __global__ void rms_norm_kernel(NormArgs args) {
  __shared__ float shared[32];
  begin_behind_previous_kernels();
  const int row = args.row_index != nullptr ? args.row_index[blockIdx.x] : static_cast<int>(blockIdx.x);
  if (row < 0) return;
  const int64_t at = static_cast<int64_t>(row) * args.hidden_stride;
  const float* const weights = norm_weight(args.weight, args.forms, args.site, row);
  const bool has_delta = row_has_delta(args.pending, row), changes = has_delta || args.pending.bias != nullptr;
  float4 kept[VECTORS];
  float squares = 0.0f;
#pragma unroll
  for (int j = 0; j < VECTORS; j++) {
    const int column = (threadIdx.x + j * blockDim.x) * 4;
    kept[j] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (column >= args.width) continue;
    kept[j] = *reinterpret_cast<const float4*>(args.hidden + at + column);
    if (changes) {
      const float4 sum = pending_4(args.pending, has_delta, at, column);
      kept[j].x += sum.x, kept[j].y += sum.y, kept[j].z += sum.z, kept[j].w += sum.w;
      *reinterpret_cast<float4*>(args.hidden + at + column) = kept[j];
    }
    squares += kept[j].x * kept[j].x + kept[j].y * kept[j].y + kept[j].z * kept[j].z + kept[j].w * kept[j].w;
  }
  const float factor = rsqrtf(block_sum(squares, shared) / static_cast<float>(args.width) + args.eps);
  bf16* out = args.out + static_cast<int64_t>(blockIdx.x) * args.out_stride;
#pragma unroll
  for (int j = 0; j < VECTORS; j++) {
    const int column = (threadIdx.x + j * blockDim.x) * 4;
    if (column >= args.width) continue;
    const float4 weight = *reinterpret_cast<const float4*>(weights + column);
    uint2 packed;
    packed.x = pack_bf16(kept[j].x * factor * weight.x, kept[j].y * factor * weight.y);
    packed.y = pack_bf16(kept[j].z * factor * weight.z, kept[j].w * factor * weight.w);
    *reinterpret_cast<uint2*>(out + column) = packed;
  }
}

__global__ void rms_norm_any_width_kernel(NormArgs args) {
  __shared__ float shared[32];
  begin_behind_previous_kernels();
  const int row = args.row_index != nullptr ? args.row_index[blockIdx.x] : static_cast<int>(blockIdx.x);
  if (row < 0) return;
  const int64_t at = static_cast<int64_t>(row) * args.hidden_stride;
  const bool has_delta = row_has_delta(args.pending, row), changes = has_delta || args.pending.bias != nullptr;
  const float* const weights = norm_weight(args.weight, args.forms, args.site, row);
  float* x = args.hidden + at;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < args.width; i += blockDim.x) {
    float value = x[i];
    if (changes) x[i] = value = value + pending_value(args.pending, has_delta, at, i);
    squares += value * value;
  }
  const float factor = rsqrtf(block_sum(squares, shared) / static_cast<float>(args.width) + args.eps);
  bf16* out = args.out + static_cast<int64_t>(blockIdx.x) * args.out_stride;
  for (int i = threadIdx.x; i < args.width; i += blockDim.x) out[i] = __float2bfloat16(x[i] * factor * weights[i]);
}

/** Widest head whose numbers a warp keeps in registers. */
constexpr int MAX_HEAD_DIM = 512;

template <int DIMS_PER_LANE>
__device__ __forceinline__ void rotate_head(const RopeArgs& args, int row, int column, const float* norm, bool rotates,
                                            float* memory, float (&kept)[DIMS_PER_LANE]) {
  const int lane = threadIdx.x % 32, half = args.rotary_dim / 2;
  const bf16* x = args.qkv + static_cast<int64_t>(row) * args.qkv_stride + column;
  const bool has_delta = row_has_delta(args.pending, row);
  const int64_t delta_at = static_cast<int64_t>(row) * args.qkv_stride;
  float squares = 0.0f;
#pragma unroll
  for (int j = 0; j < DIMS_PER_LANE; j++) {
    const int d = lane + 32 * j;
    kept[j] = 0.0f;
    if (d < args.head_dim) kept[j] = __bfloat162float(x[d]) + pending_value(args.pending, has_delta, delta_at, column + d);
    squares += kept[j] * kept[j];
  }
  if (norm != nullptr) {
    const float factor = rsqrtf(warp_sum(squares) / static_cast<float>(args.head_dim) + args.eps);
#pragma unroll
    for (int j = 0; j < DIMS_PER_LANE; j++) {
      const int d = lane + 32 * j;
      if (d < args.head_dim) kept[j] *= factor * norm[d];
    }
  }
  if (!rotates) return;
  /* The partner of a dimension is half a rotation away, in another lane for most widths: through shared memory. */
#pragma unroll
  for (int j = 0; j < DIMS_PER_LANE; j++)
    if (lane + 32 * j < args.rotary_dim) memory[lane + 32 * j] = kept[j];
  __syncwarp();
  const float* table = args.table + static_cast<int64_t>(args.positions[row]) * args.rotary_dim;
#pragma unroll
  for (int j = 0; j < DIMS_PER_LANE; j++) {
    const int d = lane + 32 * j;
    if (d >= args.rotary_dim) continue;
    const int pair = d < half ? d : d - half;
    const float cosine = table[pair], sine = table[half + pair];
    kept[j] = d < half ? kept[j] * cosine - memory[d + half] * sine : kept[j] * cosine + memory[d - half] * sine;
  }
  __syncwarp();
}

constexpr int ROPE_WARPS = 4;

/** Block (row, kv head): its query heads, its key head and its value head, a warp each in turn. */
template <int DIMS_PER_LANE> __global__ void rope_kv_write_kernel(RopeArgs args) {
  __shared__ float memory[ROPE_WARPS][32 * DIMS_PER_LANE];
  begin_behind_previous_kernels();
  const int row = blockIdx.x, kv = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = args.num_heads / args.num_kv_heads;
  const int slot = args.kv_slots[row];
  const HeadNorms norms(args, row);
  for (int item = warp; item < group + 2; item += ROPE_WARPS) {
    const bool is_key = item == group, is_value = item == group + 1;
    const int head = is_value ? args.num_heads + args.num_kv_heads + kv : is_key ? args.num_heads + kv : kv * group + item;
    const float* norm = is_value ? nullptr : is_key ? norms.k : norms.q;
    float kept[DIMS_PER_LANE];
    rotate_head<DIMS_PER_LANE>(args, row, head * args.head_dim, norm, !is_value, memory[warp], kept);
    bf16* to = args.qkv + static_cast<int64_t>(row) * args.qkv_stride + head * args.head_dim;
    if (is_key || is_value) {
      if (slot < 0) continue;
      to = args.layer_kv + slot / PAGE_TOKENS * args.page_stride +
           (static_cast<int64_t>(is_value ? args.num_kv_heads + kv : kv) * PAGE_TOKENS + slot % PAGE_TOKENS) * args.head_dim;
    }
#pragma unroll
    for (int j = 0; j < DIMS_PER_LANE; j++)
      if (lane + 32 * j < args.head_dim) to[lane + 32 * j] = __float2bfloat16(kept[j]);
  }
}

/**
 * Heads of 64 * PAIRS, rotated whole: a lane holds PAIRS neighbours of the first half and their partners in the second,
 * so that nothing passes between lanes.
 */
template <int PAIRS> __global__ void rope_kv_write_paired_kernel(RopeArgs args) {
  constexpr int HALF = 32 * PAIRS, D = 2 * HALF;
  begin_behind_previous_kernels();
  const int row = blockIdx.x, kv = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = lane * PAIRS;
  const int group = args.num_heads / args.num_kv_heads, slot = args.kv_slots[row];
  const HeadNorms norms(args, row);
  const bool has_delta = row_has_delta(args.pending, row);
  const int64_t at = static_cast<int64_t>(row) * args.qkv_stride;
  const float* table = args.table + static_cast<int64_t>(args.positions[row]) * D;
  float cosines[PAIRS], sines[PAIRS];
#pragma unroll
  for (int j = 0; j < PAIRS; j++) cosines[j] = table[dim + j], sines[j] = table[HALF + dim + j];

  for (int item = warp; item < group + 2; item += ROPE_WARPS) {
    const bool is_key = item == group, is_value = item == group + 1;
    const int head = is_value ? args.num_heads + args.num_kv_heads + kv : is_key ? args.num_heads + kv : kv * group + item;
    const int column = head * D + dim;
    float low[PAIRS], high[PAIRS];
    if constexpr (PAIRS == 1) {
      low[0] = __bfloat162float(args.qkv[at + column]);
      high[0] = __bfloat162float(args.qkv[at + column + HALF]);
    } else {
#pragma unroll
      for (int j = 0; j < PAIRS; j += 2) {
        const float2 a = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(args.qkv + at + column + j));
        const float2 b = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(args.qkv + at + column + HALF + j));
        low[j] = a.x, low[j + 1] = a.y, high[j] = b.x, high[j + 1] = b.y;
      }
    }
    if (has_delta || args.pending.bias != nullptr) {
#pragma unroll
      for (int j = 0; j < PAIRS; j++) {
        low[j] += pending_value(args.pending, has_delta, at, column + j);
        high[j] += pending_value(args.pending, has_delta, at, column + HALF + j);
      }
    }
    const float* norm = is_value ? nullptr : is_key ? norms.k : norms.q;
    if (norm != nullptr) {
      float squares = 0.0f;
#pragma unroll
      for (int j = 0; j < PAIRS; j++) squares += low[j] * low[j] + high[j] * high[j];
      const float factor = rsqrtf(warp_sum(squares) / static_cast<float>(D) + args.eps);
#pragma unroll
      for (int j = 0; j < PAIRS; j++) low[j] *= factor * norm[dim + j], high[j] *= factor * norm[HALF + dim + j];
    }
    bf16* to = args.qkv + at + column;
    if (is_key || is_value) {
      if (slot < 0) continue;
      to = args.layer_kv + slot / PAGE_TOKENS * args.page_stride + (static_cast<int64_t>(is_value ? args.num_kv_heads + kv : kv) * PAGE_TOKENS + slot % PAGE_TOKENS) * D + dim;
    }
    float first[PAIRS], second[PAIRS];
#pragma unroll
    for (int j = 0; j < PAIRS; j++) {
      first[j] = is_value ? low[j] : low[j] * cosines[j] - high[j] * sines[j];
      second[j] = is_value ? high[j] : high[j] * cosines[j] + low[j] * sines[j];
    }
    if constexpr (PAIRS == 1) {
      to[0] = __float2bfloat16(first[0]);
      to[HALF] = __float2bfloat16(second[0]);
    } else {
#pragma unroll
      for (int j = 0; j < PAIRS; j += 2) {
        *reinterpret_cast<uint32_t*>(to + j) = pack_bf16(first[j], first[j + 1]);
        *reinterpret_cast<uint32_t*>(to + HALF + j) = pack_bf16(second[j], second[j + 1]);
      }
    }
  }
}

/** Eight outputs per thread; width a multiple of 8. */
__global__ void silu_mul_kernel(SiluArgs args) {
  begin_behind_previous_kernels();
  const int row = blockIdx.x, column = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (column >= args.width) return;
  const int64_t at = static_cast<int64_t>(row) * args.gate_up_stride;
  const Bf16x8 gates = *reinterpret_cast<const Bf16x8*>(args.gate_up + at + column);
  const Bf16x8 ups = *reinterpret_cast<const Bf16x8*>(args.gate_up + at + args.width + column);
  const bool has_delta = row_has_delta(args.pending, row), changes = has_delta || args.pending.bias != nullptr;
  Bf16x8 out;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    float2 gate = __bfloat1622float2(gates.pairs[j]), up = __bfloat1622float2(ups.pairs[j]);
    if (changes) {
      const int i = column + 2 * j;
      gate.x += pending_value(args.pending, has_delta, at, i);
      gate.y += pending_value(args.pending, has_delta, at, i + 1);
      up.x += pending_value(args.pending, has_delta, at, args.width + i);
      up.y += pending_value(args.pending, has_delta, at, args.width + i + 1);
    }
    out.pairs[j] = __floats2bfloat162_rn(silu(gate.x) * up.x, silu(gate.y) * up.y);
  }
  *reinterpret_cast<Bf16x8*>(args.out + static_cast<int64_t>(row) * args.out_stride + column) = out;
}

__global__ void silu_mul_any_width_kernel(SiluArgs args) {
  begin_behind_previous_kernels();
  const int row = blockIdx.x, column = blockIdx.y * blockDim.x + threadIdx.x;
  if (column >= args.width) return;
  const int64_t at = static_cast<int64_t>(row) * args.gate_up_stride;
  const bool has_delta = row_has_delta(args.pending, row);
  const float gate = __bfloat162float(args.gate_up[at + column]) + pending_value(args.pending, has_delta, at, column);
  const float up = __bfloat162float(args.gate_up[at + args.width + column]) +
                   pending_value(args.pending, has_delta, at, args.width + column);
  args.out[static_cast<int64_t>(row) * args.out_stride + column] = __float2bfloat16(silu(gate) * up);
}

}  // namespace

void rms_norm(const NormArgs& args, Queue queue) {
  const int vectors = args.width / 4;
  /* Few rows: as many threads as there are numbers to read. Many: enough rows at once to fill the device. */
  const int few = args.rows <= 256 ? 1 : 4;
  const int threads = (vectors + few - 1) / few;
  if (args.width % 4 == 0 && threads <= 1024) {
    const dim3 block((threads + 31) / 32 * 32);
    if (few == 1) launch(rms_norm_kernel<1>, dim3(args.rows), block, 0, queue, args);
    else launch(rms_norm_kernel<4>, dim3(args.rows), block, 0, queue, args);
  } else if (args.width % 4 == 0 && vectors <= 8 * 1024) {
    launch(rms_norm_kernel<8>, dim3(args.rows), dim3(((vectors + 7) / 8 + 31) / 32 * 32), 0, queue, args);
  } else {
    launch(rms_norm_any_width_kernel, dim3(args.rows), dim3(256), 0, queue, args);
  }
}

void rope_kv_write(const RopeArgs& args, Queue queue) {
  const dim3 grid(args.rows, args.num_kv_heads), block(ROPE_WARPS * 32);
  const bool whole = args.rotary_dim == args.head_dim;
  if (whole && args.head_dim == 64) launch(rope_kv_write_paired_kernel<1>, grid, block, 0, queue, args);
  else if (whole && args.head_dim == 128) launch(rope_kv_write_paired_kernel<2>, grid, block, 0, queue, args);
  else if (whole && args.head_dim == 256) launch(rope_kv_write_paired_kernel<4>, grid, block, 0, queue, args);
  else if (args.head_dim <= 64) launch(rope_kv_write_kernel<2>, grid, block, 0, queue, args);
  else if (args.head_dim <= 128) launch(rope_kv_write_kernel<4>, grid, block, 0, queue, args);
  else launch(rope_kv_write_kernel<MAX_HEAD_DIM / 32>, grid, block, 0, queue, args);
}

void silu_mul(const SiluArgs& args, Queue queue) {
  constexpr int threads = 128;
  if (args.width % 8 == 0 && args.gate_up_stride % 8 == 0) {
    launch(silu_mul_kernel, dim3(args.rows, (args.width / 8 + threads - 1) / threads), dim3(threads), 0, queue, args);
  } else {
    launch(silu_mul_any_width_kernel, dim3(args.rows, (args.width + threads - 1) / threads), dim3(threads), 0, queue, args);
  }
}

}  // namespace lorikeet
