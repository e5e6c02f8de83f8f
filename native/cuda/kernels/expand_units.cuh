/**
 * B · shrunk added to the products of a tile's rows, for kernels that read them anyway.
 *
 * A unit is 64 rows of two sides, 64 neighbouring outputs each: gate and up, or the two halves of what is rotated. Products and B
 * pass through shared memory in whole lines of 128 bytes: with half lines the cache, which counts requests, is probably the limit.
 */
#pragma once
#include "adapter_layout.h"
#include "device.cuh"
#include "kernels.h"
#include "shrunk_rows.cuh"

namespace lorikeet::expand_units {

constexpr int WARPS = 4, THREADS = WARPS * 32, STAGES = 3;
/** Outputs of a side, in octets, and ranks that one stage holds of their B. */
constexpr int SIDE = 64, OCTETS = SIDE / B_OCTET, STEP_GROUPS = 16 / RANK_GROUP;
static_assert(WARPS * 16 == LARGE_TILE_ROWS, "a warp takes sixteen rows");

struct Stage {
  bf16 products[2][LARGE_TILE_ROWS * SIDE];
  bf16 ranks[2][OCTETS * STEP_GROUPS * B_BLOCK];
};

/** Elements to an octet of a row; octets of eight rows meet all banks. */
__device__ __forceinline__ int octet_at(int row, int octet) { return row * SIDE + (octet ^ (row & 7)) * B_OCTET; }

/** The one delta that changes a side's outputs. */
struct Factor {
  const bf16* b;
  int first_octet, groups, chunk_elements;
  int steps; /* of sixteen ranks; 0 for none */
  int place; /* of its first rank among a row's shrunk ones */
};

__device__ __forceinline__ Factor factor_of(const SiteRecord& site, int output) {
  int place = 0;
  for (int d = 0; d < site.num_deltas; d++) {
    const DeltaRecord& delta = site.deltas[d];
    if (output >= delta.offset && output < delta.offset + delta.width)
      return {delta.b, (output - delta.offset) / B_OCTET, grouped(delta.rank) / RANK_GROUP, b_width(delta.width) * B_CHUNK, stepped(delta.rank) / 16, place};
    place += stepped(delta.rank);
  }
  return {nullptr, 0, 0, 0, 0, 0};
}

/** Sixteen ranks of one unit. */
struct Step {
  int unit, step, steps;
  Factor factors[2];
};

/**
 * Runs a tile's units. With g = lane / 4 and t = lane % 4, sums[side][j][e] are of output 8 * j + 2 * t + e % 2 of a side and of row
 * 16 * warp + e / 2 * 8 + g.
 *
 * @param product [rows, stride]
 * @param columns_of (unit, side) the first output of a side
 * @param end_of (side) outputs from there on are nobody's
 * @param finish (unit, sums, stage) by each warp that has rows; its rows of the stage's products are its own by then
 */
template <typename ColumnsOf, typename EndOf, typename Finish>
__device__ __forceinline__ void run(const LoraArgs& lora, const RowTile& tile, const SiteRecord& site, const bf16* product, int product_stride, int units, uint8_t* memory,
                                    ColumnsOf columns_of, EndOf end_of, Finish finish) {
  Stage* const stages = reinterpret_cast<Stage*>(memory);
  bf16* const shrunk = reinterpret_cast<bf16*>(stages + STAGES);
  const int stride = reduced_stride(lora.max_rank, MAX_EXPANDED_MODULES), warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const auto begin = [&](Step& at, int unit) {
    at.unit = unit, at.step = 0;
    if (unit >= units) return;
#pragma unroll
    for (int side = 0; side < 2; side++) at.factors[side] = factor_of(site, columns_of(unit, side));
    at.steps = max(1, max(at.factors[0].steps, at.factors[1].steps));
  };
  const auto advance = [&](Step& at) {
    if (++at.step == at.steps) begin(at, at.unit + 1);
  };
  Step asked = {}, now = {};
  int to = 0;
  const auto ask = [&]() {
    if (asked.unit < units) {
      Stage& stage = stages[to];
#pragma unroll
      for (int side = 0; side < 2; side++) {
        const int column = columns_of(asked.unit, side), end = end_of(side);
        if (asked.step == 0) {
          const int octet = threadIdx.x % OCTETS;
#pragma unroll
          for (int i = 0; i < LARGE_TILE_ROWS / (THREADS / OCTETS); i++) {
            const int row = i * (THREADS / OCTETS) + threadIdx.x / OCTETS;
            if (row < tile.num_rows && column + octet * B_OCTET < end)
              copy_async_16(stage.products[side] + octet_at(row, octet), product + static_cast<int64_t>(tile.row + row) * product_stride + column + octet * B_OCTET, true);
          }
        }
        const Factor& factor = asked.factors[side];
        if (asked.step >= factor.steps) continue;
        /* A thread copies eight ranks of an output. */
        const int octet = threadIdx.x / (STEP_GROUPS * B_OCTET), group = asked.step * STEP_GROUPS + threadIdx.x / B_OCTET % STEP_GROUPS, output = threadIdx.x % B_OCTET;
        const int chunk = group / B_CHUNK_GROUPS, groups = b_chunk_groups(factor.groups, chunk);
        const bool there = group < factor.groups && column + octet * B_OCTET < end;
        const bf16* const from = factor.b + static_cast<int64_t>(chunk) * factor.chunk_elements + ((factor.first_octet + octet) * groups + group % B_CHUNK_GROUPS) * B_BLOCK + output * RANK_GROUP;
        copy_async_16(stage.ranks[side] + threadIdx.x * RANK_GROUP, there ? from : factor.b, there);
      }
      advance(asked);
    }
    copy_async_commit();
    to = to + 1 == STAGES ? 0 : to + 1;
  };
  begin(asked, 0);
  begin(now, 0);
  for (int i = 0; i < STAGES - 1; i++) ask();
  reduce_shrunk<LARGE_TILE_ROWS, THREADS>(lora, tile, site, shrunk, stride);

  float sums[2][OCTETS][4];
  for (int from = 0; now.unit < units; from = from + 1 == STAGES ? 0 : from + 1) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    ask();
    if (warp * 16 < tile.num_rows) {
      Stage& stage = stages[from];
#pragma unroll
      for (int side = 0; side < 2; side++) {
        if (now.step == 0) {
#pragma unroll
          for (int j = 0; j < OCTETS; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const float2 pair = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(stage.products[side] + octet_at(warp * 16 + half * 8 + g, j) + t * 2));
              sums[side][j][2 * half] = pair.x, sums[side][j][2 * half + 1] = pair.y;
            }
        }
        const Factor& factor = now.factors[side];
        if (now.step >= factor.steps) continue;
        uint32_t left[4], right[4];
        load_matrices(left, shrunk + (warp * 16 + lane % 16) * stride + factor.place + now.step * 16 + lane / 16 * 8);
#pragma unroll
        for (int j = 0; j < OCTETS; j += 2) {
          load_matrices(right, stage.ranks[side] + j * STEP_GROUPS * B_BLOCK + lane * RANK_GROUP);
          multiply_add(sums[side][j], left[0], left[1], left[2], left[3], right[0], right[1]);
          multiply_add(sums[side][j + 1], left[0], left[1], left[2], left[3], right[2], right[3]);
        }
      }
      if (now.step + 1 == now.steps) finish(now.unit, sums, stage);
    }
    advance(now);
  }
}

