/** What kernels of rows share, those of few rows and those that go by tiles. */
#pragma once
#include "device.cuh"
#include "form_of.cuh"
#include "kernels.h"

namespace lorikeet {

__device__ __forceinline__ float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }

/** Weights of the norms of a row's heads; null where there are none. */
struct HeadNorms {
  const float *q, *k;
  __device__ HeadNorms(const RopeArgs& args, int row)
      : q(args.q_norm == nullptr ? nullptr : norm_weight(args.q_norm, args.forms, args.q_site, row)),
        k(args.k_norm == nullptr ? nullptr : norm_weight(args.k_norm, args.forms, args.k_site, row)) {}
};

}  // namespace lorikeet
