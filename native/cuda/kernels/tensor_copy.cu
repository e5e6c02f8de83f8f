#include <cudaTypedefs.h>

#include "tensor_copy.cuh"

namespace lorikeet {
namespace {

PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const PFN_cuTensorMapEncodeTiled_v12000 found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result) != cudaSuccess) cudaGetLastError();
    return result == cudaDriverEntryPointSuccess ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function) : nullptr;
  }();
  return found;
}

template <int RANK> CUtensorMap encode(const bf16* data, const cuuint64_t (&sizes)[RANK], const cuuint64_t (&strides)[RANK - 1], const cuuint32_t (&box)[RANK]) {
  CUtensorMap map = {};
  cuuint32_t element_strides[RANK];
  for (cuuint32_t& each : element_strides) each = 1;
  /* A map that is refused stays empty, and the kernel that gets it fails. */
  encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, RANK, const_cast<bf16*>(data), sizes, strides, box, element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE,
            CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return map;
}

}  // namespace

bool tensor_copies_work() { return encoder() != nullptr; }

CUtensorMap box_map(const bf16* data, int rows, int columns, int stride, int box_rows, int boxes) {
  const cuuint64_t sizes[] = {BOX_COLUMNS, static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(columns / BOX_COLUMNS)};
  const cuuint64_t strides[] = {stride * sizeof(bf16), BOX_COLUMNS * sizeof(bf16)};
  const cuuint32_t box[] = {BOX_COLUMNS, static_cast<cuuint32_t>(box_rows), static_cast<cuuint32_t>(boxes)};
  return encode(data, sizes, strides, box);
}

CUtensorMap block_map(const bf16* data, int rows, int columns, int stride, int blocks, int boxes) {
  const cuuint64_t sizes[] = {BOX_COLUMNS, 8, static_cast<cuuint64_t>(columns / BOX_COLUMNS), static_cast<cuuint64_t>((rows + 7) / 8)};
  const cuuint64_t strides[] = {stride * sizeof(bf16), BOX_COLUMNS * sizeof(bf16), 8 * stride * sizeof(bf16)};
  const cuuint32_t box[] = {BOX_COLUMNS, 8, static_cast<cuuint32_t>(boxes), static_cast<cuuint32_t>(blocks)};
  return encode(data, sizes, strides, box);
}

}  // namespace lorikeet
