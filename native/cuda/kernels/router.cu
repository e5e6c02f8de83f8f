/**
 * Which experts a row is given: the router's product and its adapters in float32, the choice, and rows sorted by expert.
 *
 * Every sum is over the same lanes in the same order whatever the number of rows, and places follow from choices alone, so
 * that nothing here depends on the batch.
 */
#include "adapter_layout.h"
#include "device.cuh"
#include "form_of.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int WARPS = 4, THREADS = WARPS * 32;
/** Numbers that a lane reads at once. */
constexpr int VECTOR = 4;

__device__ __forceinline__ float4 four(const bf16* at) {
  const uint2 bits = *reinterpret_cast<const uint2*>(at);
  const float2 low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&bits.x)), high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&bits.y));
  return make_float4(low.x, low.y, high.x, high.y);
}

__device__ __forceinline__ void add_products(float& sum, const float4& a, const float4& b) {
  sum += a.x * b.x;
  sum += a.y * b.y;
  sum += a.z * b.z;
  sum += a.w * b.w;
}

/** Rows of a matrix in float32, and of x; both `stride` wide. */
struct ExactProduct {
  const float* weight;
  int n;
  const bf16* x;
  int m, stride;
};

/** OUTPUTS rows of the matrix by ROWS of x, by a warp; `store(output, row, sum)` is called for those that there are, by one lane. */
template <int OUTPUTS, int ROWS, typename Store> __device__ __forceinline__ void multiply_exact(const ExactProduct& product, int first_output, int first_row, Store store) {
  const int lane = threadIdx.x % 32;
  float sums[OUTPUTS][ROWS];
#pragma unroll
  for (int o = 0; o < OUTPUTS; o++)
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[o][r] = 0.0f;
  for (int k = lane * VECTOR; k < product.stride; k += 32 * VECTOR) {
    float4 weights[OUTPUTS];
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) weights[o] = *reinterpret_cast<const float4*>(product.weight + static_cast<int64_t>(min(first_output + o, product.n - 1)) * product.stride + k);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const float4 x = four(product.x + static_cast<int64_t>(min(first_row + r, product.m - 1)) * product.stride + k);
#pragma unroll
      for (int o = 0; o < OUTPUTS; o++) add_products(sums[o][r], weights[o], x);
    }
  }
#pragma unroll
  for (int o = 0; o < OUTPUTS; o++)
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const float sum = warp_sum(sums[o][r]);
      if (lane == 0 && first_output + o < product.n && first_row + r < product.m) store(first_output + o, first_row + r, sum);
    }
}

/** Block (outputs, rows). */
template <int OUTPUTS, int ROWS> __global__ void __launch_bounds__(THREADS) linear_exact_kernel(ExactLinearArgs args) {
  begin_behind_previous_kernels();
  const int first_output = (blockIdx.x * WARPS + threadIdx.x / 32) * OUTPUTS;
  if (first_output >= args.n) return;
  multiply_exact<OUTPUTS, ROWS>({args.weight, args.n, args.x, args.m, args.x_stride}, first_output, blockIdx.y * ROWS,
                                [&](int output, int row, float sum) { args.out[static_cast<int64_t>(row) * args.out_stride + output] = sum; });
}

constexpr int OWN_ROWS_AT_ONCE = 8;

/** Block (own rows, tile). */
__global__ void __launch_bounds__(THREADS) own_exact_rows_kernel(OwnExactRowsArgs args) {
  begin_behind_previous_kernels();
  const RowTile tile = args.tiles[blockIdx.y];
  if (tile.num_rows == 0 || tile.slot < 0) return;
  const FormRecord form = *form_of(args.forms, args.site, tile.row);
  const int first = blockIdx.x * WARPS + threadIdx.x / 32;
  if (first >= form.num_rows) return;
  const ExactProduct product = {form.exact_rows, form.num_rows, args.x + static_cast<int64_t>(tile.row) * args.x_stride, tile.num_rows, args.x_stride};
  for (int first_row = 0; first_row < tile.num_rows; first_row += OWN_ROWS_AT_ONCE)
    multiply_exact<1, OWN_ROWS_AT_ONCE>(product, first, first_row, [&](int own, int row, float sum) { args.out[static_cast<int64_t>(tile.row + row) * args.out_stride + form.row_ids[own]] = sum; });
}

