/**
 * Norm, rotation and activation for steps with adapters: as in rows.cu, for tiles of up to eight rows of one slot, whose delta
 * is expanded on the way.
 *
 * For shapes that runs of 32 columns fit; `adapted_*_works` tells. Everything else takes its delta from memory.
 */
#include <algorithm>

#include "expand.cuh"
#include "launch.cuh"

namespace lorikeet {
namespace {

/** Between rows of a delta in shared memory: columns and what keeps rows in different banks. */
LORIKEET_BOTH constexpr int delta_stride(int columns) { return columns + 8; }

/* ---- activation ------------------------------------------------------------------------------------------------ */

__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }

constexpr int SILU_WARPS = 4, SILU_RUNS = 8, SILU_COLUMNS = SILU_RUNS * B_RUN;

/** Block (tile, columns): runs of gates, then the runs of ups that belong to them. */
__global__ void __launch_bounds__(SILU_WARPS * 32) adapted_silu_kernel(SiluArgs args, LoraArgs lora) {
  __shared__ __align__(16) bf16 delta[STREAMED_TILE_ROWS * delta_stride(2 * SILU_COLUMNS)];
  __shared__ RangeDelta ranges[2];
  let_next_kernel_start();
  const RowTile tile = lora.tiles[blockIdx.x];
  if (tile.num_rows == 0) return;
  const int first = blockIdx.y * SILU_COLUMNS, columns = min(SILU_COLUMNS, args.width - first), runs = columns / B_RUN;
  const auto run_of = [&](int run) { return run < runs ? Run{0, run} : Run{1, run - runs}; };
  const TileDelta<SILU_WARPS, 2, 2 * SILU_RUNS / SILU_WARPS> expander(lora, tile, ranges, [&](int range) { return range * args.width + first; }, 2 * runs, run_of);
  const int vectors = columns / 8, items = tile.num_rows * vectors;
  const auto product = [&](int item) { return args.gate_up + static_cast<int64_t>(tile.row + item / vectors) * args.gate_up_stride + first + item % vectors * 8; };
  wait_for_previous_kernels();
  int item = threadIdx.x;
  Bf16x8 gates = {}, ups = {};
  if (item < items) gates = *reinterpret_cast<const Bf16x8*>(product(item)), ups = *reinterpret_cast<const Bf16x8*>(product(item) + args.width);
  if (expander.any()) expander.expand(lora, tile, run_of, delta, delta_stride(2 * SILU_COLUMNS));
  while (item < items) {
    const int row = item / vectors, within = item % vectors * 8;
    float gate[8] = {}, up[8] = {};
    add_8(gate, gates);
    add_8(up, ups);
    if (args.pending.bias != nullptr) {
      add_8(gate, args.pending.bias + first + within);
      add_8(up, args.pending.bias + args.width + first + within);
    }
    if (expander.any()) {
      const bf16* from = delta + row * delta_stride(2 * SILU_COLUMNS) + within;
      add_8(gate, from);
      add_8(up, from + columns);
    }
#pragma unroll
    for (int j = 0; j < 8; j++) gate[j] = silu(gate[j]) * up[j];
    store_8(args.out + static_cast<int64_t>(tile.row + row) * args.out_stride + first + within, gate);
    item += SILU_WARPS * 32;
    if (item < items) gates = *reinterpret_cast<const Bf16x8*>(product(item)), ups = *reinterpret_cast<const Bf16x8*>(product(item) + args.width);
  }
}

/* ---- rotation -------------------------------------------------------------------------------------------------- */

constexpr int ROPE_WARPS = 8;

/**
 * Block (tile, kv head): its query heads, its key head and its value head. Heads of 64 or 128, rotated whole: a lane holds
 * eight neighbours of the first half of a head and their partners in the second.
 */
template <int D> __global__ void __launch_bounds__(ROPE_WARPS * 32) adapted_rope_kernel(RopeArgs args, LoraArgs lora) {
  constexpr int HALF = D / 2, LANES = HALF / 8, RUNS = D / B_RUN; /* of a head */
  extern __shared__ __align__(16) bf16 delta[];
  __shared__ RangeDelta ranges[3];
  let_next_kernel_start();
  const RowTile tile = lora.tiles[blockIdx.x];
  if (tile.num_rows == 0) return;
  const int kv = blockIdx.y, group = args.num_heads / args.num_kv_heads, items = group + 2, stride = delta_stride(items * D);
  const auto head_column = [&](int item) { return (item > group ? args.num_heads + args.num_kv_heads + kv : item == group ? args.num_heads + kv : kv * group + item) * D; };
  const auto run_of = [&](int run) {
    const int range = max(0, run / RUNS - group + 1);
    return Run{range, range == 0 ? run : run - (group + range - 1) * RUNS};
  };
  const TileDelta<ROPE_WARPS, 3, 3> expander(lora, tile, ranges, [&](int range) { return head_column(range == 0 ? 0 : group + range - 1); }, items * RUNS, run_of);
  wait_for_previous_kernels();
  if (expander.any()) expander.expand(lora, tile, run_of, delta, stride);
  const int lane = threadIdx.x % LANES, dim = lane * 8;
  /* Whole warps, since a norm sums over lanes; items behind the last one are computed and dropped. */
  const int total = tile.num_rows * items;
  for (int base = threadIdx.x / 32 * (32 / LANES); base < total; base += ROPE_WARPS * 32 / LANES) {
    const int at = base + threadIdx.x % 32 / LANES, i = min(at, total - 1), within = i / items, item = i % items, row = tile.row + within;
    const bool is_key = item == group, is_value = item == group + 1;
    bf16* to = args.qkv + static_cast<int64_t>(row) * args.qkv_stride + head_column(item);
    float low[8] = {}, high[8] = {};
    add_8(low, to + dim);
    add_8(high, to + HALF + dim);
    if (args.pending.bias != nullptr) {
      add_8(low, args.pending.bias + head_column(item) + dim);
      add_8(high, args.pending.bias + head_column(item) + HALF + dim);
    }
    if (expander.any()) {
      add_8(low, delta + within * stride + item * D + dim);
      add_8(high, delta + within * stride + item * D + HALF + dim);
    }
    const float* norm = is_value ? nullptr : is_key ? args.k_norm : args.q_norm;
    if (args.q_norm != nullptr || args.k_norm != nullptr) {
      float squares = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; j++) squares += low[j] * low[j] + high[j] * high[j];
#pragma unroll
      for (int offset = 1; offset < LANES; offset *= 2) squares += __shfl_xor_sync(~0u, squares, offset);
      if (norm != nullptr) {
        const float factor = rsqrtf(squares / static_cast<float>(D) + args.eps);
#pragma unroll
        for (int j = 0; j < 8; j++) low[j] *= factor * norm[dim + j], high[j] *= factor * norm[HALF + dim + j];
      }
    }
    const int slot = args.kv_slots[row];
    if (at >= total || ((is_key || is_value) && slot < 0)) continue;
    if (is_key || is_value)
      to = args.layer_kv + slot / PAGE_TOKENS * args.page_stride + (static_cast<int64_t>(is_value ? args.num_kv_heads + kv : kv) * PAGE_TOKENS + slot % PAGE_TOKENS) * D;
    if (!is_value) {
      const float* table = args.table + static_cast<int64_t>(args.positions[row]) * D + dim;
      float cosines[8] = {}, sines[8] = {};
      add_8(cosines, table);
      add_8(sines, table + HALF);
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const float a = low[j], b = high[j];
        low[j] = a * cosines[j] - b * sines[j];
        high[j] = b * cosines[j] + a * sines[j];
      }
    }
    store_8(to + dim, low);
    store_8(to + HALF + dim, high);
  }
}

