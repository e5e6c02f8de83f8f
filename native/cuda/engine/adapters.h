/** Adapters on the host, laid out as the device will hold them, and the table through which kernels find them there. */
#pragma once
#include <stdint.h>

#include <optional>
#include <utility>
#include <vector>

#include "../kernels/adapter_layout.h"
#include "../kernels/kernels.h"
#include "device.h"
#include "program.h"
#include "replacements.h"

namespace lorikeet {

/** `out[offset .. offset + width] += scale * B · (A · x)` at one site. */
struct SourceDelta {
  int site, offset, width, rank;
  float scale;
  SourceMatrix a; /* [rank, in width] */
  SourceMatrix b; /* [width, rank] */
  const float* bias = nullptr;      /* [width], before scaling; null for none */
  const float* magnitude = nullptr; /* [width], lengths of rows; null for none */
};

/** What a step launches more for an adapter than for plain LoRA; a set of these. */
enum Form : uint32_t {
  FORM_OUTPUTS = 1,      /* gains and biases of layers' outputs */
  FORM_ROWS = 2,         /* own rows of layers' matrices that all rows share */
  FORM_EMBEDDING = 4,    /* anything at the embedding */
  FORM_HEAD = 8,         /* anything at the head */
  FORM_NORMS = 16,       /* own norms */
  FORM_EXPERT_ROWS = 32, /* own rows of routers' and experts' matrices */
};

/**
 * Where everything of one adapter lies, on the host and on the device alike.
 *
 *   [A of site 0][B of its deltas]...[A of site 1]...      each on 1024 bytes, and inside as adapter_layout.h says
 *   [own rows of a site][their numbers]...                 bfloat16, of a router float32, with the base's stride, ascending
 *   [gains of a site][biases][shifts][norm]...             float32 for every output, of sites that have them
 */
class AdapterLayout {
 public:
  /**
   * @param deltas ordered by site
   * @throws Error `adapter_invalid` for more than MAX_DELTAS deltas at a site, two that change the same output, one that
   *   begins or ends within a module, or rows that the site does not have
   */
  AdapterLayout(const std::vector<SourceDelta>& deltas, const std::vector<SiteSpec>& sites, const std::vector<SourceReplacement>& replacements = {});

  size_t bytes() const { return bytes_; }
  /** At one linear operation. */
  int max_total_rank() const { return max_total_rank_; }
  /** Where gains and what follows begin; `bytes()` where there are none. */
  size_t forms_at() const { return forms_at_; }
  /** A set of `Form`. */
  uint32_t forms() const { return forms_; }
  /** What of FORM_OUTPUTS, FORM_ROWS and FORM_EXPERT_ROWS each site has, the head too. */
  const std::vector<uint8_t>& site_forms() const { return site_forms_; }
  /**
   * Converts every matrix to bfloat16, or own rows of a router to float32, and puts it in its place; what lies between is zero.
   *
   * Gains are lengths until `form_gains` has seen them.
   *
   * @param deltas those of the constructor, and its replacements
   * @throws Error `adapter_invalid` for a number that is not finite in bfloat16, or one of a vector that is not finite
   */
  void write(const std::vector<SourceDelta>& deltas, uint8_t* out, const std::vector<SourceReplacement>& replacements = {}) const;
  /** A slot's row of the site table once what was written lies at `device`. */
  std::vector<SiteRecord> records_at(const uint8_t* device) const;
  /** A slot's row of the table of forms. */
  std::vector<FormRecord> forms_at(uint8_t* device) const;
  /** Deltas whose outputs have lengths: site, and index among the site's deltas. */
  const std::vector<std::pair<int, int>>& gained() const { return gained_; }

 private:
  struct Placed {
    Placed(int site, bool is_exact, size_t first_delta) : site(site), is_exact(is_exact), first_delta(first_delta) {}
    int site;
    bool is_exact; /* own rows are float32 */
    size_t first_delta; /* of the adapter's */
    size_t a_at = 0;
    int steps = 0; /* of A */
    std::vector<size_t> b_at;
    SiteRecord record = {}; /* with null pointers */
    std::vector<OwnRow> own;
    size_t rows_at = 0, ids_at = 0;
    std::vector<int> biases; /* indices of replacements */
    std::optional<int> norm; /* likewise */
    std::optional<size_t> gain_at, bias_at, shift_at, norm_at;
  };
  size_t place(size_t bytes);
  void place_deltas(Placed& placed, const std::vector<SourceDelta>& deltas, const SiteSpec& site);
  void place_rows(Placed& placed, const std::vector<SourceReplacement>& replacements, const SiteSpec& site);
  void place_vectors(Placed& placed, const std::vector<SourceDelta>& deltas, const SiteSpec& site);

  std::vector<Placed> sites_;
  std::vector<std::pair<int, int>> gained_;
  std::vector<uint8_t> site_forms_;
  std::vector<int> out_widths_;
  uint32_t forms_ = 0;
  size_t bytes_ = 0, forms_at_ = 0;
  int max_total_rank_ = 0;
};

/** One adapter in page-locked memory. Immutable once made, but for gains, which the device finds when it first has the adapter. */
class AdapterImage {
 public:
  /** @throws Error `adapter_invalid` as AdapterLayout, or `out_of_memory` */
  AdapterImage(const std::vector<SourceDelta>& deltas, const std::vector<SiteSpec>& sites, const std::vector<SourceReplacement>& replacements = {})
      : layout_(deltas, sites, replacements), memory_(layout_.bytes()) {
    layout_.write(deltas, memory_.as<uint8_t>(), replacements);
  }

  const AdapterLayout& layout() const { return layout_; }
  size_t bytes() const { return memory_.bytes(); }
  const void* data() const { return memory_.as<void>(); }

  bool knows_gains = false;
  /** Gains and what follows. */
  uint8_t* forms() { return memory_.as<uint8_t>() + layout_.forms_at(); }

 private:
  AdapterLayout layout_;
  PinnedMemory memory_;
};

}  // namespace lorikeet
