/** What adapters do beyond plain LoRA: gains and biases of outputs, and the lengths of rows that gains come from. */
#include "changed_rows.h"
#include "device.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

/** Block (columns, row). */
__global__ void apply_forms_kernel(FormArgs args) {
  begin_behind_previous_kernels();
  const int row = blockIdx.y, column = blockIdx.x * THREADS + threadIdx.x, slot = args.row_slot[row];
  if (column >= args.width || (slot < 0 && args.product == nullptr)) return;
  const int64_t at = static_cast<int64_t>(row) * args.stride + column;
  float value = args.product != nullptr ? args.product[at] : __bfloat162float(static_cast<const bf16*>(args.out)[at]);
  if (slot >= 0) {
    const FormRecord form = args.forms[static_cast<int64_t>(slot) * args.num_sites + args.site];
    if (args.delta != nullptr) value += __bfloat162float(args.delta[at]);
    if (form.gain != nullptr) value *= form.gain[column];
    if (form.bias != nullptr) value += form.bias[column];
  }
  if (args.product != nullptr) static_cast<float*>(args.out)[at] += value;
  else static_cast<bf16*>(args.out)[at] = __float2bfloat16(value);
}

/** A warp for each output. */
__global__ void form_gains_kernel(GainArgs args) {
  const int output = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (output >= args.delta.width) return;
  const float length = sqrtf(warp_sum(changed_squares(args, output, lane, 32)));
  if (lane != 0) return;
  const int at = args.delta.offset + output;
  const float gain = args.gain[at] / length;
  if (!(length > 0.0f) || !isfinite(gain)) atomicMin(args.bad_output, static_cast<uint32_t>(at));
  args.gain[at] = gain;
  if (args.bias != nullptr) args.bias[at] *= gain;
}

}  // namespace

void apply_forms(const FormArgs& args, Queue queue) {
  launch(apply_forms_kernel, dim3((args.width + THREADS - 1) / THREADS, args.rows), dim3(THREADS), 0, queue, args);
}

void form_gains(const GainArgs& args, cudaStream_t stream) {
  form_gains_kernel<<<(args.delta.width + WARPS - 1) / WARPS, THREADS, 0, stream>>>(args);
}

}  // namespace lorikeet
