/**
 * Products of up to 64 rows, and adapters' A beside them, at the speed at which the device reads the weights.
 *
 * Each block takes a tile of the weight's rows, as many as give every multiprocessor one, over all columns: nothing is
 * summed across blocks, and a row's sums depend on the shape alone. The copy engine fills a ring of stages with 64 or 128
 * columns of the tile and of x; four warps multiply. x is the left operand, 64 rows of it whether they exist or not, since
 * only the weights' way from memory counts. What the copy engine can do is bounded by the number of copies, not of bytes.
 *
 * A of an adapter is more rows of the weight: groups of eight ranks are dealt to the blocks, which read them along with
 * their tiles. Each group meets all rows, and is kept for the rows of its slot. So a step reads each A once, beside the
 * weights, and no kernel is added to it.
 *
 * Weights depend on no other kernel, so the ring is filled with them while the kernel before this one still runs.
 */
#include <algorithm>
#include <utility>

#include "adapter_layout.h"
#include "device.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "tensor_copy.cuh"
#include "wgmma.cuh"

namespace lorikeet {
namespace {

constexpr int BOX = BOX_COLUMNS;
static_assert(BOX == A_STEP && ROW_ALIGNMENT % BOX == 0);
constexpr int MAX_STAGES = 32;
constexpr int RING_BYTES = 212 << 10;
constexpr int MAX_COLUMNS = 256;
/** Groups that one block may meet: all slots of a step with all ranks of an adapter, dealt to the fewest blocks. */
constexpr int MIN_MULTIPROCESSORS = 104;
[[maybe_unused]] constexpr int MAX_GROUPS = MAX_SMALL_ROWS * MAX_RANK_SMALL_TILES / RANK_GROUP / MIN_MULTIPROCESSORS;

/** Four warps multiply; three have tiles, x and groups copied. */
[[maybe_unused]] constexpr int MULTIPLIERS = 4, TILE_COPIES = 4, X_COPIES = 5, GROUP_COPIES = 6;
template <bool ADAPTERS> constexpr int THREADS_OF = 32 * (ADAPTERS ? 7 : 6);

/** Narrow tiles have small boxes; two of them a stage make up for the work around each. */
template <int COLUMNS> constexpr int BOXES_OF = COLUMNS <= 128 ? 2 : 1;

struct StreamedLinear {
  LinearArgs linear;
  LoraArgs lora;
  int tile, num_tiles; /* rows of the weight, a multiple of 8; tiles in all */
  int x_rows, stages;
};

/** Eight ranks of one slot. */
struct Group {
  const bf16* a;
  int32_t slot, rank; /* first of its ranks in the slot's row of `shrunk` */
};

/** Which tiles and groups a block takes, job by job: a tile, the first with a few groups, then groups alone. */
template <int COLUMNS> struct Jobs {
  int tiles, groups, beside_first; /* groups that fit beside a tile */

  __device__ Jobs(const StreamedLinear& op, int num_groups) : groups(num_groups) {
    const int block = blockIdx.x, blocks = gridDim.x;
    tiles = block < op.num_tiles ? (op.num_tiles - block + blocks - 1) / blocks : 0;
    beside_first = tiles > 0 ? (COLUMNS - op.tile) / 8 : 0;
  }
  __device__ int count() const { return tiles + (max(0, groups - beside_first) + COLUMNS / 8 - 1) / (COLUMNS / 8); }
  __device__ bool has_tile(int job) const { return job < tiles; }
  __device__ int first_group(int job) const { return job < tiles ? 0 : beside_first + (job - tiles) * (COLUMNS / 8); }
  __device__ int num_groups(int job) const {
    const int room = job >= tiles ? COLUMNS / 8 : job == 0 ? beside_first : 0;
    return min(room, max(0, groups - first_group(job)));
  }
};

/** Finds the groups of the step's slots that are this block's. One warp calls it. @returns how many */
[[maybe_unused]] __device__ int deal_groups(const LoraArgs& lora, int steps, Group* mine) {
  const int lane = threadIdx.x % 32, blocks = gridDim.x;
  /* The last blocks have the smaller share of the tiles. */
  const int turn = blocks - 1 - static_cast<int>(blockIdx.x);
  int before = 0;
  for (int first = 0; first < lora.num_tiles; first += 32) {
    const int i = first + lane;
    int slot = -1, groups = 0;
    const SiteRecord* site = nullptr;
    if (i < lora.num_tiles && lora.tiles[i].num_rows > 0 && lora.tiles[i].slot >= 0 && (i == 0 || lora.tiles[i - 1].slot != lora.tiles[i].slot)) {
      slot = lora.tiles[i].slot;
      site = lora.sites + static_cast<int64_t>(slot) * lora.num_sites + lora.site;
      groups = site->total_rank / RANK_GROUP;
    }
    int end = groups;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(~0u, end, offset);
      if (lane >= offset) end += other;
    }
    const int begin = before + end - groups;
    for (int at = begin + (turn - begin % blocks + blocks) % blocks; at < begin + groups; at += blocks)
      mine[at / blocks] = {site->a + static_cast<int64_t>(at - begin) * steps * A_BLOCK, slot, (at - begin) * RANK_GROUP};
    before += __shfl_sync(~0u, end, 31);
  }
  __syncwarp();
  return before > turn ? (before - turn + blocks - 1) / blocks : 0;
}

/** Writes two neighbouring sums of one row. */
[[maybe_unused]] __device__ __forceinline__ void write_pair(const LinearArgs& args, int row, int column, float low, float high) {
  const int64_t at = static_cast<int64_t>(row) * args.out_stride + column;
  if (args.out_type == OutType::f32) {
    float2* out = reinterpret_cast<float2*>(static_cast<float*>(args.out) + at);
    const float2 old = args.accumulate ? *out : make_float2(0.0f, 0.0f);
    *out = make_float2(old.x + low, old.y + high);
  } else {
    __nv_bfloat162* out = reinterpret_cast<__nv_bfloat162*>(static_cast<bf16*>(args.out) + at);
    const float2 old = args.accumulate ? __bfloat1622float2(*out) : make_float2(0.0f, 0.0f);
    *out = __floats2bfloat162_rn(old.x + low, old.y + high);
  }
}

template <int COLUMNS, bool ADAPTERS>
__global__ void __launch_bounds__(THREADS_OF<ADAPTERS>) linear_stream_kernel(const __grid_constant__ CUtensorMap weight_map, const __grid_constant__ CUtensorMap x_map,
                                                                            const __grid_constant__ StreamedLinear op) {
#ifdef LORIKEET_HAS_WGMMA
  constexpr int BOXES = BOXES_OF<COLUMNS>, BLOCK_BYTES = A_BLOCK * sizeof(bf16);
  extern __shared__ uint8_t memory[];
  __shared__ uint64_t full[MAX_STAGES], empty[MAX_STAGES];
  __shared__ Group groups[ADAPTERS ? MAX_GROUPS : 1];
  __shared__ uint64_t dealt;
  __shared__ int num_groups;
  const LinearArgs& args = op.linear;
  const int block = blockIdx.x, blocks = gridDim.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int x_stage = BOXES * op.x_rows * BOX;
  constexpr int COLUMN_STAGE = BOXES * COLUMNS * BOX;
  /* Rows of x that do not exist are read from what lies behind: other stages, or the gap before the weights. */
  bf16* const x_ring = reinterpret_cast<bf16*>((reinterpret_cast<uintptr_t>(memory) + 1023) / 1024 * 1024);
  bf16* const column_ring = x_ring + op.stages * x_stage + (MAX_SMALL_ROWS - op.x_rows) * BOX;
  const int steps = (args.k / BOX + BOXES - 1) / BOXES;

  if (threadIdx.x == 0) {
    for (int i = 0; i < op.stages; i++) barrier_init(&full[i], ADAPTERS ? 3 : 2), barrier_init(&empty[i], MULTIPLIERS);
    barrier_init(&dealt, 1);
    barrier_init_fence();
  }
  __syncthreads();
  let_next_kernel_start();

  /* Columns of a stage lie in blocks of eight, each with all its boxes, so that one copy brings a group. */
  const auto fetch_tile = [&](int job, int step, int stage) {
    barrier_arrive_expecting(&full[stage], BOXES * op.tile * BOX * static_cast<int>(sizeof(bf16)));
    copy_blocks(column_ring + stage * COLUMN_STAGE, &weight_map, (block + job * blocks) * op.tile / 8, step * BOXES, &full[stage], READ_ONCE);
  };
  /* Once the groups are dealt, which takes longer than it takes to begin with the tiles. */
  const auto all_jobs = [&] {
    if constexpr (ADAPTERS) {
      barrier_wait(&dealt, 0);
      return Jobs<COLUMNS>(op, num_groups);
    } else {
      return Jobs<COLUMNS>(op, 0);
    }
  };
  const int num_tiles = Jobs<COLUMNS>(op, 0).tiles;
  /* Calls fetch(job, step, stage) for each step of the jobs, once its stage is free. */
  const auto fill = [&](int first_job, int end_job, auto fetch) {
    int stage = first_job * steps % op.stages;
    uint32_t parity = first_job * steps / op.stages % 2 ^ 1; /* a barrier that nobody has waited for counts as free */
    for (int job = first_job; job < end_job; job++)
      for (int step = 0; step < steps; step++) {
        barrier_wait(&empty[stage], parity);
        fetch(job, step, stage);
        if (++stage == op.stages) stage = 0, parity ^= 1;
      }
  };
  if (warp == TILE_COPIES) {
    if (lane == 0) {
      fill(0, num_tiles, fetch_tile);
      fill(num_tiles, all_jobs().count(), [&](int, int, int stage) { barrier_arrive(&full[stage]); });
    }
    return;
  }
  if (warp == X_COPIES) {
    wait_for_previous_kernels();
    if (lane == 0) {
      const auto fetch_x = [&](int, int step, int stage) {
        barrier_arrive_expecting(&full[stage], x_stage * static_cast<int>(sizeof(bf16)));
        copy_boxes(x_ring + stage * x_stage, &x_map, 0, step * BOXES, &full[stage], READ_OFTEN);
      };
      fill(0, num_tiles, fetch_x);
      fill(num_tiles, all_jobs().count(), fetch_x);
    }
    return;
  }
  if (ADAPTERS && warp == GROUP_COPIES) {
    const int mine = deal_groups(op.lora, a_steps(args.k), groups);
    if (lane == 0) num_groups = mine, barrier_arrive(&dealt);
    const Jobs<COLUMNS> jobs(op, mine);
    fill(0, jobs.count(), [&](int job, int step, int stage) {
      const int count = jobs.num_groups(job), first = jobs.first_group(job), behind = jobs.has_tile(job) ? op.tile / 8 : 0;
      if (lane == 0) barrier_arrive_expecting(&full[stage], count * BOXES * BLOCK_BYTES);
      __syncwarp();
      if (lane < count)
        copy_bytes(column_ring + stage * COLUMN_STAGE + (behind + lane) * BOXES * A_BLOCK, groups[first + lane].a + static_cast<int64_t>(step) * BOXES * A_BLOCK, BOXES * BLOCK_BYTES,
                   &full[stage], READ_ONCE);
    });
    return;
  }

  wait_for_previous_kernels();
  const int g = lane / 4, t = lane % 4;
  int stage = 0;
  uint32_t parity = 0;
  for (int job = 0, num_jobs = num_tiles > 0 ? 1 : all_jobs().count(); job < num_jobs; job++) {
    float sums[COLUMNS / 8][4];
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) sums[n][e] = 0.0f;
    int last = 0;
    for (int step = 0; step < steps; step++) {
      barrier_wait(&full[stage], parity);
      wgmma_begin();
#pragma unroll
      for (int j = 0; j < BOXES; j++) {
        const uint64_t a = operand_descriptor(x_ring + stage * x_stage + j * op.x_rows * BOX, BLOCK_BYTES);
        const uint64_t b = operand_descriptor(column_ring + stage * COLUMN_STAGE + j * A_BLOCK, BOXES * BLOCK_BYTES);
#pragma unroll
        for (int k = 0; k < BOX / 16; k++) wgmma_16<COLUMNS / 8>(sums, a + k * DESCRIPTOR_16_COLUMNS, b + k * DESCRIPTOR_16_COLUMNS);
      }
      wgmma_commit();
      /* The step before this one has been multiplied. */
      wgmma_wait<1>();
      if (step > 0 && lane == 0) barrier_arrive(&empty[last]);
      last = stage;
      if (++stage == op.stages) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    if (lane == 0) barrier_arrive(&empty[last]);

    const Jobs<COLUMNS> jobs = all_jobs();
    num_jobs = jobs.count();
    const int tile_columns = jobs.has_tile(job) ? op.tile / 8 : 0, first_group = jobs.first_group(job), job_groups = jobs.num_groups(job);
    const int first_column = (block + job * blocks) * op.tile + t * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = warp * 16 + half * 8 + g;
      if (row >= args.m) continue;
      const int slot = ADAPTERS ? op.lora.row_slot[row] : -1;
#pragma unroll
      for (int n = 0; n < COLUMNS / 8; n++) {
        const float low = sums[n][half * 2], high = sums[n][half * 2 + 1];
        if (n < tile_columns) {
          if (first_column + n * 8 < args.n) write_pair(args, row, first_column + n * 8, low, high);
        } else if (ADAPTERS && n - tile_columns < job_groups) {
          const Group& group = groups[first_group + n - tile_columns];
          if (group.slot == slot) *reinterpret_cast<float2*>(op.lora.shrunk + static_cast<int64_t>(row) * op.lora.shrunk_stride + group.rank + t * 2) = make_float2(low, high);
        }
      }
    }
  }
#else
  (void)weight_map, (void)x_map, (void)op;
#endif
}

