/**
 * Adapters: shrink = A · x, expand = B · shrink, for runs of rows that share a slot.
 *
 * Both read their matrices straight into the registers of the tensor-core product. Where a product's inner index may be
 * permuted at will, it is chosen so that each thread reads 16 (shrink) or 8 (expand) neighbouring bytes. Ranks are true
 * ranks: A is padded to eight rows and B to four columns, nothing more. A row's sums do not depend on its tile.
 */
#include "device.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int WARPS = 8, THREADS = WARPS * 32;
constexpr int RANK_BLOCK = 64, GROUPS = RANK_BLOCK / 8;
/** Columns of x that one step of a warp reads. */
constexpr int K_STEP = 32;
static_assert(K_STEP == ROW_ALIGNMENT, "rows end where a step ends");

/** M_TILES * 16 rows. Block (tile, split) sums its share of the columns, a warp each a share of that. */
template <int M_TILES>
__global__ void __launch_bounds__(THREADS) shrink_kernel(LoraArgs args, const bf16* x, int x_stride) {
  extern __shared__ float partial[]; /* [WARPS][M_TILES * 16][RANK_BLOCK] */
  constexpr int ROWS = M_TILES * 16;
  const RowTile tile = args.tiles[blockIdx.x];
  if (tile.num_rows == 0 || tile.slot < 0) return;
  const SiteRecord& site = args.sites[static_cast<int64_t>(tile.slot) * args.num_sites + args.site];
  const int rank = site.total_rank;
  if (rank == 0) return;
  const bf16* a = site.a;
  wait_for_previous_kernels();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int steps = x_stride / K_STEP, shares = args.splits * WARPS, share = blockIdx.y * WARPS + warp;
  const int begin = static_cast<int>(static_cast<int64_t>(steps) * share / shares);
  const int end = static_cast<int>(static_cast<int64_t>(steps) * (share + 1) / shares);
  float* out = args.shrunk + (static_cast<int64_t>(blockIdx.y) * args.shrunk_rows + tile.row) * args.shrunk_stride;

  for (int rank0 = 0; rank0 < rank; rank0 += RANK_BLOCK) {
    const int groups = min(GROUPS, (rank - rank0 + 7) / 8);
    float sums[M_TILES][GROUPS][4];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int r = 0; r < GROUPS; r++)
#pragma unroll
        for (int e = 0; e < 4; e++) sums[m][r][e] = 0.0f;

#pragma unroll 2
    for (int step = begin; step < end; step++) {
      const int column = step * K_STEP + t * 8;
      uint4 left[M_TILES][2], right[GROUPS];
#pragma unroll
      for (int r = 0; r < GROUPS; r++)
        if (r < groups) right[r] = __ldg(reinterpret_cast<const uint4*>(a + static_cast<int64_t>(rank0 + r * 8 + g) * x_stride + column));
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int row = m * 16 + half * 8 + g;
          left[m][half] = row < tile.num_rows ? *reinterpret_cast<const uint4*>(x + static_cast<int64_t>(tile.row + row) * x_stride + column)
                                              : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
      for (int r = 0; r < GROUPS; r++) {
        if (r >= groups) continue;
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
          multiply_add(sums[m][r], left[m][0].x, left[m][1].x, left[m][0].y, left[m][1].y, right[r].x, right[r].y);
          multiply_add(sums[m][r], left[m][0].z, left[m][1].z, left[m][0].w, left[m][1].w, right[r].z, right[r].w);
        }
      }
    }

#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int r = 0; r < GROUPS; r++) {
        if (r >= groups) continue;
#pragma unroll
        for (int e = 0; e < 4; e++)
          partial[(warp * ROWS + m * 16 + e / 2 * 8 + g) * RANK_BLOCK + r * 8 + t * 2 + e % 2] = sums[m][r][e];
      }
    __syncthreads();
    const int width = min(RANK_BLOCK, rank - rank0);
    for (int i = threadIdx.x; i < tile.num_rows * width; i += THREADS) {
      const int row = i / width, r = i % width;
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) sum += partial[(w * ROWS + row) * RANK_BLOCK + r];
      out[static_cast<int64_t>(row) * args.shrunk_stride + rank0 + r] = sum;
    }
    __syncthreads();
  }
}

