/**
 * Products with rows of a weight that adapters have of their own: a head that was trained whole, single tokens of it, a module.
 *
 * 64 of an adapter's rows and up to 64 rows of x a block at a time, through a ring of shared memory. Blocks are as many as the
 * device holds at once, and share what there is to do, so tiles without such an adapter take no block's time. Of experts, whose rows
 * the device sorts, a block walks along all rows that one expert was given: it has 64 own rows of each adapter that it meets.
 */
#include "device.cuh"
#include "form_of.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int WARPS = 4, THREADS = WARPS * 32, BLOCKS_PER_MULTIPROCESSOR = 3;
/** Rows of the weight, a warp for sixteen; columns of one step, in chunks of sixteen bytes. */
constexpr int OUTPUTS = WARPS * 16, DEPTH = 64, CHUNKS = DEPTH / 8, STAGES = 4;
constexpr int GROUPS = MAX_OWN_TILE_ROWS / 8;
static_assert(ROW_ALIGNMENT % DEPTH == 0, "rows end where a step ends");

struct Stage {
  bf16 weights[OUTPUTS * DEPTH];
  bf16 x[MAX_OWN_TILE_ROWS * DEPTH];
};

/** Eight rows' chunks of one column meet different banks. */
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * DEPTH + (chunk ^ (row & 7)) * 8; }

/** Ends of each tile's pieces of 64 own rows in the line of all pieces; of the tiles from `first` on, one for each thread. */
__device__ __forceinline__ void count_pieces(const OwnRowsArgs& args, int first, int (&ends)[THREADS]) {
  int pieces = 0;
  if (first + static_cast<int>(threadIdx.x) < args.num_tiles) {
    const RowTile tile = args.tiles[first + threadIdx.x];
    if (tile.num_rows > 0 && tile.slot >= 0) pieces = (form_of(args.forms, args.site, tile.row)->num_rows + OUTPUTS - 1) / OUTPUTS;
  }
  ends[threadIdx.x] = pieces;
  __syncthreads();
  for (int span = 1; span < THREADS; span *= 2) {
    const int before = static_cast<int>(threadIdx.x) >= span ? ends[threadIdx.x - span] : 0;
    __syncthreads();
    ends[threadIdx.x] += before;
    __syncthreads();
  }
}

/** What is multiplied with own rows, and where that goes. */
struct Product {
  const bf16* x;
  int x_stride; /* that of the rows, too */
  const int32_t* sources; /* row of x that each row reads, or null for the row itself */
  void* out;
  int out_stride;
};

/** Own rows [first, first + OUTPUTS) times the tile's rows. */
template <typename Out> __device__ __forceinline__ void multiply_piece(const Product& product, const RowTile& tile, const FormRecord& form, int first, Stage* stage) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int steps = product.x_stride / DEPTH, groups = (tile.num_rows + 7) / 8;
  /* A thread copies one chunk of every sixteenth row. */
  constexpr int ROWS_AT_ONCE = THREADS / CHUNKS, COPIES = OUTPUTS / ROWS_AT_ONCE;
  const int own_row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
  int64_t x_at[COPIES];
#pragma unroll
  for (int i = 0; i < COPIES; i++) {
    const int row = tile.row + min(own_row + i * ROWS_AT_ONCE, tile.num_rows - 1);
    x_at[i] = static_cast<int64_t>(product.sources != nullptr ? product.sources[row] : row) * product.x_stride;
  }
  const auto fetch = [&](int step) {
    if (step < steps) {
      Stage& to = stage[step % STAGES];
#pragma unroll
      for (int i = 0; i < COPIES; i++) {
        const int row = own_row + i * ROWS_AT_ONCE, column = step * DEPTH + chunk * 8;
        const bool has_weight = first + row < form.num_rows;
        copy_async_16(to.weights + swizzled(row, chunk), form.rows + (has_weight ? static_cast<int64_t>(first + row) * product.x_stride + column : 0), has_weight);
        if (row >= (groups + 1) / 2 * 16) continue;
        copy_async_16(to.x + swizzled(row, chunk), product.x + x_at[i] + column, row < tile.num_rows);
      }
    }
    copy_async_commit();
  };
  float sums[GROUPS][4];
