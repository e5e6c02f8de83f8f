/**
 * Products of up to 64 rows, adapters included, at the speed at which the device reads the weights.
 *
 * Each block takes a tile of the weight's rows, as many as give every multiprocessor one, over all columns: nothing is
 * summed across blocks, and a row's sums depend on the shape alone. The copy engine fills a ring of stages with 64 or 128
 * columns of the tile and of x; four warps multiply. x is the left operand, 64 rows of it whether they exist or not, since
 * only the weights' way from memory counts. What the copy engine can do is bounded by the number of copies, not of bytes.
 *
 * Adapters are read in the same rings. A is more rows of the weight: groups of eight ranks are dealt to the blocks, which read
 * them along with their tiles. Each group meets all rows, and is kept for the rows of its slot. B is more columns of the tile,
 * those of a slot for its rows alone. What they are multiplied with, A · x, comes from all blocks, number by number with a tag
 * that says of which launch it is; while a block waits for it, B is on its way. So a step reads each A and B once, beside the
 * weights, and no kernel is added to it. All blocks run at the same time, as each has a multiprocessor.
 *
 * Weights depend on no other kernel, so the ring is filled with them while the kernel before this one still runs.
 */
#include <algorithm>
#include <utility>

#include "device.cuh"
#include "kernels.h"
#include "launch.cuh"
#include "stream_lora.cuh"
#include "tensor_copy.cuh"
#include "wgmma.cuh"

namespace lorikeet {
namespace {

constexpr int BOX = BOX_COLUMNS;
static_assert(BOX == A_STEP && ROW_ALIGNMENT % BOX == 0);
constexpr int MAX_STAGES = 32;
constexpr int RING_BYTES = 208 << 10;
constexpr int MAX_COLUMNS = 256;
/** Groups that are multiplied at once when they do not fit beside a tile. */
constexpr int GROUPS_ALONE = 4;
/** The widest tile there is beside so many groups, cut into which MAX_STREAMED_OUTPUTS are no more tiles than blocks have room for. */
constexpr int LEAST_WIDEST_TILE = MAX_COLUMNS - MAX_BESIDE * RANK_GROUP;
static_assert(MAX_STREAMED_OUTPUTS / LEAST_WIDEST_TILE + MAX_PARTS <= MAX_TILES_OF_BLOCK * MIN_MULTIPROCESSORS);

/** Four warps multiply; three have tiles, x and adapters copied. */
[[maybe_unused]] constexpr int MULTIPLIERS = 4, TILE_COPIES = 4, X_COPIES = 5, ADAPTER_COPIES = 6;
template <bool ADAPTERS> constexpr int THREADS_OF = 32 * (ADAPTERS ? 7 : 6);

/** Narrow tiles have small boxes; two of them a stage make up for the work around each. */
template <int COLUMNS> constexpr int BOXES_OF = COLUMNS <= 128 ? 2 : 1;

struct StreamedLinear {
  LinearArgs linear;
  StreamedLora lora;
  int tile, num_tiles;           /* rows of the weight, a multiple of 8; tiles in all */
  int beside;                    /* groups before each tile */
  OutputParts parts;             /* no tile crosses the border of one */
  int first_tile[MAX_PARTS + 1]; /* of a part */
  int x_rows, stages;
};

/** Outputs of one tile. */
struct Tile {
  int column, columns;
};

/** What a block does, in this order: its first tile with as many groups as fit beside it, the other groups, B of the tile, more tiles. */
template <int COLUMNS> struct Jobs {
  static constexpr int ALONE = COLUMNS / 8 < GROUPS_ALONE ? COLUMNS / 8 : GROUPS_ALONE;
  const StreamedLinear& op;

  __device__ explicit Jobs(const StreamedLinear& op) : op(op) {}
  __device__ int tiles() const {
    const int block = blockIdx.x, blocks = gridDim.x;
    return block < op.num_tiles ? (op.num_tiles - block + blocks - 1) / blocks : 0;
  }
  __device__ Tile tile(int i) const {
    const int index = blockIdx.x + i * gridDim.x;
    int part = 0;
    while (part + 1 < op.parts.count && op.first_tile[part + 1] <= index) part++;
    const int column = op.parts.begins[part] + (index - op.first_tile[part]) * op.tile;
    return {column, min(op.tile, op.parts.begins[part + 1] - column)};
  }
  __device__ int beside() const { return tiles() > 0 ? op.beside : 0; }
  __device__ int passes(int groups) const { return (max(0, groups - beside()) + ALONE - 1) / ALONE; }
};

#ifdef LORIKEET_HAS_WGMMA
/** Stages that are filled and emptied in turn. */
struct Ring {
  uint64_t full[MAX_STAGES], empty[MAX_STAGES];
};
/** Where in a ring a warp is. */
struct Place {
  int stage = 0;
  uint32_t parity = 0; /* of the stage's `full`; the other one for `empty`, which counts as free before anyone has waited */
  __device__ __forceinline__ void advance(int stages) {
    if (++stage == stages) stage = 0, parity ^= 1;
  }
};
/** Calls fetch(step, stage) for `count` stages, each once it is free. */
template <typename Fetch> __device__ __forceinline__ void fill(Ring& ring, int stages, Place& place, int count, Fetch fetch) {
#pragma unroll 1
  for (int step = 0; step < count; step++) {
    barrier_wait(&ring.empty[place.stage], place.parity ^ 1);
    fetch(step, place.stage);
    place.advance(stages);
  }
}
#endif

/**
 * Calls visit(pair of sums, its place) for what a thread has of its two rows in a tile: two neighbours in every eight outputs.
 * The code around it runs once a launch, out of a cold instruction cache, so it does as little for each pair as can be.
 *
 * @param out the first of both rows' places, for the first column of the sums
 * @param first columns from here on are the tile's, below `end`
 */
template <typename T, int N_TILES, typename Visit>
__device__ __forceinline__ void for_each_pair(float (&sums)[N_TILES][4], T* const (&out)[2], int first, int end, Visit visit) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (out[half] == nullptr) continue;
#pragma unroll
    for (int n = 0; n < N_TILES; n++)
      if (n * 8 < end && (n >= MAX_BESIDE || n * 8 >= first)) visit(sums[n][half * 2], sums[n][half * 2 + 1], out[half] + n * 4);
  }
}