/** Outputs of a block: 32 a warp at a time, in such an order that a thread's eight are neighbours. */
constexpr int OUT_GROUP = 32, GROUPS_PER_WARP = 2, OUT_BLOCK = WARPS * OUT_GROUP * GROUPS_PER_WARP;

template <ExpandMode MODE> __device__ __forceinline__ void store_8(void* out, int64_t at, const float (&values)[8], int valid) {
  if constexpr (MODE == ExpandMode::add) {
    float* to = static_cast<float*>(out) + at;
    if (valid == 8) {
      float4* vectors = reinterpret_cast<float4*>(to);
#pragma unroll
      for (int j = 0; j < 2; j++) {
        float4 v = vectors[j];
        v.x += values[4 * j], v.y += values[4 * j + 1], v.z += values[4 * j + 2], v.w += values[4 * j + 3];
        vectors[j] = v;
      }
    } else {
      for (int j = 0; j < valid; j++) to[j] += values[j];
    }
  } else {
    bf16* to = static_cast<bf16*>(out) + at;
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
}

/** Block (tile, outputs). `shrunk` of the tile's rows is summed over the splits into shared memory first. */
template <int M_TILES, ExpandMode MODE>
__global__ void __launch_bounds__(THREADS) expand_kernel(LoraArgs args, void* out, int out_stride, int out_width) {
  extern __shared__ bf16 reduced[]; /* [M_TILES * 16][shrunk_stride + 8] */
  const RowTile tile = args.tiles[blockIdx.x];
  if (tile.num_rows == 0) return;
  if (MODE != ExpandMode::replace && tile.slot < 0) return;
  const SiteRecord* site = args.sites + static_cast<int64_t>(max(tile.slot, 0)) * args.num_sites + args.site;
  const int rank = tile.slot < 0 ? 0 : site->total_rank, num_deltas = tile.slot < 0 ? 0 : site->num_deltas;
  if (MODE == ExpandMode::add && rank == 0) return;
  wait_for_previous_kernels();

  const int stride = args.shrunk_stride + 8;
  for (int i = threadIdx.x; i < tile.num_rows * rank; i += THREADS) {
    const int row = i / rank, r = i % rank;
    const float* from = args.shrunk + static_cast<int64_t>(tile.row + row) * args.shrunk_stride + r;
    float sum = 0.0f;
    for (int s = 0; s < args.splits; s++) sum += from[static_cast<int64_t>(s) * args.shrunk_rows * args.shrunk_stride];
    reduced[row * stride + r] = __float2bfloat16(sum);
  }
  __syncthreads();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int group = 0; group < GROUPS_PER_WARP; group++) {
    const int first = blockIdx.y * OUT_BLOCK + (group * WARPS + warp) * OUT_GROUP;
    if (first >= out_width) continue;
    float totals[M_TILES][4][4];
#pragma unroll
    for (int m = 0; m < M_TILES; m++)
#pragma unroll
      for (int j = 0; j < 4; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) totals[m][j][e] = 0.0f;

    for (int d = 0; d < num_deltas; d++) {
      const DeltaRecord& delta = site->deltas[d];
      if (delta.offset >= first + OUT_GROUP || delta.offset + delta.width <= first) continue;
      float sums[M_TILES][4][4];
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) sums[m][j][e] = 0.0f;
      for (int k0 = 0; k0 < delta.rank; k0 += 16) {
        const int k = k0 + t * 4;
        uint2 right[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int row = first + g / 2 * 8 + j * 2 + g % 2 - delta.offset;
          right[j] = row >= 0 && row < delta.width && k < delta.b_stride
                         ? __ldg(reinterpret_cast<const uint2*>(delta.b + static_cast<int64_t>(row) * delta.b_stride + k))
                         : make_uint2(0, 0);
        }
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
          uint32_t left[2][2];
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const int row = m * 16 + half * 8 + g;
            const bf16* from = reduced + row * stride + delta.rank_offset + k;
            const bool inside = row < tile.num_rows;
#pragma unroll
            for (int pair = 0; pair < 2; pair++) {
              const bf16 zero = __float2bfloat16(0.0f);
              const bf16 low = inside && k + 2 * pair < delta.rank ? from[2 * pair] : zero;
              const bf16 high = inside && k + 2 * pair + 1 < delta.rank ? from[2 * pair + 1] : zero;
              left[half][pair] = static_cast<uint32_t>(__bfloat16_as_ushort(low)) | static_cast<uint32_t>(__bfloat16_as_ushort(high)) << 16;
            }
          }
#pragma unroll
          for (int j = 0; j < 4; j++)
            multiply_add(sums[m][j], left[0][0], left[1][0], left[0][1], left[1][1], right[j].x, right[j].y);
        }
      }
