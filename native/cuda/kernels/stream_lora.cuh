/**
 * What a streamed product has to know of its step's adapters: which groups of A a block multiplies, which pieces of B its
 * tiles want, and how blocks tell each other A · x.
 *
 * One warp asks, a lane for each slot, while the kernel before this one still runs: slots and their records do not depend on it.
 */
#pragma once
#include "adapter_layout.h"
#include "device.cuh"
#include "kernels.h"

namespace lorikeet {

constexpr int MIN_MULTIPROCESSORS = 104;
/** Groups that may lie beside a tile. */
constexpr int MAX_BESIDE = 4;
/**
 * Groups that one block may meet: all slots of a step with all ranks of an adapter, dealt to the fewest blocks. Blocks with a tile
 * have some more, since those beside tiles are dealt first.
 */
constexpr int MAX_GROUPS = MAX_BESIDE + (MAX_SMALL_ROWS * MAX_RANK_SMALL_TILES / RANK_GROUP + MIN_MULTIPROCESSORS - 1) / MIN_MULTIPROCESSORS;
/** Tiles that one block may have. */
constexpr int MAX_TILES_OF_BLOCK = 32;
/** Products of sixteen ranks that a chunk takes. */
constexpr int B_CHUNK_STEPS = B_CHUNK_GROUPS / 2;
constexpr int SLOTS_OF_LANE = MAX_SMALL_ROWS / 32; /* of those that ask */
constexpr int MAX_STEPS = 16;                      /* of a stage of B */

/** Eight ranks of one slot. */
struct Group {
  const bf16* a;
  int32_t slot, rank; /* first of its ranks in the slot's row of `shrunk` */
  float scale;
};

/** B of one slot for one tile: of the one delta that changes the tile's outputs. No groups where none does. */
struct Piece {
  const bf16* b;
  int32_t groups, rank_offset, octet, width;
};

/** Sixteen ranks of one slot in a stage of B. */
struct alignas(16) RankStep {
  int32_t slot, offset;           /* of the first octet's first group: elements from the stage's first */
  int16_t row, num_rows;          /* of the slot */
  int8_t groups, step, is_double; /* to the next octet; within the chunk; whether there is a second group */
};
struct RankSteps {
  RankStep steps[MAX_STEPS];
  int32_t count, chunk;
};

#if defined(__CUDACC__)

/** The `i`th run of rows that share a slot; slot -1 where there is none. */
__device__ __forceinline__ RowTile run_at(const StreamedLora& lora, int i) {
  const RowTile run = i < lora.num_tiles ? lora.tiles[i] : RowTile{-1, 0, 0, 0};
  return run.num_rows > 0 ? run : RowTile{-1, 0, 0, 0};
}

__device__ __forceinline__ const SiteRecord* site_of(const StreamedLora& lora, int slot) { return lora.sites + static_cast<int64_t>(slot) * lora.num_sites + lora.site; }

/** What a slot below 0, or one with nothing there, has for the tile that begins at `column`. */
__device__ __forceinline__ Piece piece_of(const StreamedLora& lora, int slot, int column) {
  Piece piece = {nullptr, 0, 0, 0, 0};
  if (slot < 0) return piece;
  const SiteRecord* site = site_of(lora, slot);
  const int count = site->num_deltas;
  int which = -1;
#pragma unroll
  for (int d = 0; d < MAX_DELTAS; d++) {
    const int within = column - site->deltas[d].offset;
    if (d < count && within >= 0 && within < site->deltas[d].width) which = d;
  }
  if (which < 0) return piece;
  const DeltaRecord& delta = site->deltas[which];
  return {delta.b, grouped(delta.rank) / RANK_GROUP, delta.rank_offset, (column - delta.offset) / B_OCTET, delta.width};
}

/**
 * Finds the groups of the step's slots that are this block's: beside the tiles first, `beside` each, then alone. One warp calls it.
 *
 * What a block without a tile asks for waits behind what the others have asked for, and the last blocks start last.
 * @returns how many
 */
__device__ inline int deal_groups(const StreamedLora& lora, int steps, Group* mine, int blocks_with_tiles, int beside) {
  const int lane = threadIdx.x % 32, blocks = gridDim.x, block = blockIdx.x, room = blocks_with_tiles * beside;
  /* The `i`th group of this block. */
  const int own_beside = block < blocks_with_tiles ? beside : 0;
  const auto index_of = [&](int i) { return i < own_beside ? i * blocks_with_tiles + block : room + (i - own_beside) * blocks + block; };
  int before = 0;
  for (int first = 0; first < lora.num_tiles; first += 32) {
    const int slot = run_at(lora, first + lane).slot;
    const bf16* a = nullptr;
    int groups = 0, ranks[MAX_DELTAS];
    float scales[MAX_DELTAS];
    if (slot >= 0) {
      const SiteRecord* site = site_of(lora, slot);
      a = site->a, groups = site->total_rank / RANK_GROUP;
#pragma unroll
      for (int d = 0; d < MAX_DELTAS; d++) ranks[d] = site->deltas[d].rank_offset, scales[d] = site->deltas[d].scale;
    }
    int end = groups;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(~0u, end, offset);
      if (lane >= offset) end += other;
    }
    const int begin = before + end - groups;
#pragma unroll 1
    for (int i = 0, at = index_of(0); at < begin + groups; at = index_of(++i)) {
      if (at < begin) continue;
      const int rank = (at - begin) * RANK_GROUP;
      float scale = scales[0];
      /* Deltas that are not there have rank 0 at offset 0, like the first. */
#pragma unroll
      for (int d = 1; d < MAX_DELTAS; d++)
        if (ranks[d] > 0 && ranks[d] <= rank) scale = scales[d];
      mine[i] = {a + static_cast<int64_t>(at - begin) * steps * A_BLOCK, slot, rank, scale};
    }
    before += __shfl_sync(~0u, end, 31);
  }
  __syncwarp();
  int count = 0;
  while (index_of(count) < before) count++;
  return count;
}