template <int COLUMNS, bool ADAPTERS>
__global__ void __launch_bounds__(THREADS_OF<ADAPTERS>) linear_stream_kernel(const __grid_constant__ CUtensorMap weight_map, const __grid_constant__ CUtensorMap x_map,
                                                                            const __grid_constant__ StreamedLinear op) {
#ifdef LORIKEET_HAS_WGMMA
  constexpr int BOXES = BOXES_OF<COLUMNS>, BLOCK_BYTES = A_BLOCK * sizeof(bf16), ALONE = Jobs<COLUMNS>::ALONE, ROOM = BOXES * B_CHUNK_GROUPS;
  extern __shared__ uint8_t memory[];
  __shared__ Ring ring;
  __shared__ Group groups[ADAPTERS ? MAX_GROUPS : 1];
  __shared__ RankSteps rank_steps[ADAPTERS ? MAX_STAGES : 1];
  __shared__ uint64_t counted[ADAPTERS ? MAX_TILES_OF_BLOCK : 1]; /* when the next two are known, of each tile */
  __shared__ int b_stages[ADAPTERS ? MAX_TILES_OF_BLOCK : 1], num_groups;
  const LinearArgs& args = op.linear;
  const StreamedLora& lora = op.lora;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  /* Rows of x that do not exist are read from what lies behind: other stages, or the gap before the weights. */
  const int x_stage = BOXES * op.x_rows * BOX;
  constexpr int COLUMN_STAGE = BOXES * COLUMNS * BOX;
  bf16* const x_stages = reinterpret_cast<bf16*>((reinterpret_cast<uintptr_t>(memory) + 1023) / 1024 * 1024);
  bf16* const column_stages = x_stages + op.stages * x_stage + (MAX_SMALL_ROWS - op.x_rows) * BOX;
  const int steps = (args.k / BOX + BOXES - 1) / BOXES;
  const Jobs<COLUMNS> jobs(op);
  const int num_tiles = jobs.tiles();

  if (threadIdx.x == 0) {
    for (int i = 0; i < op.stages; i++) barrier_init(&ring.full[i], ADAPTERS ? 3 : 2), barrier_init(&ring.empty[i], MULTIPLIERS);
    if constexpr (ADAPTERS)
      for (int i = 0; i == 0 || i < num_tiles; i++) barrier_init(&counted[i], 32);
    barrier_init_fence();
  }
  __syncthreads();
  let_next_kernel_start();

  /* Adapters are looked for while the first tile is already on its way. */
  const auto passes_alone = [&] {
    barrier_wait(&counted[0], 0);
    return jobs.passes(num_groups);
  };
  const auto stages_of_b = [&](int i) {
    barrier_wait(&counted[i], 0);
    return b_stages[i];
  };

  const auto arrive = [&](int, int stage) { barrier_arrive(&ring.full[stage]); };

  if (warp == TILE_COPIES) {
    if (lane != 0) return;
    Place place;
#pragma unroll 1
    for (int i = 0; i < num_tiles || (ADAPTERS && i == 0); i++) {
      if (i < num_tiles) {
        const int block = jobs.tile(i).column / 8;
        fill(ring, op.stages, place, steps, [&](int step, int stage) {
          barrier_arrive_expecting(&ring.full[stage], BOXES * op.tile * BOX * static_cast<int>(sizeof(bf16)));
          /* Blocks of eight rows, each with all its boxes, so that one copy brings a group. */
          copy_blocks(column_stages + stage * COLUMN_STAGE + op.beside * BOXES * A_BLOCK, &weight_map, block, step * BOXES, &ring.full[stage], READ_ONCE);
        });
      }
      if constexpr (ADAPTERS) {
        const int count = (i == 0 ? passes_alone() * steps : 0) + (i < num_tiles ? stages_of_b(i) : 0);
        fill(ring, op.stages, place, count, arrive);
      }
    }
    return;
  }
  if (warp == X_COPIES) {
    wait_for_previous_kernels();
    if (lane != 0) return;
    Place place;
    const auto fetch_x = [&](int step, int stage) {
      barrier_arrive_expecting(&ring.full[stage], x_stage * static_cast<int>(sizeof(bf16)));
      copy_boxes(x_stages + stage * x_stage, &x_map, 0, step * BOXES, &ring.full[stage], READ_OFTEN);
    };
#pragma unroll 1
    for (int i = 0; i < num_tiles || (ADAPTERS && i == 0); i++) {
      if (i < num_tiles) fill(ring, op.stages, place, steps, fetch_x);
      if constexpr (ADAPTERS) {
#pragma unroll 1
        for (int passes = i == 0 ? passes_alone() : 0; passes > 0; passes--) fill(ring, op.stages, place, steps, fetch_x);
        if (i < num_tiles) fill(ring, op.stages, place, stages_of_b(i), arrive);
      }
    }
    return;
  }
  if constexpr (ADAPTERS) {
    if (warp == ADAPTER_COPIES) {
      Place place;
      const int mine = deal_groups(lora, a_steps(args.k), groups, min(op.num_tiles, static_cast<int>(gridDim.x)), op.beside);
      Pieces pieces;
#pragma unroll 1
      for (int i = 0; i == 0 || i < num_tiles; i++) {
        const bool has_tile = i < num_tiles;
        const Tile tile = has_tile ? jobs.tile(i) : Tile{0, 0};
        /* Groups beside the tile, then alone. What can be asked for at once is, before B is looked for. */
        int first = 0, count = i > 0 ? 0 : min(mine, has_tile ? op.beside : ALONE), left = has_tile || count > 0 ? steps : 0;
        bool known = false;
#pragma unroll 1
        while (left > 0 || !known) {
          const int now = known ? left : min(left, op.stages);
          fill(ring, op.stages, place, now, [&](int step, int stage) {
            if (lane == 0) barrier_arrive_expecting(&ring.full[stage], count * BOXES * BLOCK_BYTES);
            __syncwarp();
            if (lane < count)
              copy_bytes(column_stages + stage * COLUMN_STAGE + lane * BOXES * A_BLOCK, groups[first + lane].a + static_cast<int64_t>(steps - left + step) * BOXES * A_BLOCK,
                         BOXES * BLOCK_BYTES, &ring.full[stage], READ_ONCE);
          });
          left -= now;
          if (!known) {
            known = true;
            pieces.find(lora, tile.column);
            const int stages = has_tile ? pieces.for_each_stage(ROOM, [](const Piece&, const RowTile&, int, int, int, int) {}) : 0;
            if (lane == 0) b_stages[i] = stages, num_groups = mine;
            barrier_arrive(&counted[i]); /* every lane: each has dealt groups */
          }
          if (left == 0 && i == 0) first += count, count = min(ALONE, mine - first), left = count > 0 ? steps : 0;
        }
        if (!has_tile) break;
        const int octets = (tile.columns + 7) / 8;
        pieces.for_each_stage(ROOM, [&](const Piece& piece, const RowTile& run, int chunk, int groups, int most, int index) {
          fill(ring, op.stages, place, 1, [&](int, int stage) {
            const bool there = index >= 0;
            const int bytes = there ? octets * groups * B_BLOCK * static_cast<int>(sizeof(bf16)) : 0;
            const int each = (most + 1) / 2, count = __popc(__ballot_sync(~0u, there)) * each, offset = index * COLUMNS * most * RANK_GROUP;
            bf16* const to = column_stages + stage * COLUMN_STAGE + offset;
            RankSteps& list = rank_steps[stage];
            if (there)
              for (int step = 0; step < each; step++)
                list.steps[index * each + step] = {run.slot, offset + step * 2 * B_BLOCK, static_cast<int16_t>(run.row), static_cast<int16_t>(step * 2 < groups ? run.num_rows : 0),
                                                   static_cast<int8_t>(groups), static_cast<int8_t>(step), step * 2 + 1 < groups};
            if (lane == 0) list.count = count, list.chunk = chunk;
            const int total = static_cast<int>(__reduce_add_sync(~0u, static_cast<unsigned>(bytes)));
            __syncwarp();
            if (lane == 0) barrier_arrive_expecting(&ring.full[stage], total);
            __syncwarp();
            if (there) copy_bytes(to + op.beside * groups * B_BLOCK, piece.b + b_octet(piece.octet, chunk, piece.groups, piece.width), bytes, &ring.full[stage], READ_ONCE);
          });
        });
      }
      return;
    }
  }

  /*
   * A warp has two blocks of eight rows of the product. Up to 32 rows all four warps get one: the operand's blocks lie half a
   * block apart, so that every other one of the product is a block of x, and what lies between counts for nothing.
   */
  const bool is_spread = args.m <= MAX_SMALL_ROWS / 2;
  const int g = lane / 4, t = lane % 4, warp_rows = is_spread ? 8 : 16, x_stride = is_spread ? BLOCK_BYTES / 2 : BLOCK_BYTES;
  const int rows[2] = {warp * warp_rows + g, is_spread ? MAX_SMALL_ROWS : warp * warp_rows + 8 + g};
  int slots[2] = {-1, -1};
  uint32_t tag = 0;
  Piece own[2] = {};
  if constexpr (ADAPTERS) {
    tag = *lora.first_tag + lora.site;
#pragma unroll
    for (int half = 0; half < 2; half++)
      if (rows[half] < args.m) slots[half] = lora.row_slot[rows[half]];
  }
  const auto find_own = [&](int column) {
#pragma unroll
    for (int half = 0; half < 2; half++) own[half] = piece_of(lora, slots[half], column);
  };
  if (ADAPTERS && num_tiles > 0) find_own(jobs.tile(0).column);
  wait_for_previous_kernels();

  /* All of x with the first N_TILES octets of the stages. */
  Place place;
  const auto multiply = [&]<int N_TILES>(float (&sums)[N_TILES][4]) {
    int last = 0;
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
      barrier_wait(&ring.full[place.stage], place.parity);
      wgmma_begin();
#pragma unroll
      for (int j = 0; j < BOXES; j++) {
        const uint64_t a = operand_descriptor(x_stages + place.stage * x_stage + j * op.x_rows * BOX, x_stride);
        const uint64_t b = operand_descriptor(column_stages + place.stage * COLUMN_STAGE + j * A_BLOCK, BOXES * BLOCK_BYTES);
#pragma unroll
        for (int k = 0; k < BOX / 16; k++) wgmma_16<N_TILES>(sums, a + k * DESCRIPTOR_16_COLUMNS, b + k * DESCRIPTOR_16_COLUMNS);
      }
      wgmma_commit();
      /* The step before this one has been multiplied. */
      wgmma_wait<1>();
      if (step > 0 && lane == 0) barrier_arrive(&ring.empty[last]);
      last = place.stage;
      place.advance(op.stages);
    }
    wgmma_wait<0>();
    if (lane == 0) barrier_arrive(&ring.empty[last]);
  };
  const auto tell = [&](int group, float low, float high, int half) {
    const Group& from = groups[group];
    if (from.slot == slots[half]) tell_shrunk(lora, tag, rows[half], from.rank + t * 2, low * from.scale, high * from.scale);
  };
  const auto multiply_groups = [&](int first) {
    float sums[ALONE][4] = {};
    multiply(sums);
#pragma unroll
    for (int n = 0; n < ALONE; n++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        if (first + n < num_groups) tell(first + n, sums[n][half * 2], sums[n][half * 2 + 1], half);
  };

#pragma unroll 1
  for (int i = 0; i < num_tiles || (ADAPTERS && i == 0); i++) {
    const bool has_tile = i < num_tiles;
    const Tile tile = has_tile ? jobs.tile(i) : Tile{0, 0};
    /* What is added to is there when it is wanted, if there are registers for it. */
    constexpr bool ASKS_EARLY = COLUMNS <= 64;
    float sums[COLUMNS / 8][4] = {}, old[ASKS_EARLY ? COLUMNS / 8 : 1][4] = {};
    const int before = ADAPTERS ? op.beside * 8 : 0, end = before + tile.columns - t * 2;
    const auto places = [&]<typename T>(T* out, T* (&to)[2]) {
#pragma unroll
      for (int half = 0; half < 2; half++)
        to[half] = rows[half] < args.m ? out + (rows[half] * static_cast<int64_t>(args.out_stride) + tile.column + t * 2 - before) / 2 : nullptr;
    };
    float2* floats[2];
    places(static_cast<float2*>(args.out), floats);
    const auto load = [](float& low, float& high, const float2* from) { low = from->x, high = from->y; };
    if (ASKS_EARLY && args.accumulate) for_each_pair(old, floats, before, end, load);
    if (has_tile) multiply(sums);
    if constexpr (ADAPTERS) {
      if (i == 0) {
        barrier_wait(&counted[0], 0);
        const int beside = min(num_groups, jobs.beside());
#pragma unroll
        for (int n = 0; n < (MAX_BESIDE < COLUMNS / 8 ? MAX_BESIDE : COLUMNS / 8); n++)
#pragma unroll
          for (int half = 0; half < 2; half++)
            if (n < beside) tell(n, sums[n][half * 2], sums[n][half * 2 + 1], half);
#pragma unroll 1
        for (int first = beside; first < num_groups; first += ALONE) multiply_groups(first);
        if (!has_tile) return;
      } else {
        find_own(tile.column);
      }
      Shrunk shrunk;
#pragma unroll 1
      for (int s = 0, chunk = -1, stages = stages_of_b(i); s < stages; s++) {
        barrier_wait(&ring.full[place.stage], place.parity);
        const RankSteps& list = rank_steps[place.stage];
        if (list.chunk != chunk) {
          chunk = list.chunk;
          shrunk.hear(lora, tag, rows, {own[0].groups, own[1].groups}, {own[0].rank_offset, own[1].rank_offset}, chunk, t);
        }
        /* Those that some row of this warp has, two at a time. */
        const bf16* const first = column_stages + place.stage * COLUMN_STAGE;
        const RankStep mine = list.steps[lane % MAX_STEPS];
        uint32_t left = __ballot_sync(~0u, lane < list.count && mine.num_rows > 0 && mine.row < (warp + 1) * warp_rows && mine.row + mine.num_rows > warp * warp_rows);
#pragma unroll 1
        while (left != 0) {
          uint32_t a[2][4];
          const bf16* b[2];
          int next[2];
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const bool there = left != 0;
            const RankStep step = list.steps[there ? __ffs(left) - 1 : 0];
            left &= left - 1;
            shrunk.pick(a[i], step.step, there ? step.slot : -2, slots);
            b[i] = first + step.offset + (lane / 16 * step.groups + (step.is_double ? lane / 8 % 2 : 0)) * B_BLOCK + lane % 8 * RANK_GROUP;
            next[i] = 2 * step.groups * B_BLOCK;
          }
          expand(sums, a, b, next);
        }
        /* All lanes have read the stage. */
        __syncwarp();
        if (lane == 0) barrier_arrive(&ring.empty[place.stage]);
        place.advance(op.stages);
      }
    }
    if (args.out_type == OutType::f32) {
      if constexpr (ASKS_EARLY) {
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) sums[n][e] += old[n][e];
      } else if (args.accumulate) {
        for_each_pair(sums, floats, before, end, [](float& low, float& high, const float2* from) { low += from->x, high += from->y; });
      }
      for_each_pair(sums, floats, before, end, [](float low, float high, float2* to) { *to = make_float2(low, high); });
    } else {
      __nv_bfloat162* pairs[2];
      places(static_cast<__nv_bfloat162*>(args.out), pairs);
      for_each_pair(sums, pairs, before, end, [](float low, float high, __nv_bfloat162* to) { *to = __floats2bfloat162_rn(low, high); });
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

/** Cuts every part into tiles of so many outputs. */
void cut(StreamedLinear& op, int tile) {
  op.tile = tile;
  for (int i = 0; i < op.parts.count; i++) op.first_tile[i + 1] = op.first_tile[i] + (op.parts.begins[i + 1] - op.parts.begins[i] + tile - 1) / tile;
  op.num_tiles = op.first_tile[op.parts.count];
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

void linear_stream(const LinearArgs& args, const StreamedLora* lora, int num_multiprocessors, Queue queue) {
  /* A group beside every tile are, over all blocks, 22 adapters of rank 16 on three modules. */
  const int beside = lora == nullptr ? 0 : lora->num_tiles <= 8 ? 1 : lora->num_tiles <= 32 ? 2 : MAX_BESIDE;
  StreamedLinear op = {args, lora == nullptr ? StreamedLora{} : *lora, 0, 0, beside, {1, {0, args.n}}, {}, 0, 0};
  if (lora != nullptr) op.parts = lora->parts;
  /* The smallest tile of which there are no more than multiprocessors, or than twice as many, and so on. */
  for (int rounds = 1; op.num_tiles == 0; rounds++) {
    const int most = num_multiprocessors * rounds;
    int tile = ((args.n + most - 1) / most + 7) / 8 * 8;
    for (cut(op, tile); op.num_tiles > most; cut(op, tile)) tile += 8;
    if (tile + beside * RANK_GROUP > MAX_COLUMNS) op.num_tiles = 0;
  }
  if (lora == nullptr) launch_columns<false>(op, op.tile, std::min(op.num_tiles, num_multiprocessors), queue);
  else launch_columns<true>(op, op.tile + beside * RANK_GROUP, num_multiprocessors, queue);
}

}  // namespace lorikeet