/** Block (row). A warp takes a rank at a time, then a thread an output. */
__global__ void __launch_bounds__(THREADS) lora_exact_kernel(ExactLoraArgs args) {
  extern __shared__ float shrunk[];
  begin_behind_previous_kernels();
  const int row = blockIdx.x, slot = args.row_slot[row];
  if (slot < 0) return;
  const int64_t record = static_cast<int64_t>(slot) * args.num_sites + args.site;
  const SiteRecord& site = args.sites[record];
  const FormRecord form = args.forms[record];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, steps = a_steps(args.x_stride);
  const bf16* x = args.x + static_cast<int64_t>(row) * args.x_stride;
  for (int rank = warp; rank < site.total_rank; rank += WARPS) {
    float sum = 0.0f;
    for (int k = lane * VECTOR; k < args.x_stride; k += 32 * VECTOR) add_products(sum, four(site.a + a_index(rank, k, steps)), four(x + k));
    sum = warp_sum(sum);
    if (lane == 0) shrunk[rank] = sum;
  }
  __syncthreads();
  for (int output = threadIdx.x; output < args.n; output += THREADS) {
    float* out = args.out + static_cast<int64_t>(row) * args.out_stride + output;
    float value = *out;
    for (int d = 0; d < site.num_deltas; d++) {
      const DeltaRecord& delta = site.deltas[d];
      const int within = output - delta.offset;
      if (within < 0 || within >= delta.width) continue;
      float sum = 0.0f;
      for (int r = 0; r < delta.rank; r++) sum += __bfloat162float(delta.b[b_index(within, r, delta.rank, delta.width)]) * shrunk[delta.rank_offset + r];
      value += delta.scale * sum;
    }
    if (form.gain != nullptr) value *= form.gain[output];
    if (form.bias != nullptr) value += form.bias[output];
    *out = value;
  }
}

/* ---- the choice ------------------------------------------------------------------------------------------------ */

constexpr int EXPERTS_PER_LANE = MAX_EXPERTS / 32;
/** Number of an expert that there is not. */
constexpr int NONE = MAX_EXPERTS;

struct Candidate {
  float logit;
  int expert;
};

/** Of two the one with the larger logit, the lower number where they are equal; a NaN counts as the least. */
__device__ __forceinline__ Candidate better(Candidate one, Candidate other) {
  const bool other_is = other.logit > one.logit || (other.logit == one.logit && other.expert < one.expert);
  return other_is ? other : one;
}

/** A warp gives one row its experts. */
__device__ __forceinline__ void choose(const RouteArgs& args, int row, int lane) {
  const int experts = args.routed.num_experts, top_k = args.routed.top_k;
  int32_t* choices = args.routed.choices + static_cast<int64_t>(row) * top_k;
  if (args.kv_slots[row] < 0) {
    for (int j = lane; j < top_k; j += 32) choices[j] = args.routed.places[static_cast<int64_t>(row) * top_k + j] = -1;
    return;
  }
  const float* logits = args.logits + static_cast<int64_t>(row) * args.logits_stride;
  float* routes = args.routes + static_cast<int64_t>(row) * args.routes_stride;
  uint32_t taken = 0;
  float largest = 0.0f, chosen = 0.0f;
  for (int j = 0; j < top_k; j++) {
    Candidate best = {-INFINITY, NONE};
    for (int i = 0, expert = lane; expert < experts; i++, expert += 32) {
      const float logit = logits[expert];
      if (!(taken >> i & 1)) best = better(best, {isnan(logit) ? -INFINITY : logit, expert});
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) best = better(best, {__shfl_xor_sync(~0u, best.logit, offset), __shfl_xor_sync(~0u, best.expert, offset)});
    if (best.expert % 32 == lane) taken |= 1u << best.expert / 32;
    if (j == 0) largest = best.logit;
    const float exponential = expf(best.logit - largest);
    chosen += exponential;
    if (lane == 0) {
      choices[j] = best.expert;
      routes[j] = static_cast<float>(best.expert);
      routes[top_k + j] = exponential;
    }
  }
  /* A logit that is not finite may hide behind the exponential: its row must not look like one that is. */
  float sum = 0.0f, poison = 0.0f;
  for (int expert = lane; expert < experts; expert += 32) {
    sum += expf(logits[expert] - largest);
    poison += logits[expert] * 0.0f;
  }
  sum = warp_sum(sum);
  poison = warp_sum(poison);
  __syncwarp();
  for (int j = lane; j < top_k; j += 32) routes[top_k + j] /= (args.normalize ? chosen : sum) + poison;
}

