/**
 * Expand inside the kernel that reads a linear operation's output: B · shrunk for up to eight rows of one slot, left in
 * shared memory, where the reader adds it.
 *
 * A block takes ranges of columns, each inside or outside of every delta, as runs of 32 that are dealt to its warps. B goes
 * straight into the registers of the product; as it depends on no other kernel, the first of it is asked for before the wait
 * for them.
 */
#pragma once
#include "adapter_layout.h"
#include "device.cuh"
#include "kernels.h"

namespace lorikeet {

/** Where B of one range begins, and what it is multiplied with; no groups where no module writes. */
struct RangeDelta {
  const bf16* b;
  int groups, rank_offset;
  float scale;
};

/** A run of the block: the `index`th of a range. */
struct Run {
  int range, index;
};

/**
 * What one slot does in RANGES ranges of columns, for a block of WARPS warps that has a tile of its rows. EARLY runs of each
 * warp are asked for at once; `expand` comes after the wait for the kernels before.
 */
template <int WARPS, int RANGES, int EARLY> class TileDelta {
 public:
  /**
   * @param ranges RANGES of them, in shared memory
   * @param first_column of a range: first_column(range)
   * @param run_of the block's `num_runs` runs: run_of(i)
   */
  template <typename FirstColumn, typename RunOf>
  __device__ __forceinline__ TileDelta(const LoraArgs& lora, const RowTile& tile, RangeDelta* ranges, FirstColumn first_column, int num_runs, RunOf run_of)
      : ranges_(ranges), warp_(threadIdx.x / 32), lane_(threadIdx.x % 32), num_runs_(num_runs), any_(tile.slot >= 0) {
    if (!any_) return;
    if (warp_ == 0) {
      static_assert(MAX_DELTAS <= 32);
      const SiteRecord& site = lora.sites[static_cast<int64_t>(tile.slot) * lora.num_sites + lora.site];
      const DeltaRecord delta = lane_ < MAX_DELTAS ? site.deltas[lane_] : DeltaRecord{};
      const bool there = lane_ < site.num_deltas;
#pragma unroll
      for (int range = 0; range < RANGES; range++) {
        const int column = first_column(range) - delta.offset;
        const bool covers = there && column >= 0 && column < delta.width;
        const int groups = grouped(delta.rank) / RANK_GROUP;
        if (covers) ranges[range] = {delta.b + static_cast<int64_t>(column / B_RUN) * groups * B_BLOCK, groups, delta.rank_offset, delta.scale};
        if (!__any_sync(~0u, covers) && lane_ == 0) ranges[range] = {nullptr, 0, 0, 0.0f};
      }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EARLY; i++) early_[i] = ask(run_of(min(warp_ + i * WARPS, num_runs - 1)), 0);
  }

  /** Whether the tile's rows may have anything to add; the same for all threads. */
  __device__ __forceinline__ bool any() const { return any_; }

  /** out[row * out_stride + 32 * run + column] = the delta of every row of the tile; zeros where no module writes. */
  template <typename RunOf> __device__ __forceinline__ void expand(const LoraArgs& lora, const RowTile& tile, RunOf run_of, bf16* out, int out_stride) const {
    const int row = lane_ / 4;
    const float* shrunk = row < tile.num_rows ? lora.shrunk + static_cast<int64_t>(tile.row + row) * lora.shrunk_stride + lane_ % 4 * 2 : nullptr;
    bf16* const to = out + row * out_stride + lane_ % 4 * 8;
    Left first[RANGES];
#pragma unroll
    for (int range = 0; range < RANGES; range++) first[range] = left(shrunk, ranges_[range], 0);
#pragma unroll
    for (int i = 0; i < EARLY; i++) {
      const int run = warp_ + i * WARPS;
      if (run >= num_runs_) break;
      const Run place = run_of(run);
      Left chosen = first[0];
#pragma unroll
      for (int range = 1; range < RANGES; range++) chosen = place.range == range ? first[range] : chosen;
      float sums[8] = {};
      multiply(sums, chosen, early_[i]);
      finish(sums, shrunk, place, 16, to + run * B_RUN);
    }
    for (int run = warp_ + EARLY * WARPS; run < num_runs_; run += WARPS) {
      float sums[8] = {};
      finish(sums, shrunk, run_of(run), 0, to + run * B_RUN);
    }
    __syncthreads();
  }

 private:
  /** B of sixteen ranks of one run, as this lane's operands of four products. */
  struct Right {
    uint4 low, high;
  };
  /** Sixteen shrunk numbers of this lane's row, as its operands. */
  struct Left {
    uint32_t low, high;
  };

  __device__ __forceinline__ Right ask(const Run& run, int group) const {
    const RangeDelta& range = ranges_[run.range];
    const uint4* from = reinterpret_cast<const uint4*>(range.b) + (run.index * range.groups + group) * (B_BLOCK / 8) + lane_;
    return {group < range.groups ? __ldg(from) : make_uint4(0, 0, 0, 0), group + 1 < range.groups ? __ldg(from + B_BLOCK / 8) : make_uint4(0, 0, 0, 0)};
  }

  __device__ __forceinline__ Left left(const float* shrunk, const RangeDelta& range, int group) const {
    float2 low = make_float2(0.0f, 0.0f), high = low;
    if (shrunk != nullptr && group < range.groups) low = *reinterpret_cast<const float2*>(shrunk + range.rank_offset + group * RANK_GROUP);
    if (shrunk != nullptr && group + 1 < range.groups) high = *reinterpret_cast<const float2*>(shrunk + range.rank_offset + (group + 1) * RANK_GROUP);
    return {pack_bf16(low.x * range.scale, low.y * range.scale), pack_bf16(high.x * range.scale, high.y * range.scale)};
  }

  __device__ __forceinline__ void multiply(float (&sums)[8], const Left& a, const Right& b) const {
    const uint32_t low[4] = {b.low.x, b.low.y, b.low.z, b.low.w}, high[4] = {b.high.x, b.high.y, b.high.z, b.high.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float product[4] = {sums[2 * j], sums[2 * j + 1], 0.0f, 0.0f};
      multiply_add(product, a.low, 0, a.high, 0, low[j], high[j]);
      sums[2 * j] = product[0], sums[2 * j + 1] = product[1];
    }
  }

  /** Adds the ranks from `rank` on and writes the run. */
  __device__ __forceinline__ void finish(float (&sums)[8], const float* shrunk, const Run& run, int rank, bf16* out) const {
    constexpr int AT_ONCE = 4;
    const RangeDelta& range = ranges_[run.range];
    for (int group = rank / RANK_GROUP; group < range.groups; group += 2 * AT_ONCE) {
      Right b[AT_ONCE];
      Left a[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) b[i] = ask(run, group + 2 * i), a[i] = left(shrunk, range, group + 2 * i);
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) multiply(sums, a[i], b[i]);
    }
    if (shrunk == nullptr) return;
    *reinterpret_cast<uint4*>(out) = make_uint4(pack_bf16(sums[0], sums[1]), pack_bf16(sums[2], sums[3]), pack_bf16(sums[4], sums[5]), pack_bf16(sums[6], sums[7]));
  }

  const RangeDelta* ranges_;
  int warp_, lane_, num_runs_;
  bool any_;
  Right early_[EARLY];
};

/** Eight neighbours of a delta are added to `to`. */
__device__ __forceinline__ void add_8(float (&to)[8], const Bf16x8& packed) {
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const float2 pair = __bfloat1622float2(packed.pairs[j]);
    to[2 * j] += pair.x, to[2 * j + 1] += pair.y;
  }
}
__device__ __forceinline__ void add_8(float (&to)[8], const bf16* from) { add_8(to, *reinterpret_cast<const Bf16x8*>(from)); }
__device__ __forceinline__ void add_8(float (&to)[8], const float* from) {
  const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
  to[0] += low.x, to[1] += low.y, to[2] += low.z, to[3] += low.w, to[4] += high.x, to[5] += high.y, to[6] += high.z, to[7] += high.w;
}
__device__ __forceinline__ void store_8(bf16* to, const float (&from)[8]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]), pack_bf16(from[4], from[5]), pack_bf16(from[6], from[7]));
}
__device__ __forceinline__ void store_8(float* to, const float (&from)[8]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}

}  // namespace lorikeet
