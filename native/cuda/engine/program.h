/** What the engine is opened with: sizes, and the forward program lowered to launches over numbered buffers and weights. */
#pragma once
#include <stdint.h>

#include <string>
#include <vector>

#include "../layout.h"

namespace lorikeet {

struct BufferSpec {
  int width;
  int rows; /* BUFFER_ROWS: one per row of the step, per sampled row, or per row and expert that it was given */
  bool is_float; /* float32 instead of bfloat16 */
};

struct WeightSpec {
  int rows, cols; /* of each matrix */
  int kind; /* WEIGHT_KIND: bfloat16 or float32 [rows, aligned cols], or float32 [rows] */
  int num_experts = 1; /* matrices behind each other */

  int64_t all_rows() const { return static_cast<int64_t>(rows) * num_experts; }
};

struct SiteSpec {
  int in_width;
  /** Where outputs of its modules begin and end, ascending: 0, ..., all outputs. */
  std::vector<int> borders;
  int kind = SITE_KIND_MATRIX;
  int expert = 0; /* whose matrix of the weight it is */
};

/** LAUNCH record: see ../layout.h. */
struct LaunchSpec {
  int32_t words[LAUNCH_WORDS];
  int32_t operator[](int field) const { return words[field]; }
};

struct EngineOptions {
  int device = 0;
  std::string cublaslt_path;
  int max_rows = 0, max_sequences = 0, num_slots = 0;
  /** Of the pool that KV pages and adapters lie in; an extent holds a page, of which there are `num_pages` at once at most. */
  int num_extents = 0, num_pages = 0;
  size_t extent_bytes = 0;
  int num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, rotary_dim = 0, vocabulary = 0, max_context = 0;
  float score_scale = 0.0f;
  int num_experts = 0, top_k = 0; /* 0 without experts */
  int longest_window = 0; /* positions that some layer sees at most; 0 where one sees all */
  std::vector<BufferSpec> buffers;
  std::vector<WeightSpec> weights;
  std::vector<SiteSpec> sites;
  std::vector<LaunchSpec> launches;
};

}  // namespace lorikeet
