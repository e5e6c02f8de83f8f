/** Adapters on the host, laid out as the device will hold them, and the table through which kernels find them there. */
#pragma once
#include <stdint.h>

#include <vector>

#include "../kernels/kernels.h"
#include "device.h"

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
 * One adapter in page-locked memory. Immutable once made.
 *
 *   [A of site 0][B of its deltas]...[A of site 1]...      each on 256 bytes
 */
class AdapterImage {
 public:
  /**
   * Converts every matrix to bfloat16 and stacks them per site.
   *
   * @param deltas ordered by site
   * @throws Error `adapter_invalid` for a number that is not finite, or more than MAX_DELTAS deltas at a site
   */
  AdapterImage(const std::vector<SourceDelta>& deltas, const std::vector<int>& site_in_widths);

  size_t bytes() const { return memory_.bytes(); }
  const void* data() const { return memory_.as<void>(); }
  int max_total_rank() const { return max_total_rank_; }
  /** The slot's row of the site table once the image lies at `device`. */
  std::vector<SiteRecord> records_at(const uint8_t* device) const;

 private:
  struct Placed {
    int site;
    size_t a_at;
    std::vector<size_t> b_at;
    SiteRecord record; /* with null pointers */
  };
  PinnedMemory memory_;
  std::vector<Placed> sites_;
  int num_sites_ = 0, max_total_rank_ = 0;
};

}  // namespace lorikeet
