/** Rows of base weights and biases that an adapter has of its own. */
#pragma once
#include <stdint.h>

#include <vector>

#include "source_matrix.h"

namespace lorikeet {

/** A row is an output, of an embedding a token; a bias and a norm have one column. */
struct SourceReplacement {
  int site;
  bool of_bias = false; /* or of the weight */
  bool is_copy = false; /* of the base that was trained on: where this base has the same numbers nothing changes */
  int first_row = 0;
  std::vector<int32_t> rows; /* ascending; empty for a run from first_row on */
  SourceMatrix values;
  std::vector<float> base; /* of a bias: what the base has in these rows */

  int row_at(int i) const { return rows.empty() ? first_row + i : rows[i]; }
};

struct OwnRow {
  int32_t id; /* the row of the base's whose place it takes */
  int32_t source; /* index of the replacement */
  int32_t row; /* of its values */
};

/**
 * The rows of some replacements of one weight, ascending. Where a row is in a run and listed too, the listed one counts.
 *
 * @param from indices into `replacements`
 */
std::vector<OwnRow> ascending_rows(const std::vector<SourceReplacement>& replacements, const std::vector<int>& from);

}  // namespace lorikeet
