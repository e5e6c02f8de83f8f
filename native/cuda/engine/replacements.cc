#include "replacements.h"

#include <algorithm>

namespace lorikeet {

std::vector<OwnRow> ascending_rows(const std::vector<SourceReplacement>& replacements, const std::vector<int>& from) {
  std::vector<OwnRow> rows;
  for (const bool listed : {true, false})
    for (const int source : from) {
      const SourceReplacement& each = replacements[source];
      if (each.rows.empty() == listed) continue;
      for (int i = 0; i < each.values.rows; i++) rows.push_back({each.row_at(i), source, i});
    }
  std::stable_sort(rows.begin(), rows.end(), [](const OwnRow& a, const OwnRow& b) { return a.id < b.id; });
  rows.erase(std::unique(rows.begin(), rows.end(), [](const OwnRow& a, const OwnRow& b) { return a.id == b.id; }), rows.end());
  return rows;
}

}  // namespace lorikeet
