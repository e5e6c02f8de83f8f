/**
 * Adapters: shrink = A · x, expand = B · shrink, for runs of rows that share a slot.
 *
 * Each thread reads 16 neighbouring bytes of a matrix at a time. For shrink they go straight into the registers of the tensor-core
 * product, whose inner index is permuted; for expand a warp exchanges them through shared memory. Ranks are true ranks, rounded up to
 * eight. A row's sums do not depend on its tile.
 */
#include "adapter_layout.h"
#include "device.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "shrunk_rows.cuh"

namespace lorikeet {
namespace {

constexpr int WARPS = 8, THREADS = WARPS * 32;
constexpr int RANK_BLOCK = 64, GROUPS = RANK_BLOCK / 8;
/** Columns of x that one step of a warp reads. */
constexpr int K_STEP = 32;
static_assert(ROW_ALIGNMENT % K_STEP == 0, "rows end where a step ends");

/**
 * Sixteen rows: x and A go straight into registers. Block (tile, split, ranks) sums its share of the columns, a warp each a
 * share of that. Two blocks fit a multiprocessor, or one beside a base product.
 */
__global__ void __launch_bounds__(THREADS, 2) shrink_kernel(LoraArgs args, const bf16* x, int x_stride) {
  __shared__ float partial[WARPS * SMALL_TILE_ROWS * RANK_BLOCK];
  if (args.tiles_are_made) wait_for_previous_kernels();
  const RowTile tile = args.tiles[blockIdx.x];
  if (tile.num_rows == 0 || tile.slot < 0) return;
  const SiteRecord& site = args.sites[static_cast<int64_t>(tile.slot) * args.num_sites + args.site + tile.expert];
  const int rank = site.total_rank;
  if (rank <= static_cast<int>(blockIdx.z) * RANK_BLOCK) return;
  const bf16* a = site.a;
  wait_for_previous_kernels();
  let_next_kernel_start();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int steps = x_stride / K_STEP, blocks = a_steps(x_stride), shares = args.splits * WARPS, share = blockIdx.y * WARPS + warp;
  const int begin = static_cast<int>(static_cast<int64_t>(steps) * share / shares);
  const int end = static_cast<int>(static_cast<int64_t>(steps) * (share + 1) / shares);
  float* out = args.shrunk + (static_cast<int64_t>(blockIdx.y) * args.shrunk_rows + tile.row) * args.shrunk_stride;
  const bf16* rows[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int row = tile.row + min(half * 8 + g, tile.num_rows - 1);
    rows[half] = x + static_cast<int64_t>(args.sources != nullptr ? args.sources[row] : row) * x_stride;
  }

  for (int rank0 = blockIdx.z * RANK_BLOCK; rank0 < rank; rank0 += gridDim.z * RANK_BLOCK) {
    const int groups = min(GROUPS, (rank - rank0 + 7) / 8);
    float sums[GROUPS][4];
#pragma unroll
    for (int r = 0; r < GROUPS; r++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[r][e] = 0.0f;

#pragma unroll 2
    for (int step = begin; step < end; step++) {
      const int column = step * K_STEP + t * 8;
      uint4 left[2], right[GROUPS];
#pragma unroll
      for (int r = 0; r < GROUPS; r++)
        if (r < groups) right[r] = __ldg(reinterpret_cast<const uint4*>(a + a_index(rank0 + r * 8 + g, column, blocks)));
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = half * 8 + g;
        left[half] = row < tile.num_rows ? *reinterpret_cast<const uint4*>(rows[half] + column) : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int r = 0; r < GROUPS; r++) {
        if (r >= groups) continue;
        multiply_add(sums[r], left[0].x, left[1].x, left[0].y, left[1].y, right[r].x, right[r].y);
        multiply_add(sums[r], left[0].z, left[1].z, left[0].w, left[1].w, right[r].z, right[r].w);
      }
    }

#pragma unroll
    for (int r = 0; r < GROUPS; r++) {
      if (r >= groups) continue;
#pragma unroll
      for (int e = 0; e < 4; e++) partial[(warp * SMALL_TILE_ROWS + e / 2 * 8 + g) * RANK_BLOCK + r * 8 + t * 2 + e % 2] = sums[r][e];
    }
    __syncthreads();
    const int width = min(RANK_BLOCK, rank - rank0);
    for (int i = threadIdx.x; i < tile.num_rows * width; i += THREADS) {
      const int row = i / width, r = i % width;
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) sum += partial[(w * SMALL_TILE_ROWS + row) * RANK_BLOCK + r];
      out[static_cast<int64_t>(row) * args.shrunk_stride + rank0 + r] = sum;
    }
    __syncthreads();
  }
}

/**
 * Sixty-four rows: x and A pass through shared memory, so that many steps are under way at once. Block (tile, split), a
 * warp for sixteen rows.
 */
namespace large {

constexpr int WARPS = 4, THREADS = WARPS * 32, DEPTH = 64, STAGES = 4, CHUNKS = DEPTH / 8;
static_assert(WARPS * 16 == LARGE_TILE_ROWS, "a warp takes sixteen rows");

struct Stage {
  bf16 x[LARGE_TILE_ROWS * DEPTH];
  bf16 a[RANK_BLOCK * DEPTH];
};

/** Eight rows' chunks of one column meet different banks. */
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * DEPTH + (chunk ^ (row & 7)) * 8; }

__global__ void __launch_bounds__(THREADS) shrink_kernel(LoraArgs args, const bf16* x, int x_stride) {
  extern __shared__ __align__(128) uint8_t memory[];
  Stage* stage = reinterpret_cast<Stage*>(memory);
  const RowTile tile = args.tiles[blockIdx.x];
  if (tile.num_rows == 0 || tile.slot < 0) return;
  const SiteRecord& site = args.sites[static_cast<int64_t>(tile.slot) * args.num_sites + args.site];
  const int rank = site.total_rank;
  const bf16* a = site.a;
  if (rank == 0) return;
  wait_for_previous_kernels();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int steps = (x_stride + DEPTH - 1) / DEPTH;
  const int begin = static_cast<int>(static_cast<int64_t>(steps) * blockIdx.y / args.splits);
  const int end = static_cast<int>(static_cast<int64_t>(steps) * (blockIdx.y + 1) / args.splits);
  float* out = args.shrunk + (static_cast<int64_t>(blockIdx.y) * args.shrunk_rows + tile.row) * args.shrunk_stride;

  for (int rank0 = 0; rank0 < rank; rank0 += RANK_BLOCK) {
    const auto fetch = [&](int step) {
      if (step < end) {
        Stage& to = stage[(step - begin) % STAGES];
        const int k0 = step * DEPTH;
#pragma unroll
        for (int i = 0; i < LARGE_TILE_ROWS * CHUNKS / THREADS; i++) {
          const int at = i * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS, column = k0 + chunk * 8;
          const bool has_x = row < tile.num_rows && column < x_stride, has_a = rank0 + row < rank && column < x_stride;
          copy_async_16(to.x + swizzled(row, chunk), x + (has_x ? static_cast<int64_t>(tile.row + row) * x_stride + column : 0), has_x);
          copy_async_16(to.a + swizzled(row, chunk), a + (has_a ? a_index(rank0 + row, column, a_steps(x_stride)) : 0), has_a);
        }
      }
      copy_async_commit();
    };
    float sums[GROUPS][4];
#pragma unroll
    for (int r = 0; r < GROUPS; r++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[r][e] = 0.0f;
    const int groups = min(GROUPS, (rank - rank0 + 7) / 8);
    for (int s = 0; s < STAGES - 1; s++) fetch(begin + s);
    for (int step = begin; step < end; step++) {
      copy_async_wait<STAGES - 2>();
      __syncthreads();
      fetch(step + STAGES - 1);
      const Stage& now = stage[(step - begin) % STAGES];
#pragma unroll
      for (int k = 0; k < DEPTH / 16; k++) {
        uint32_t left[4], right[4];
        load_matrices(left, now.x + swizzled(warp * 16 + lane / 8 % 2 * 8 + lane % 8, k * 2 + lane / 16));
#pragma unroll
        for (int r = 0; r < GROUPS; r += 2) {
          if (r >= groups) continue;
          load_matrices(right, now.a + swizzled(r * 8 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
          multiply_add(sums[r], left[0], left[1], left[2], left[3], right[0], right[1]);
          multiply_add(sums[r + 1], left[0], left[1], left[2], left[3], right[2], right[3]);
        }
      }
    }
    copy_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int r = 0; r < GROUPS; r++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int row = warp * 16 + e / 2 * 8 + g, column = rank0 + r * 8 + t * 2 + e % 2;
        if (row < tile.num_rows && column < rank) out[static_cast<int64_t>(row) * args.shrunk_stride + column] = sums[r][e];
      }
  }
}

}  // namespace large

/** A warp takes 32 outputs at a time, in such an order that a thread's eight are neighbours. */
constexpr int OUT_GROUP = 32;
/** Few rows are spread over many blocks; many rows' sums are worth more outputs a block. */
template <int M_TILES> constexpr int OUT_BLOCK = WARPS * OUT_GROUP * (M_TILES == 1 ? 2 : 8);

__device__ __forceinline__ void store_8(bf16* to, const float (&values)[8], int valid) {
  if (valid == 8) {
    uint4 packed;
    packed.x = pack_bf16(values[0], values[1]);
    packed.y = pack_bf16(values[2], values[3]);
    packed.z = pack_bf16(values[4], values[5]);
    packed.w = pack_bf16(values[6], values[7]);
    *reinterpret_cast<uint4*>(to) = packed;
  } else {
    for (int j = 0; j < valid; j++) to[j] = __float2bfloat16(values[j]);
  }
}

__device__ __forceinline__ void add_8(bf16* to, const float (&values)[8], int valid) {
  float sums[8];
  if (valid == 8) {
    const Bf16x8 before = *reinterpret_cast<const Bf16x8*>(to);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float2 pair = __bfloat1622float2(before.pairs[j]);
      sums[2 * j] = pair.x + values[2 * j], sums[2 * j + 1] = pair.y + values[2 * j + 1];
    }
  } else {
    for (int j = 0; j < valid; j++) sums[j] = __bfloat162float(to[j]) + values[j];
  }
  store_8(to, sums, valid);
}

__device__ __forceinline__ void add_8(float* to, const float (&values)[8], int valid) {
  if (valid == 8) {
#pragma unroll
    for (int j = 0; j < 8; j += 4) {
      float4& four = *reinterpret_cast<float4*>(to + j);
      four = make_float4(four.x + values[j], four.y + values[j + 1], four.z + values[j + 2], four.w + values[j + 3]);
    }
  } else {
    for (int j = 0; j < valid; j++) to[j] += values[j];
  }
}

/** Block (tile, outputs). */
template <int M_TILES, ExpandMode MODE, typename Out>
__global__ void __launch_bounds__(THREADS, M_TILES == 1 ? 3 : 2) expand_kernel(LoraArgs args, Out* out, int out_stride, int out_width) {
  extern __shared__ __align__(16) bf16 reduced[];
  constexpr int B_RUN = OUT_GROUP * RANK_GROUP;
  __shared__ __align__(16) bf16 exchange[WARPS][2 * B_RUN];
  if (args.tiles_are_made) wait_for_previous_kernels();
  const RowTile tile = args.tiles[blockIdx.x];
  if (tile.num_rows == 0) return;
  if (MODE != ExpandMode::replace && tile.slot < 0) return;
  const SiteRecord& site = site_of(args, tile);
  const int stride = reduced_stride(args.max_rank);
  wait_for_previous_kernels();
  reduce_shrunk<M_TILES * 16, THREADS>(args, tile, site, reduced, stride);
  __syncthreads();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int end = min(out_width, static_cast<int>(blockIdx.y + 1) * OUT_BLOCK<M_TILES>);
  for (int first = blockIdx.y * OUT_BLOCK<M_TILES> + warp * OUT_GROUP; first < end; first += WARPS * OUT_GROUP) {
    float sums[M_TILES][4][4];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) sums[m][j][e] = 0.0f;

    for (int d = 0, at = 0; d < site.num_deltas; d++) {
      const DeltaRecord& delta = site.deltas[d];
      const int rank = delta.rank, offset = delta.offset, width = delta.width, place = at;
      at += stepped(rank);
      if (offset >= first + OUT_GROUP || offset + width <= first) continue;
      const bf16* b = delta.b;
      const int groups = grouped(rank) / RANK_GROUP;
      /* Of an output, eight ranks are 16 bytes. */
      const int output = first + lane - offset;
      const auto ask = [&](int group) {
        uint4 ranks = make_uint4(0, 0, 0, 0);
        if (group < groups && output >= 0 && output < width) ranks = __ldg(reinterpret_cast<const uint4*>(b + b_index(output, group * RANK_GROUP, rank, width)));
        return ranks;
      };
      /* Rows of four matrices, the outputs that are a lane's own: those of an octet lie so that matrices meet all banks. */
      const auto spread = [](int octet, int row) { return (octet * B_OCTET + (row + octet * 2) % B_OCTET) * RANK_GROUP; };
      const int matrix = lane / 8, row = lane % 8;
      bf16* const to = exchange[warp] + spread(lane / B_OCTET, lane % B_OCTET);
      const bf16* const from = exchange[warp] + spread(row / 2, matrix * 2 + row % 2);
      const auto exchanged = [&](uint32_t (&right)[2][4], const uint4 (&asked)[2]) {
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 2; i++) *reinterpret_cast<uint4*>(to + i * B_RUN) = asked[i];
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 2; i++) load_matrices(right[i], from + i * B_RUN);
      };
#pragma unroll 2
      for (int k0 = 0; k0 < rank; k0 += 16) {
        const uint4 asked[2] = {ask(k0 / RANK_GROUP), ask(k0 / RANK_GROUP + 1)};
        uint32_t right[2][4];
        exchanged(right, asked);
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
          const bf16* low = reduced + (m * 16 + g) * stride + place + k0 + t * 2;
          const bf16* high = low + 8 * stride;
          const uint32_t a[4] = {*reinterpret_cast<const uint32_t*>(low), *reinterpret_cast<const uint32_t*>(high), *reinterpret_cast<const uint32_t*>(low + 8),
                                 *reinterpret_cast<const uint32_t*>(high + 8)};
#pragma unroll
          for (int j = 0; j < 4; j++) multiply_add(sums[m][j], a[0], a[1], a[2], a[3], right[0][j], right[1][j]);
        }
      }
    }

    const int column = first + t * 8, valid = min(8, out_width - column);
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = m * 16 + half * 8 + g;
        if (row >= tile.num_rows || valid <= 0) continue;
        float values[8];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          values[2 * j] = sums[m][j][2 * half];
          values[2 * j + 1] = sums[m][j][2 * half + 1];
        }
        Out* const place = out + static_cast<int64_t>(tile.row + row) * out_stride + column;
        if constexpr (MODE == ExpandMode::add) add_8(place, values, valid);
        else store_8(place, values, valid);
      }
  }
}