/* ---- norm ------------------------------------------------------------------------------------------------------ */

constexpr int NORM_WARPS = 8, MAX_CLUSTER = 8;

#if __CUDA_ARCH__ >= 900
__device__ __forceinline__ int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
__device__ __forceinline__ void cluster_sync() { asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
/** Writes to the same place in another block of the cluster. */
__device__ __forceinline__ void store_at(float* shared, int rank, float value) {
  uint32_t at;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(at), "f"(value) : "memory");
}
#endif

/** A cluster of blocks has a tile, each block a share of its columns, RUNS * 256; each warp a row of it. */
template <int RUNS> __global__ void __launch_bounds__(NORM_WARPS * 32) adapted_norm_kernel(NormArgs args, LoraArgs lora, int cluster) {
#if __CUDA_ARCH__ >= 900
  static_assert(NORM_WARPS == STREAMED_TILE_ROWS);
  constexpr int COLUMNS = RUNS * NORM_WARPS * B_RUN, VECTORS = COLUMNS / 256; /* of eight numbers a lane */
  __shared__ __align__(16) bf16 delta[STREAMED_TILE_ROWS * delta_stride(COLUMNS)];
  __shared__ RangeDelta ranges[1];
  __shared__ float squares_of[MAX_CLUSTER][STREAMED_TILE_ROWS];
  let_next_kernel_start();
  const RowTile tile = lora.tiles[blockIdx.y];
  if (tile.num_rows == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = cluster_rank(), first = rank * COLUMNS;
  const auto run_of = [](int run) { return Run{0, run}; };
  const TileDelta<NORM_WARPS, 1, RUNS> expander(lora, tile, ranges, [&](int) { return first; }, NORM_WARPS * RUNS, run_of);
  const bool there = warp < tile.num_rows;
  float* const hidden = args.hidden + static_cast<int64_t>(tile.row + warp) * args.hidden_stride + first + lane * 8;
  wait_for_previous_kernels();
  float values[VECTORS][8];
#pragma unroll
  for (int v = 0; v < VECTORS; v++) {
#pragma unroll
    for (int j = 0; j < 8; j++) values[v][j] = 0.0f;
    if (there) add_8(values[v], hidden + v * 256);
  }
  if (expander.any()) expander.expand(lora, tile, run_of, delta, delta_stride(COLUMNS));
  float squares = 0.0f;
#pragma unroll
  for (int v = 0; v < VECTORS; v++) {
    if (!there) continue;
    if (args.pending.bias != nullptr) add_8(values[v], args.pending.bias + first + lane * 8 + v * 256);
    if (expander.any()) add_8(values[v], delta + warp * delta_stride(COLUMNS) + lane * 8 + v * 256);
    store_8(hidden + v * 256, values[v]);
#pragma unroll
    for (int j = 0; j < 8; j++) squares += values[v][j] * values[v][j];
  }
  squares = warp_sum(squares);
  if (lane < cluster) store_at(&squares_of[rank][warp], lane, squares);
  cluster_sync();
  if (!there) return;
  float sum = 0.0f;
  for (int block = 0; block < cluster; block++) sum += squares_of[block][warp];
  const float factor = rsqrtf(sum / static_cast<float>(args.width) + args.eps);
#pragma unroll
  for (int v = 0; v < VECTORS; v++) {
    float weight[8] = {};
    add_8(weight, args.weight + first + lane * 8 + v * 256);
#pragma unroll
    for (int j = 0; j < 8; j++) values[v][j] *= factor * weight[j];
    store_8(args.out + static_cast<int64_t>(tile.row + warp) * args.out_stride + first + lane * 8 + v * 256, values[v]);
  }
#else
  (void)args, (void)lora, (void)cluster;
#endif
}

/** Runs of a warp and blocks of a cluster that cover a width; no blocks where none do. */
struct NormShape {
  int runs, cluster;
};
NormShape norm_shape(int width) {
  for (const int runs : {1, 2, 4}) {
    const int columns = NORM_WARPS * B_RUN * runs;
    if (width % columns == 0 && width / columns <= MAX_CLUSTER) return {runs, width / columns};
  }
  return {0, 0};
}

template <int D> void launch_rope(const RopeArgs& args, const LoraArgs& lora, Queue queue) {
  static const bool allowed = (allow_shared_bytes(adapted_rope_kernel<D>, 200 << 10), true);
  (void)allowed;
  const size_t delta_bytes = STREAMED_TILE_ROWS * delta_stride((args.num_heads / args.num_kv_heads + 2) * D) * sizeof(bf16);
  launch(adapted_rope_kernel<D>, dim3(lora.num_tiles, args.num_kv_heads), dim3(ROPE_WARPS * 32), delta_bytes, queue, args, lora);
}

template <int RUNS> void launch_norm(const NormArgs& args, const LoraArgs& lora, int cluster, Queue queue) {
  launch_clusters(adapted_norm_kernel<RUNS>, cluster, dim3(cluster, lora.num_tiles), dim3(NORM_WARPS * 32), 0, queue, args, lora, cluster);
}

}  // namespace