/** A warp finds the rows of one expert; that behind the last one ends the lists. */
__device__ __forceinline__ void group(const RouteArgs& args, int expert, int lane) {
  const Routed& routed = args.routed;
  const int count = args.rows * routed.top_k;
  int before = 0, own = 0;
  for (int i = lane; i < count; i += 32) {
    const int choice = routed.choices[i];
    before += choice >= 0 && choice < expert;
    own += choice == expert;
  }
  const int begin = __reduce_add_sync(~0u, before), end = begin + __reduce_add_sync(~0u, own);
  if (lane == 0) routed.starts[expert] = begin;
  if (expert == routed.num_experts) {
    for (int i = begin + lane; i < count; i += 32) {
      routed.slots[i] = -1;
      routed.tiles[i] = {-1, i, 0, 0};
    }
    return;
  }
  for (int base = 0, next = begin; next < end; base += 32) {
    const int i = base + lane;
    const bool is_own = i < count && routed.choices[i] == expert;
    const uint32_t all = __ballot_sync(~0u, is_own);
    if (is_own) {
      const int place = next + __popc(all & ((1u << lane) - 1)), row = i / routed.top_k;
      routed.places[i] = place;
      routed.sources[place] = row;
      routed.experts[place] = expert;
      routed.slots[place] = args.row_slot[row];
    }
    next += __popc(all);
  }
  if (!args.has_adapters) return;
  __syncwarp();
  /* A run of rows with one slot is cut where its place is a multiple of a tile's rows, so that each row knows by itself. */
  for (int place = begin + lane; place < end; place += 32) {
    const int slot = routed.slots[place], last = min(end, (place / SMALL_TILE_ROWS + 1) * SMALL_TILE_ROWS);
    int rows = 0;
    if (slot >= 0 && (place == begin || place % SMALL_TILE_ROWS == 0 || routed.slots[place - 1] != slot))
      for (rows = 1; place + rows < last && routed.slots[place + rows] == slot;) rows++;
    routed.tiles[place] = {slot, place, rows, expert};
  }
}

constexpr int ROUTE_WARPS = 32, ROUTE_THREADS = ROUTE_WARPS * 32;

/** One block for the few rows of a decode step, where a second kernel would cost more. */
__global__ void __launch_bounds__(ROUTE_THREADS) route_kernel(RouteArgs args) {
  begin_behind_previous_kernels();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int row = warp; row < args.rows; row += ROUTE_WARPS) choose(args, row, lane);
  __syncthreads();
  for (int expert = warp; expert <= args.routed.num_experts; expert += ROUTE_WARPS) group(args, expert, lane);
}

__global__ void __launch_bounds__(THREADS) choose_kernel(RouteArgs args) {
  begin_behind_previous_kernels();
  const int row = blockIdx.x * WARPS + threadIdx.x / 32;
  if (row < args.rows) choose(args, row, threadIdx.x % 32);
}

__global__ void __launch_bounds__(THREADS) group_kernel(RouteArgs args) {
  begin_behind_previous_kernels();
  const int expert = blockIdx.x * WARPS + threadIdx.x / 32;
  if (expert <= args.routed.num_experts) group(args, expert, threadIdx.x % 32);
}

template <int OUTPUTS, int ROWS> void launch_exact(const ExactLinearArgs& args, Queue queue) {
  constexpr int outputs = WARPS * OUTPUTS;
  launch(linear_exact_kernel<OUTPUTS, ROWS>, dim3((args.n + outputs - 1) / outputs, (args.m + ROWS - 1) / ROWS), dim3(THREADS), 0, queue, args);
}

int blocks_of(int warps) { return (warps + WARPS - 1) / WARPS; }

}  // namespace

void linear_exact(const ExactLinearArgs& args, Queue queue) {
  /* Many rows share what a warp has read; few need all warps that there are. */
  if (args.m == 1) launch_exact<1, 1>(args, queue);
  else if (args.m <= 64) launch_exact<1, 8>(args, queue);
  else launch_exact<4, 8>(args, queue);
}

void own_exact_rows(const OwnExactRowsArgs& args, Queue queue) {
  launch(own_exact_rows_kernel, dim3(blocks_of(args.n), args.num_tiles), dim3(THREADS), 0, queue, args);
}

void lora_exact(const ExactLoraArgs& args, Queue queue) {
  static_assert(MAX_RANK_SMALL_TILES * sizeof(float) <= 48 << 10, "all ranks fit without asking");
  launch(lora_exact_kernel, dim3(args.rows), dim3(THREADS), static_cast<size_t>(args.max_rank) * sizeof(float), queue, args);
}

void route(const RouteArgs& args, Queue queue) {
  static_assert(EXPERTS_PER_LANE == 32, "a lane has a bit for each of its experts");
  constexpr int FEW_ROWS = 64;
  if (args.rows <= FEW_ROWS) return launch(route_kernel, dim3(1), dim3(ROUTE_THREADS), 0, queue, args);
  launch(choose_kernel, dim3(blocks_of(args.rows)), dim3(THREADS), 0, queue, args);
  launch(group_kernel, dim3(blocks_of(args.routed.num_experts + 1)), dim3(THREADS), 0, queue, args);
}

}  // namespace lorikeet
