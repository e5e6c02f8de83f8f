/** Adapters on the host, laid out as the device will hold them, and the table through which kernels find them there. */
#pragma once
#include <stdint.h>

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
};

/**
 * Where every matrix of one adapter lies, on the host and on the device alike.
 *
 *   [A of site 0][B of its deltas]...[A of site 1]...      each on 1024 bytes, and inside as adapter_layout.h says
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
  /**
   * Converts every matrix to bfloat16 and puts it in its place; what lies between is zero.
   *
   * @param deltas those of the constructor
   * @throws Error `adapter_invalid` for a number that is not finite in bfloat16
   */
  void write(const std::vector<SourceDelta>& deltas, uint8_t* out) const;
  /** A slot's row of the site table once what was written lies at `device`. */
  std::vector<SiteRecord> records_at(const uint8_t* device) const;

 private:
  struct Placed {
    int site;
    size_t a_at;
    int steps; /* of A */
    std::vector<size_t> b_at;
    SiteRecord record; /* with null pointers */
  };
  std::vector<Placed> sites_;
  size_t bytes_ = 0;
  int num_sites_ = 0, max_total_rank_ = 0;
};

/** One adapter in page-locked memory. Immutable once made. */
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

 private:
  AdapterLayout layout_;
  PinnedMemory memory_;
};

}  // namespace lorikeet