/** Puts the warp's numbers of a side where its products were. */
__device__ __forceinline__ void put_pair(Stage& stage, int side, int half, int octet, float low, float high) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  *reinterpret_cast<uint32_t*>(stage.products[side] + octet_at(warp * 16 + half * 8 + lane / 4, octet) + lane % 4 * 2) = pack_bf16(low, high);
}

/** Writes what was put there, whole lines at a time. @param row_at where a row's side begins, or null @param width of the side */
template <typename RowAt> __device__ __forceinline__ void write_side(const Stage& stage, int side, int width, RowAt row_at) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, octet = lane % OCTETS;
#pragma unroll
  for (int i = 0; i < 16 / (32 / OCTETS); i++) {
    const int row = warp * 16 + i * (32 / OCTETS) + lane / OCTETS;
    bf16* const to = row_at(row);
    if (to != nullptr && octet * B_OCTET < width) *reinterpret_cast<uint4*>(to + octet * B_OCTET) = *reinterpret_cast<const uint4*>(stage.products[side] + octet_at(row, octet));
  }
}

constexpr size_t shared_bytes(int max_rank) { return STAGES * sizeof(Stage) + reduced_bytes(LARGE_TILE_ROWS, max_rank, MAX_EXPANDED_MODULES); }
static_assert(shared_bytes(MAX_EXPANDED_RANK) <= 98 << 10, "what a block may have on any device from sm_80 on");

}  // namespace lorikeet::expand_units