#pragma unroll
      for (int m = 0; m < M_TILES; m++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
          for (int e = 0; e < 4; e++) totals[m][j][e] += delta.scale * sums[m][j][e];
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
          values[2 * j] = totals[m][j][2 * half];
          values[2 * j + 1] = totals[m][j][2 * half + 1];
        }
        store_8<MODE>(out, static_cast<int64_t>(tile.row + row) * out_stride + column, values, valid);
      }
  }
}

template <int M_TILES> size_t shrink_shared_bytes() { return sizeof(float) * WARPS * M_TILES * 16 * RANK_BLOCK; }

template <int M_TILES> void shrink_tiles(const LoraArgs& args, const bf16* x, int x_stride, cudaStream_t stream) {
  const size_t bytes = shrink_shared_bytes<M_TILES>();
  static const bool allowed = (allow_shared_bytes(shrink_kernel<M_TILES>, shrink_shared_bytes<M_TILES>()), true);
  (void)allowed;
  launch(shrink_kernel<M_TILES>, dim3(args.num_tiles, args.splits), dim3(THREADS), bytes, stream, args, x, x_stride);
}

template <int M_TILES, ExpandMode MODE>
void expand_tiles(const LoraArgs& args, void* out, int out_stride, int out_width, cudaStream_t stream) {
  constexpr size_t MOST_SHARED_BYTES = 160 << 10;
  static_assert(SMALL_TILE_ROWS * (MAX_RANK_SMALL_TILES + 8) * sizeof(bf16) <= MOST_SHARED_BYTES);
  static_assert(LARGE_TILE_ROWS * (MAX_RANK_LARGE_TILES + 8) * sizeof(bf16) <= MOST_SHARED_BYTES);
  static const bool allowed = (allow_shared_bytes(expand_kernel<M_TILES, MODE>, MOST_SHARED_BYTES), true);
  (void)allowed;
  const size_t bytes = sizeof(bf16) * M_TILES * 16 * (args.shrunk_stride + 8);
  launch(expand_kernel<M_TILES, MODE>, dim3(args.num_tiles, (out_width + OUT_BLOCK - 1) / OUT_BLOCK), dim3(THREADS), bytes, stream, args, out,
         out_stride, out_width);
}

template <int M_TILES> void expand_any(const LoraArgs& args, ExpandMode mode, void* out, int out_stride, int out_width, cudaStream_t stream) {
  switch (mode) {
    case ExpandMode::delta: return expand_tiles<M_TILES, ExpandMode::delta>(args, out, out_stride, out_width, stream);
    case ExpandMode::replace: return expand_tiles<M_TILES, ExpandMode::replace>(args, out, out_stride, out_width, stream);
    case ExpandMode::add: return expand_tiles<M_TILES, ExpandMode::add>(args, out, out_stride, out_width, stream);
  }
}

}  // namespace

void lora_shrink(const LoraArgs& args, const bf16* x, int x_stride, cudaStream_t stream) {
  if (args.large) shrink_tiles<LARGE_TILE_ROWS / 16>(args, x, x_stride, stream);
  else shrink_tiles<SMALL_TILE_ROWS / 16>(args, x, x_stride, stream);
}

void lora_expand(const LoraArgs& args, ExpandMode mode, void* out, int out_stride, int out_width, cudaStream_t stream) {
  if (args.large) expand_any<LARGE_TILE_ROWS / 16>(args, mode, out, out_stride, out_width, stream);
  else expand_any<SMALL_TILE_ROWS / 16>(args, mode, out, out_stride, out_width, stream);
}

}  // namespace lorikeet