template <int M_TILES, ExpandMode MODE, typename Out> void expand_tiles(const LoraArgs& args, Out* out, int out_stride, int out_width, Queue queue) {
  constexpr size_t MOST_SHARED_BYTES = 212 << 10;
  static_assert(reduced_bytes(SMALL_TILE_ROWS, MAX_RANK_SMALL_TILES) <= MOST_SHARED_BYTES);
  static_assert(reduced_bytes(LARGE_TILE_ROWS, MAX_RANK_LARGE_TILES) <= MOST_SHARED_BYTES);
  static const bool allowed = (allow_shared_bytes(expand_kernel<M_TILES, MODE, Out>, MOST_SHARED_BYTES), true);
  (void)allowed;
  launch(expand_kernel<M_TILES, MODE, Out>, dim3(args.num_tiles, (out_width + OUT_BLOCK<M_TILES> - 1) / OUT_BLOCK<M_TILES>), dim3(THREADS),
         reduced_bytes(M_TILES * 16, args.max_rank), queue, args, out, out_stride, out_width);
}

template <int M_TILES> void expand_any(const LoraArgs& args, ExpandMode mode, void* out, OutType out_type, int out_stride, int out_width, Queue queue) {
  if (out_type == OutType::f32) return expand_tiles<M_TILES, ExpandMode::add>(args, static_cast<float*>(out), out_stride, out_width, queue);
  bf16* const halves = static_cast<bf16*>(out);
  switch (mode) {
    case ExpandMode::delta: return expand_tiles<M_TILES, ExpandMode::delta>(args, halves, out_stride, out_width, queue);
    case ExpandMode::replace: return expand_tiles<M_TILES, ExpandMode::replace>(args, halves, out_stride, out_width, queue);
    case ExpandMode::add: return expand_tiles<M_TILES, ExpandMode::add>(args, halves, out_stride, out_width, queue);
  }
}

}  // namespace

void lora_shrink(const LoraArgs& args, const bf16* x, int x_stride, Queue queue) {
  const dim3 grid(args.num_tiles, args.splits);
  if (args.large) {
    constexpr size_t bytes = large::STAGES * sizeof(large::Stage);
    static const bool allowed = (allow_shared_bytes(large::shrink_kernel, bytes), true);
    (void)allowed;
    launch(large::shrink_kernel, grid, dim3(large::THREADS), bytes, queue, args, x, x_stride);
  } else {
    launch(shrink_kernel, dim3(args.num_tiles, args.splits, args.max_rank > RANK_BLOCK ? 2 : 1), dim3(THREADS), 0, queue, args, x, x_stride);
  }
}

void lora_expand(const LoraArgs& args, ExpandMode mode, void* out, OutType out_type, int out_stride, int out_width, Queue queue) {
  if (args.large) expand_any<LARGE_TILE_ROWS / 16>(args, mode, out, out_type, out_stride, out_width, queue);
  else expand_any<SMALL_TILE_ROWS / 16>(args, mode, out, out_type, out_stride, out_width, queue);
}

}  // namespace lorikeet