#pragma unroll
  for (int n = 0; n < GROUPS; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[n][e] = 0.0f;
  for (int step = 0; step < STAGES - 1; step++) fetch(step);
  for (int step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    __syncthreads();
    fetch(step + STAGES - 1);
    const Stage& now = stage[step % STAGES];
#pragma unroll
    for (int k = 0; k < DEPTH / 16; k++) {
      uint32_t a[4];
      load_matrices(a, now.weights + swizzled(warp * 16 + lane / 8 % 2 * 8 + lane % 8, k * 2 + lane / 16));
#pragma unroll
      for (int n = 0; n < GROUPS; n += 2) {
        if (n >= groups) continue;
        uint32_t b[4];
        load_matrices(b, now.x + swizzled(n * 8 + lane / 16 * 8 + lane % 8, k * 2 + lane / 8 % 2));
        multiply_add(sums[n], a[0], a[1], a[2], a[3], b[0], b[1]);
        multiply_add(sums[n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    }
  }
  copy_async_wait<0>();
  /* Every warp is done with the ring before the next piece fills it. */
  __syncthreads();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int own = first + warp * 16 + half * 8 + g;
    if (own >= form.num_rows) continue;
    Out* const column = static_cast<Out*>(product.out) + form.row_ids[own];
#pragma unroll
    for (int n = 0; n < GROUPS; n++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int row = n * 8 + t * 2 + e;
        if (row < tile.num_rows) column[static_cast<int64_t>(tile.row + row) * product.out_stride] = static_cast<Out>(sums[n][half * 2 + e]);
      }
  }
}

template <typename Out> __global__ void __launch_bounds__(THREADS, BLOCKS_PER_MULTIPROCESSOR) own_rows_kernel(OwnRowsArgs args) {
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ int ends[THREADS];
  const Product product = {args.x, args.x_stride, nullptr, args.out, args.out_stride};
  begin_behind_previous_kernels();
  for (int tile0 = 0; tile0 < args.num_tiles; tile0 += THREADS) {
    count_pieces(args, tile0, ends);
    for (int piece = blockIdx.x; piece < ends[THREADS - 1]; piece += gridDim.x) {
      int low = 0;
      for (int high = THREADS - 1; low < high;) {
        const int middle = (low + high) / 2;
        if (ends[middle] > piece) high = middle;
        else low = middle + 1;
      }
      const RowTile tile = args.tiles[tile0 + low];
      multiply_piece<Out>(product, tile, *form_of(args.forms, args.site, tile.row), (piece - (low == 0 ? 0 : ends[low - 1])) * OUTPUTS, reinterpret_cast<Stage*>(memory));
    }
    __syncthreads();
  }
}

/** How many of the next rows have the slot, MAX_OWN_TILE_ROWS at most. Every warp counts for itself. */
__device__ __forceinline__ int count_run(const int32_t* slots, int row, int end, int slot) {
  const int lane = threadIdx.x % 32;
  for (int base = 0; base < MAX_OWN_TILE_ROWS; base += 32) {
    const int other = row + base + lane;
    const uint32_t differ = ~__ballot_sync(~0u, other < end && slots[other] == slot);
    if (differ != 0) return base + __ffs(differ) - 1;
  }
  return MAX_OWN_TILE_ROWS;
}

/** Block (expert, piece): one run of the expert's rows with a slot after another. */
__global__ void __launch_bounds__(THREADS, BLOCKS_PER_MULTIPROCESSOR) own_expert_rows_kernel(OwnExpertRowsArgs args) {
  extern __shared__ __align__(128) uint8_t memory[];
  begin_behind_previous_kernels();
  const int expert = blockIdx.x, first = blockIdx.y * OUTPUTS, end = args.routed.starts[expert + 1];
  const Product product = {args.x, args.x_stride, args.by_source ? args.routed.sources : nullptr, args.out, args.out_stride};
  for (int row = args.routed.starts[expert], count; row < end; row += count) {
    const int slot = args.routed.slots[row];
    count = count_run(args.routed.slots, row, end, slot);
    if (slot < 0) continue;
    const FormRecord& form = args.forms[static_cast<int64_t>(slot) * args.num_sites + args.site + expert];
    if (first < form.num_rows) multiply_piece<bf16>(product, {slot, row, count, expert}, form, first, reinterpret_cast<Stage*>(memory));
  }
}

constexpr size_t RING_BYTES = STAGES * sizeof(Stage);

template <typename Out> void launch_own_rows(const OwnRowsArgs& args, int num_multiprocessors, Queue queue) {
  static const bool allowed = (allow_shared_bytes(own_rows_kernel<Out>, RING_BYTES), true);
  (void)allowed;
  launch(own_rows_kernel<Out>, dim3(BLOCKS_PER_MULTIPROCESSOR * num_multiprocessors), dim3(THREADS), RING_BYTES, queue, args);
}

}  // namespace

void own_rows(const OwnRowsArgs& args, int num_multiprocessors, Queue queue) {
  if (args.out_type == OutType::f32) launch_own_rows<float>(args, num_multiprocessors, queue);
  else launch_own_rows<bf16>(args, num_multiprocessors, queue);
}

void own_expert_rows(const OwnExpertRowsArgs& args, Queue queue) {
  static const bool allowed = (allow_shared_bytes(own_expert_rows_kernel, RING_BYTES), true);
  (void)allowed;
  const dim3 grid(args.routed.num_experts, (args.n + OUTPUTS - 1) / OUTPUTS);
  launch(own_expert_rows_kernel, grid, dim3(THREADS), RING_BYTES, queue, args);
}

}  // namespace lorikeet
