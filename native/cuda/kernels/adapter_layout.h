/**
 * Where an adapter's numbers lie, for the host that writes them and the kernels that read them.
 *
 * Ranks of a delta come in groups of eight, the last one filled with zeros. A group of A is cut into steps of 64 columns, a
 * block of 1024 bytes each: eight ranks of 128 bytes, whose 16-byte chunks are exchanged by the rank as the tensor cores'
 * 128-byte swizzle wants them. B is cut into runs of 32 outputs; each has, group by group, 512 bytes in the order in which a
 * warp's lanes want them for four products of eight outputs: sixteen bytes a lane, and eight neighbouring outputs as result.
 */
#pragma once
#include <stdint.h>

#ifdef __CUDACC__
#define LORIKEET_BOTH __host__ __device__ __forceinline__
#else
#define LORIKEET_BOTH inline
#endif

namespace lorikeet {

constexpr int RANK_GROUP = 8, A_STEP = 64, A_BLOCK = RANK_GROUP * A_STEP, B_RUN = 32, B_BLOCK = B_RUN * RANK_GROUP;

/** Ranks as they are stored. */
LORIKEET_BOTH constexpr int grouped(int rank) { return (rank + RANK_GROUP - 1) / RANK_GROUP * RANK_GROUP; }
/** Steps of a site's input: an even number, since products take one or two at a time. */
LORIKEET_BOTH constexpr int a_steps(int width) { return (width + 2 * A_STEP - 1) / (2 * A_STEP) * 2; }
/** Elements from the first of a site's A; `steps` is `a_steps` of the site's input. */
LORIKEET_BOTH constexpr int64_t a_index(int rank, int column, int steps) {
  const int row = rank % RANK_GROUP, chunk = column % A_STEP / 8;
  return (static_cast<int64_t>(rank / RANK_GROUP) * steps + column / A_STEP) * A_BLOCK + row * A_STEP + (chunk ^ row) * 8 + column % 8;
}
/** Outputs as they are stored. */
LORIKEET_BOTH constexpr int b_width(int width) { return (width + B_RUN - 1) / B_RUN * B_RUN; }
/** Elements from the first of a delta's B to the number of an output and a rank, `ranks` of which it has. */
LORIKEET_BOTH constexpr int64_t b_index(int output, int rank, int ranks) {
  const int within = output % B_RUN, product = within % 8 / 2;
  const int lane = (within / 8 * 2 + within % 2) * 4 + rank % RANK_GROUP / 2;
  const int64_t block = static_cast<int64_t>(output / B_RUN) * (grouped(ranks) / RANK_GROUP) + rank / RANK_GROUP;
  return block * B_BLOCK + lane * 8 + product * 2 + rank % 2;
}

}  // namespace lorikeet
