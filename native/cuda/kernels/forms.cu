/** What adapters do to outputs beyond plain LoRA: gains and biases, and the lengths of rows and columns that gains come from. */
#include "changed_rows.h"
#include "device.cuh"
#include "form_of.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;

__device__ __forceinline__ float number(float value) { return value; }
__device__ __forceinline__ float number(bf16 value) { return __bfloat162float(value); }
__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(bf16* to, float value) { *to = __float2bfloat16(value); }

/** Block (columns, row). */
template <typename Out> __global__ void apply_forms_kernel(FormArgs args) {
  begin_behind_previous_kernels();
  const int row = blockIdx.y, column = blockIdx.x * THREADS + threadIdx.x;
  const FormRecord* const form = form_of(args.forms, args.site, row);
  if (column >= args.width || (form == nullptr && args.product == nullptr)) return;
  const int64_t at = static_cast<int64_t>(row) * args.stride + column;
  Out* const out = static_cast<Out*>(args.out) + at;
  float value = args.product != nullptr ? args.product[at] : number(*out);
  if (form != nullptr) {
    if (args.delta != nullptr) value += __bfloat162float(args.delta[at]);
    if (form->gain != nullptr) value *= form->gain[column];
    if (form->bias != nullptr) value += form->bias[column];
    if (form->shift != nullptr) value += form->shift[column];
  }
  store(out, args.product != nullptr ? number(*out) + value : value);
}

/** `squares` is |row|² of an output of the delta, or |column|². */
__device__ __forceinline__ void find_gain(const GainArgs& args, int output, float squares) {
  const float length = sqrtf(squares);
  const int at = args.delta.offset + output;
  const float gain = args.gain[at] / length;
  if (!(length > 0.0f) || !isfinite(gain)) atomicMin(args.bad_output, static_cast<uint32_t>(at));
  args.gain[at] = gain;
  if (args.bias != nullptr) args.bias[at] *= gain;
}

/** A warp for each output. */
__global__ void row_gains_kernel(GainArgs args) {
  const int output = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (output >= args.delta.width) return;
  const float squares = warp_sum(changed_squares(args, output, lane, 32));
  if (lane == 0) find_gain(args, output, squares);
}

/** A lane for each output, so that a row's numbers are neighbours; warps share the tokens. */
__global__ void column_gains_kernel(GainArgs args) {
  __shared__ float parts[WARPS][32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, output = blockIdx.x * 32 + lane;
  parts[warp][lane] = output < args.delta.width ? changed_column_squares(args, output, warp, WARPS) : 0.0f;
  __syncthreads();
  if (warp != 0 || output >= args.delta.width) return;
  float squares = 0.0f;
  for (int other = 0; other < WARPS; other++) squares += parts[other][lane];
  find_gain(args, output, squares);
}

}  // namespace

void apply_forms(const FormArgs& args, Queue queue) {
  const dim3 grid((args.width + THREADS - 1) / THREADS, args.rows);
  launch(args.out_type == OutType::f32 ? apply_forms_kernel<float> : apply_forms_kernel<bf16>, grid, dim3(THREADS), 0, queue, args);
}

void form_gains(const GainArgs& args, cudaStream_t stream) {
  const int width = args.delta.width;
  if (args.num_tokens > 0) column_gains_kernel<<<(width + 31) / 32, THREADS, 0, stream>>>(args);
  else row_gains_kernel<<<(width + WARPS - 1) / WARPS, THREADS, 0, stream>>>(args);
}

}  // namespace lorikeet