template <int COLUMNS, bool ADAPTERS> void launch_stream(StreamedLinear op, int blocks, Queue queue) {
  static const bool allowed = (allow_shared_bytes(linear_stream_kernel<COLUMNS, ADAPTERS>, RING_BYTES), true);
  (void)allowed;
  constexpr int BOX_ROW_BYTES = BOX * sizeof(bf16), BOXES = BOXES_OF<COLUMNS>;
  const LinearArgs& args = op.linear;
  op.x_rows = (args.m + 7) / 8 * 8;
  const int stage = BOXES * (op.x_rows + COLUMNS) * BOX_ROW_BYTES, beside = 1024 + (MAX_SMALL_ROWS - op.x_rows) * BOX_ROW_BYTES;
  op.stages = std::min(MAX_STAGES, (RING_BYTES - beside) / stage);
  launch(linear_stream_kernel<COLUMNS, ADAPTERS>, dim3(blocks), dim3(THREADS_OF<ADAPTERS>), static_cast<size_t>(op.stages) * stage + beside, queue,
         block_map(args.weight, args.n, args.k, args.weight_stride, op.tile / 8, BOXES), box_map(args.x, args.m, args.k, args.x_stride, op.x_rows, BOXES), op);
}

template <bool ADAPTERS> void launch_columns(const StreamedLinear& op, int columns, int blocks, Queue queue) {
  /* The first width that holds so many. */
  const auto fits = [&]<int... WIDTHS>(std::integer_sequence<int, WIDTHS...>) { ((columns <= WIDTHS && (launch_stream<WIDTHS, ADAPTERS>(op, blocks, queue), true)) || ...); };
  fits(std::integer_sequence<int, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 224, 232, 240, MAX_COLUMNS>());
}

}  // namespace