bool adapted_silu_works(const SiluArgs& args) { return args.width % B_RUN == 0; }

void adapted_silu(const SiluArgs& args, const LoraArgs& lora, Queue queue) {
  launch(adapted_silu_kernel, dim3(lora.num_tiles, (args.width + SILU_COLUMNS - 1) / SILU_COLUMNS), dim3(SILU_WARPS * 32), 0, queue, args, lora);
}

bool adapted_rope_works(const RopeArgs& args) {
  /* A block keeps the deltas of a kv head's query heads. */
  return args.rotary_dim == args.head_dim && (args.head_dim == 64 || args.head_dim == 128) && args.num_heads / args.num_kv_heads <= 64;
}

void adapted_rope(const RopeArgs& args, const LoraArgs& lora, Queue queue) {
  if (args.head_dim == 64) launch_rope<64>(args, lora, queue);
  else launch_rope<128>(args, lora, queue);
}

bool adapted_norm_works(const NormArgs& args) { return args.row_index == nullptr && norm_shape(args.width).cluster > 0; }

void adapted_norm(const NormArgs& args, const LoraArgs& lora, Queue queue) {
  const NormShape shape = norm_shape(args.width);
  if (shape.runs == 1) launch_norm<1>(args, lora, shape.cluster, queue);
  else if (shape.runs == 2) launch_norm<2>(args, lora, shape.cluster, queue);
  else launch_norm<4>(args, lora, shape.cluster, queue);
}

}  // namespace lorikeet
