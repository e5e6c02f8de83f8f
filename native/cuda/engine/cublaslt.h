/**
 * cuBLASLt, found at run time: the library is half a gigabyte and not everywhere, so nothing links it.
 *
 * The few declarations are written by hand from the library's documented ABI. Only functions that create opaque
 * objects on the library's own heap are used, since the sizes of its structures change between versions; the two
 * structures passed by value have not changed since version 11.
 */
#pragma once
#include <cuda_runtime.h>
#include <library_types.h>
#include <stdint.h>

#include <memory>
#include <string>

namespace lorikeet::cublaslt {

using Handle = struct HandleTag*;
using MatmulDesc = struct MatmulDescTag*;
using Layout = struct LayoutTag*;
using Preference = struct PreferenceTag*;
using Status = int; /* 0 is success */

struct Algorithm {
  uint64_t data[8];
};
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(HeuristicResult) == 96);

constexpr int COMPUTE_32F = 68;
constexpr int OPERATION_T = 1;
constexpr int DESC_TRANSA = 3, DESC_SM_COUNT_TARGET = 15;
constexpr int PREFERENCE_MAX_WORKSPACE_BYTES = 1;

struct Functions {
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  size_t (*get_version)();
  Status (*desc_create)(MatmulDesc*, int compute_type, int scale_type);
  Status (*desc_set_attribute)(MatmulDesc, int attribute, const void* value, size_t bytes);
  Status (*desc_destroy)(MatmulDesc);
  Status (*layout_create)(Layout*, int type, uint64_t rows, uint64_t cols, int64_t stride);
  Status (*layout_destroy)(Layout);
  Status (*preference_create)(Preference*);
  Status (*preference_set_attribute)(Preference, int attribute, const void* value, size_t bytes);
  Status (*preference_destroy)(Preference);
  Status (*get_heuristic)(Handle, MatmulDesc, Layout a, Layout b, Layout c, Layout d, Preference, int wanted, HeuristicResult*, int* found);
  Status (*matmul)(Handle, MatmulDesc, const void* alpha, const void* a, Layout, const void* b, Layout, const void* beta, const void* c, Layout,
                   void* d, Layout, const Algorithm*, void* workspace, size_t workspace_bytes, cudaStream_t);
};

/** The loaded library, or the reason why there is none. */
struct Library {
  bool loaded = false;
  std::string reason; /* one sentence when not loaded */
  std::string path;
  size_t version = 0;
  Functions functions = {};
};

/**
 * Tries the usual names and places, once per process for each `override_path`.
 *
 * @param override_path the only candidate when not empty; "none" loads nothing
 */
const Library& load(const std::string& override_path);

}  // namespace lorikeet::cublaslt