bool linear_stream_works() {
  int device = 0, major = 0, minor = 0, multiprocessors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  return major == 9 && minor == 0 && multiprocessors >= MIN_MULTIPROCESSORS && tensor_copies_work();
}

void linear_stream(const LinearArgs& args, const LoraArgs* lora, int num_multiprocessors, Queue queue) {
  /* A group beside every tile are, over all blocks, 22 adapters of rank 16 on three modules. */
  const int beside = lora == nullptr ? 0 : (lora->num_tiles <= 8 ? 1 : lora->num_tiles <= 32 ? 2 : 4) * RANK_GROUP;
  StreamedLinear op = {args, lora == nullptr ? LoraArgs{} : *lora, 0, 0, 0, 0};
  for (int rounds = 1; op.tile == 0 || op.tile + beside > MAX_COLUMNS; rounds++) {
    const int shares = num_multiprocessors * rounds;
    op.tile = ((args.n + shares - 1) / shares + 7) / 8 * 8;
  }
  op.num_tiles = (args.n + op.tile - 1) / op.tile;
  if (lora == nullptr) launch_columns<false>(op, op.tile, std::min(op.num_tiles, num_multiprocessors), queue);
  else launch_columns<true>(op, op.tile + beside, num_multiprocessors, queue);
}

}  // namespace lorikeet
