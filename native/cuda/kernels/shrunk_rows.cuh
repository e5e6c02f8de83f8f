/** What a block of an adapter's kernel keeps of its tile: what the adapter does, and A · x of the rows. */
#pragma once
#include "adapter_layout.h"
#include "device.cuh"
#include "kernels.h"

namespace lorikeet {

/** Ranks of a delta in shared memory: whole steps of the product, with zeros behind the true ones. */
__device__ __forceinline__ int stepped(int rank) { return (rank + 15) / 16 * 16; }
/** Numbers of a row in shared memory: a group of eight ranks in each delta becomes a step, and eight more keep rows in different banks. */
LORIKEET_BOTH constexpr int reduced_stride(int max_rank, int max_deltas = MAX_DELTAS) { return max_rank + RANK_GROUP * max_deltas + 8; }
LORIKEET_BOTH constexpr size_t reduced_bytes(int rows, int max_rank, int max_deltas = MAX_DELTAS) { return sizeof(bf16) * rows * reduced_stride(max_rank, max_deltas); }

/** What the adapter of a tile does at the site, known to every thread; it does nothing to rows without one. */
__device__ __forceinline__ const SiteRecord& site_of(const LoraArgs& args, const RowTile& tile) {
  __shared__ SiteRecord record;
  if (tile.slot < 0) {
    if (threadIdx.x == 0) record.num_deltas = 0;
  } else {
    const int32_t* from = reinterpret_cast<const int32_t*>(args.sites + static_cast<int64_t>(tile.slot) * args.num_sites + args.site + tile.expert);
    if (threadIdx.x < sizeof(SiteRecord) / 4) reinterpret_cast<int32_t*>(&record)[threadIdx.x] = from[threadIdx.x];
  }
  __syncthreads();
  return record;
}

/**
 * Sums the tile's rows over the splits, and scales them: `reduced`, [ROWS, stride], by THREADS. Each delta's ranks begin at a multiple of
 * 16. The block meets before it reads them.
 */
template <int ROWS, int THREADS> __device__ __forceinline__ void reduce_shrunk(const LoraArgs& args, const RowTile& tile, const SiteRecord& site, bf16* reduced, int stride) {
  for (int d = 0, to = 0; d < site.num_deltas; d++) {
    const int rank = site.deltas[d].rank, width = stepped(rank), offset = site.deltas[d].rank_offset;
    const float scale = site.deltas[d].scale;
    for (int r = threadIdx.x % 16; r < width; r += 16) {
#pragma unroll 4
      for (int row0 = 0; row0 < ROWS; row0 += THREADS / 16) {
        const int row = row0 + threadIdx.x / 16;
        const float* from = args.shrunk + static_cast<int64_t>(tile.row + row) * args.shrunk_stride + offset + r;
        /* All loads are under way before the first is added. */
        float parts[MAX_SPLITS], sum = 0.0f;
#pragma unroll
        for (int s = 0; s < MAX_SPLITS; s++) {
          const bool there = s < args.splits && r < rank && row < tile.num_rows;
          parts[s] = there ? from[static_cast<int64_t>(s) * args.shrunk_rows * args.shrunk_stride] : 0.0f;
        }
#pragma unroll
        for (int s = 0; s < MAX_SPLITS; s++) sum += parts[s];
        reduced[row * stride + to + r] = __float2bfloat16(sum * scale);
      }
    }
    to += width;
  }
}

}  // namespace lorikeet
