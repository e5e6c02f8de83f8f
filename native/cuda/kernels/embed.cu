/** The embedding: a row of the matrix for each token, the adapter's own where it has one, and what it adds. */
#include "../../step_layout.h"
#include "changed_rows.h"
#include "device.cuh"
#include "form_of.cuh"
#include "kernels.h"
#include "launch.cuh"

namespace lorikeet {
namespace {

constexpr int THREADS = 256;

/** Written down, or picked by the step before. */
__device__ __forceinline__ int token_of(const EmbedArgs& args, int row) {
  const int token = args.tokens[row];
  return token >= 0 ? token : args.results[~token * RESULT_WORDS + RESULT_TOKEN];
}

__global__ void embed_kernel(EmbedArgs args) {
  begin_behind_previous_kernels();
  const bf16* from = args.table + static_cast<int64_t>(token_of(args, blockIdx.x)) * args.table_stride;
  float* to = args.out + static_cast<int64_t>(blockIdx.x) * args.out_stride;
  for (int i = threadIdx.x; i < args.width; i += blockDim.x) to[i] = __bfloat162float(from[i]);
}

/** In steps with an adapter that changes the embedding. */
__global__ void embed_changed_kernel(EmbedArgs args, int steps) {
  begin_behind_previous_kernels();
  const int row = blockIdx.x, token = token_of(args, row);
  const bf16* from = args.table + static_cast<int64_t>(token) * args.table_stride;
  float* to = args.out + static_cast<int64_t>(row) * args.out_stride;
  const FormRecord* const form = form_of(args.forms, args.site, row);
  if (form == nullptr) {
    for (int i = threadIdx.x; i < args.width; i += blockDim.x) to[i] = __bfloat162float(from[i]);
    return;
  }
  if (const bf16* own = own_row(*form, token, args.table_stride)) from = own;
  const SiteRecord& site = args.sites[static_cast<int64_t>(args.forms.row_slot[row]) * args.forms.num_sites + args.site];
  /* An embedding is one module, so there is one delta at most. */
  const bool has_delta = site.num_deltas > 0;
  for (int i = threadIdx.x; i < args.width; i += blockDim.x) {
    float value = __bfloat162float(from[i]);
    if (has_delta) value += site.deltas[0].scale * embedded(site.a, steps, site.deltas[0], token, i);
    if (form->gain != nullptr) value *= form->gain[i];
    if (form->bias != nullptr) value += form->bias[i];
    to[i] = value;
  }
}

}  // namespace

void embed(const EmbedArgs& args, Queue queue) {
  if (args.forms.records == nullptr) launch(embed_kernel, dim3(args.rows), dim3(THREADS), 0, queue, args);
  else launch(embed_changed_kernel, dim3(args.rows), dim3(THREADS), 0, queue, args, a_steps(args.vocabulary));
}

}  // namespace lorikeet