/** A lane's share of the step's slots, and what each has for one tile. */
struct Pieces {
  RowTile runs[SLOTS_OF_LANE];
  Piece pieces[SLOTS_OF_LANE];

  __device__ __forceinline__ void find(const StreamedLora& lora, int column) {
#pragma unroll
    for (int i = 0; i < SLOTS_OF_LANE; i++) runs[i] = run_at(lora, i * 32 + static_cast<int>(threadIdx.x % 32));
#pragma unroll
    for (int i = 0; i < SLOTS_OF_LANE; i++) pieces[i] = piece_of(lora, runs[i].slot, column);
  }

  /**
   * Calls visit(piece, run, chunk, groups, most, index) for each stage of the tile's B, by the whole warp: the lane's piece has
   * so many groups in the chunk, that with the most has `most`, and it is the stage's `index`th; below 0 it is not in the stage.
   *
   * @param room groups of full tiles that a stage holds @returns the number of stages
   */
  template <typename Visit> __device__ __forceinline__ int for_each_stage(int room, Visit visit) const {
    const int lane = threadIdx.x % 32;
    int stages = 0;
    static_assert(SLOTS_OF_LANE == 2);
#pragma unroll 1
    for (int chunk = 0, left = 1; left != 0; chunk++) {
      left = 0;
#pragma unroll 1
      for (int i = 0; i < SLOTS_OF_LANE; i++) {
        const Piece piece = i == 0 ? pieces[0] : pieces[1];
        const RowTile run = i == 0 ? runs[0] : runs[1];
        const int groups = max(0, b_chunk_groups(piece.groups, chunk));
        const uint32_t there = __ballot_sync(~0u, groups > 0);
        left += there != 0;
        if (there == 0) continue;
        const int most = static_cast<int>(__reduce_max_sync(~0u, static_cast<unsigned>(groups)));
        const int at_once = min(MAX_STEPS / ((most + 1) / 2), room / most), index = __popc(there & ((1u << lane) - 1));
#pragma unroll 1
        for (int first = 0; first < __popc(there); first += at_once, stages++)
          visit(piece, run, chunk, groups, most, groups > 0 && index >= first && index < first + at_once ? index - first : -1);
      }
    }
    return stages;
  }
};

