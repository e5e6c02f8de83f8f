/** Adapters on the host, laid out as the device will hold them, and the table through which kernels find them there. */
#pragma once
#include <stdint.h>

#include <utility>
#include <vector>

#include "../kernels/adapter_layout.h"
#include "../kernels/kernels.h"
#include "device.h"
#include "program.h"

namespace lorikeet {

/** Row-major numbers as they lie in a file. */
struct SourceMatrix {
  Dtype dtype;
  int rows, cols;
  const void* data;
};

/** `out[offset .. offset + width] += scale * B · (A · x)` at one site. */
struct SourceDelta {
  int site, offset, width, rank;
  float scale;
  SourceMatrix a; /* [rank, in width] */
  SourceMatrix b; /* [width, rank] */
  const float* bias = nullptr;      /* [width], before scaling; null for none */
  const float* magnitude = nullptr; /* [width], lengths of rows; null for none */
};

/**
 * Where every matrix of one adapter lies, on the host and on the device alike.
 *
 *   [A of site 0][B of its deltas]...[A of site 1]...      each on 1024 bytes, and inside as adapter_layout.h says
 *   [gains of a site][biases of it]...                     float32 for every output, of sites that have them
 */
class AdapterLayout {
 public:
  /**
   * @param deltas ordered by site
   * @throws Error `adapter_invalid` for more than MAX_DELTAS deltas at a site, two that change the same output, or one that
   *   begins or ends within a module
   */
  AdapterLayout(const std::vector<SourceDelta>& deltas, const std::vector<SiteSpec>& sites);

  size_t bytes() const { return bytes_; }
  int max_total_rank() const { return max_total_rank_; }
  /** Where gains and biases begin; `bytes()` where there are none. */
  size_t forms_at() const { return forms_at_; }
  /**
   * Converts every matrix to bfloat16 and puts it in its place; what lies between is zero.
   *
   * Gains are lengths of rows until `form_gains` has seen them.
   *
   * @param deltas those of the constructor
   * @throws Error `adapter_invalid` for a number that is not finite in bfloat16, or a bias or length that is not finite
   */
  void write(const std::vector<SourceDelta>& deltas, uint8_t* out) const;
  /** A slot's row of the site table once what was written lies at `device`. */
  std::vector<SiteRecord> records_at(const uint8_t* device) const;
  /** A slot's row of the table of forms. */
  std::vector<FormRecord> forms_at(uint8_t* device) const;
  /** Deltas whose rows have lengths: site, and index among the site's deltas. */
  const std::vector<std::pair<int, int>>& gained() const { return gained_; }

 private:
  struct Placed {
    int site;
    size_t a_at;
    int steps; /* of A */
    std::vector<size_t> b_at;
    SiteRecord record; /* with null pointers */
    size_t gain_at = 0, bias_at = 0; /* 0 for none */
  };
  std::vector<Placed> sites_;
  std::vector<std::pair<int, int>> gained_;
  std::vector<int> out_widths_;
  size_t bytes_ = 0, forms_at_ = 0;
  int num_sites_ = 0, max_total_rank_ = 0;
};

/** One adapter in page-locked memory. Immutable once made, but for gains, which the device finds when it first has the adapter. */
class AdapterImage {
 public:
  /** @throws Error `adapter_invalid` as AdapterLayout, or `out_of_memory` */
  AdapterImage(const std::vector<SourceDelta>& deltas, const std::vector<SiteSpec>& sites)
      : layout_(deltas, sites), memory_(layout_.bytes()) {
    layout_.write(deltas, memory_.as<uint8_t>());
  }

  size_t bytes() const { return memory_.bytes(); }
  const void* data() const { return memory_.as<void>(); }
  int max_total_rank() const { return layout_.max_total_rank(); }
  std::vector<SiteRecord> records_at(const uint8_t* device) const { return layout_.records_at(device); }

  bool has_forms() const { return layout_.forms_at() < bytes(); }
  size_t forms_at() const { return layout_.forms_at(); }
  std::vector<FormRecord> forms_at(uint8_t* device) const { return layout_.forms_at(device); }
  const std::vector<std::pair<int, int>>& gained() const { return layout_.gained(); }

  bool knows_gains = false;
  uint8_t* forms() { return memory_.as<uint8_t>() + layout_.forms_at(); }

 private:
  AdapterLayout layout_;
  PinnedMemory memory_;
};

}  // namespace lorikeet
