/**
 * Where an adapter's numbers lie, for the host that writes them and the kernels that read them.
 *
 * Ranks of a delta come in groups of eight, the last one filled with zeros. A group of A is cut into steps of 64 columns, a
 * block of 1024 bytes each: eight ranks of 128 bytes, whose 16-byte chunks are exchanged by the rank as the tensor cores'
 * 128-byte swizzle wants them. B comes in chunks of 64 ranks, the last one as long as it is; in a chunk, octets of outputs have,
 * group by group, 128 bytes each, eight outputs of eight ranks: what the tensor cores take unswizzled. So neighbouring outputs
 * of a chunk are neighbouring bytes.
 */
#pragma once
#include <stdint.h>

#ifdef __CUDACC__
#define LORIKEET_BOTH __host__ __device__ __forceinline__
#else
#define LORIKEET_BOTH inline
#endif

namespace lorikeet {

constexpr int RANK_GROUP = 8, A_STEP = 64, A_BLOCK = RANK_GROUP * A_STEP;
constexpr int B_OCTET = 8, B_BLOCK = B_OCTET * RANK_GROUP, B_CHUNK_GROUPS = 8, B_CHUNK = B_CHUNK_GROUPS * RANK_GROUP;

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
LORIKEET_BOTH constexpr int b_width(int width) { return (width + B_OCTET - 1) / B_OCTET * B_OCTET; }
/** Groups of a delta's `chunk`th chunk, for a delta of `groups`; below 1 where it has none. */
LORIKEET_BOTH constexpr int b_chunk_groups(int groups, int chunk) {
  const int left = groups - chunk * B_CHUNK_GROUPS;
  return left < B_CHUNK_GROUPS ? left : B_CHUNK_GROUPS;
}
/** Elements from the first of a delta's B to an octet of outputs in a chunk; the delta has `groups` and `width` outputs. */
LORIKEET_BOTH constexpr int64_t b_octet(int octet, int chunk, int groups, int width) {
  return static_cast<int64_t>(chunk) * b_width(width) * B_CHUNK + static_cast<int64_t>(octet) * b_chunk_groups(groups, chunk) * B_BLOCK;
}
/** Elements from the first of a delta's B to the number of an output and a rank; the delta has `ranks` and `width` outputs. */
LORIKEET_BOTH constexpr int64_t b_index(int output, int rank, int ranks, int width) {
  const int chunk = rank / B_CHUNK, group = rank % B_CHUNK / RANK_GROUP;
  return b_octet(output / B_OCTET, chunk, grouped(ranks) / RANK_GROUP, width) + group * B_BLOCK + output % B_OCTET * RANK_GROUP + rank % RANK_GROUP;
}

}  // namespace lorikeet
