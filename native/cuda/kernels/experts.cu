/** What is done to the outputs of experts, number by number: forms of adapters, and the sum of a row's experts. */
#include "device.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int THREADS = 256;

/** Block (routed row, columns). */
__global__ void __launch_bounds__(THREADS) apply_expert_forms_kernel(ExpertFormArgs args) {
  begin_behind_previous_kernels();
  const int row = blockIdx.x, column = blockIdx.y * THREADS + threadIdx.x, slot = args.routed.slots[row];
  if (slot < 0 || column >= args.width) return;
  const FormRecord form = args.forms[static_cast<int64_t>(slot) * args.num_sites + args.site + args.routed.experts[row]];
  if (form.gain == nullptr && form.bias == nullptr) return;
  bf16* out = args.out + static_cast<int64_t>(row) * args.out_stride + column;
  float value = __bfloat162float(*out);
  if (form.gain != nullptr) value *= form.gain[column];
  if (form.bias != nullptr) value += form.bias[column];
  *out = __float2bfloat16(value);
}

/** Block (row, columns). */
__global__ void __launch_bounds__(THREADS) combine_kernel(CombineArgs args) {
  begin_behind_previous_kernels();
  const int row = blockIdx.x, column = blockIdx.y * THREADS + threadIdx.x, top_k = args.routed.top_k;
  const int32_t* places = args.routed.places + static_cast<int64_t>(row) * top_k;
  if (column >= args.width || places[0] < 0) return;
  const float* shares = args.routes + static_cast<int64_t>(row) * args.routes_stride + top_k;
  float sum = 0.0f;
  for (int j = 0; j < top_k; j++) sum += shares[j] * __bfloat162float(args.x[static_cast<int64_t>(places[j]) * args.x_stride + column]);
  args.out[static_cast<int64_t>(row) * args.out_stride + column] += sum;
}

dim3 grid_of(int rows, int width) { return dim3(rows, (width + THREADS - 1) / THREADS); }

}  // namespace

void apply_expert_forms(const ExpertFormArgs& args, Queue queue) {
  launch(apply_expert_forms_kernel, grid_of(args.rows * args.routed.top_k, args.width), dim3(THREADS), 0, queue, args);
}

void combine(const CombineArgs& args, Queue queue) { launch(combine_kernel, grid_of(args.rows, args.width), dim3(THREADS), 0, queue, args); }

}  // namespace lorikeet