/* ---- A · x between blocks -------------------------------------------------------------------------------------- */

/** Two neighbouring ranks of a row, in one piece with the tag that says whose they are. */
__device__ __forceinline__ void tell_shrunk(const StreamedLora& lora, uint32_t tag, int row, int rank, float low, float high) {
  uint64_t* to = lora.shrunk + (static_cast<int64_t>(row) * lora.shrunk_stride + rank) / 2;
  const uint64_t word = static_cast<uint64_t>(tag) << 32 | pack_bf16(low, high);
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}

/** A thread's operands of the products of one chunk, from other blocks; zeros where a row has no ranks. */
struct Shrunk {
  uint32_t steps[B_CHUNK_STEPS][4];

  /** Waits for two rows' ranks. `pieces` are the rows' own; `t` is the lane within its four. */
  __device__ __forceinline__ void hear(const StreamedLora& lora, uint32_t tag, const int (&rows)[2], const int (&groups)[2], const int (&rank_offsets)[2], int chunk, int t) {
    bool missing = true;
    while (missing) {
      missing = false;
#pragma unroll
      for (int step = 0; step < B_CHUNK_STEPS; step++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const int half = e % 2, group = chunk * B_CHUNK_GROUPS + step * 2 + e / 2;
          uint64_t word = static_cast<uint64_t>(tag) << 32;
          if (group < groups[half]) {
            const uint64_t* from = lora.shrunk + (static_cast<int64_t>(rows[half]) * lora.shrunk_stride + rank_offsets[half] + group * RANK_GROUP + t * 2) / 2;
            asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
          }
          steps[step][e] = static_cast<uint32_t>(word);
          missing |= static_cast<uint32_t>(word >> 32) != tag;
        }
    }
  }

  /** The operands of one step, with zeros for rows of other slots. */
  __device__ __forceinline__ void pick(uint32_t (&to)[4], int which, int slot, const int (&slots)[2]) const {
#pragma unroll
    for (int e = 0; e < 4; e++) {
      uint32_t value = steps[0][e];
#pragma unroll
      for (int step = 1; step < B_CHUNK_STEPS; step++) value = which == step ? steps[step][e] : value;
      to[e] = slots[e % 2] == slot ? value : 0;
    }
  }
};

/**
 * sums += a · bᵀ for a warp's sixteen rows and sixteen ranks of two slots, or of none where a's are zeros. What lies behind the last
 * octet of a tile is added to sums that nobody reads.
 *
 * @param b of the first octet, for each the address that this lane gives to `load_matrices`; `next` elements to the octet after the next
 */
template <int N_TILES> __device__ __forceinline__ void expand(float (&sums)[N_TILES][4], const uint32_t (&a)[2][4], const bf16* (&b)[2], const int (&next)[2]) {
  /* Octets that are loaded before the first is multiplied: what registers allow. */
  constexpr int AT_ONCE = N_TILES <= 8 ? 8 : 4;
#pragma unroll
  for (int first = 0; first < N_TILES; first += AT_ONCE) {
    uint32_t right[2][AT_ONCE / 2][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int n = 0; n < AT_ONCE / 2; n++)
        if (first + n * 2 < N_TILES) load_matrices(right[i][n], b[i]), b[i] += next[i];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int n = 0; n < AT_ONCE; n++)
        if (first + n < N_TILES) multiply_add(sums[first + n], a[i][0], a[i][1], a[i][2], a[i][3], right[i][n / 2][n % 2 * 2], right[i][n / 2][n % 2 * 2 + 1]);
  }
}

#endif

}  // namespace lorikeet
