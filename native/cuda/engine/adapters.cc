#include "adapters.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "error.h"
#include "round_up.h"

namespace lorikeet {
namespace {

/** Of a block of A as the device copies it. */
constexpr size_t ALIGNMENT = 1024;

void require_finite(const float* values, int count, const char* what) {
  for (int i = 0; i < count; i++)
    if (!std::isfinite(values[i])) throw Error("adapter_invalid", std::string("the adapter has a ") + what + " that is not finite in row " + std::to_string(i));
}

/** Rows of `matrix` as bfloat16 bits, `AT_ONCE` neighbours at a time to where `place(row, column)` says. */
template <int AT_ONCE, typename Place> void convert(const SourceMatrix& matrix, uint16_t* out, Place place) {
  std::vector<uint16_t> bits(matrix.cols);
  for (int row = 0; row < matrix.rows; row++) {
    round_row(matrix, row, bits.data());
    for (int i = 0; i < matrix.cols; i += AT_ONCE) std::memcpy(out + place(row, i), bits.data() + i, std::min(AT_ONCE, matrix.cols - i) * sizeof(uint16_t));
  }
}

}  // namespace

size_t AdapterLayout::place(size_t bytes) {
  const size_t at = bytes_;
  bytes_ += round_up(bytes, ALIGNMENT);
  return at;
}

AdapterLayout::AdapterLayout(const std::vector<SourceDelta>& deltas, const std::vector<SiteSpec>& sites, const std::vector<SourceReplacement>& replacements)
    : site_forms_(sites.size()) {
  std::vector<std::vector<int>> replaced(sites.size());
  for (size_t i = 0; i < replacements.size(); i++) replaced[replacements[i].site].push_back(static_cast<int>(i));
  size_t next = 0;
  for (size_t site = 0; site < sites.size(); site++) {
    out_widths_.push_back(sites[site].borders.back());
    Placed placed(static_cast<int>(site), sites[site].kind == SITE_KIND_ROUTER, next);
    while (next < deltas.size() && deltas[next].site == placed.site) next++;
    if (next == placed.first_delta && replaced[site].empty()) continue;
    if (next > placed.first_delta) place_deltas(placed, deltas, sites[site]);
    std::vector<int> rows;
    for (const int each : replaced[site]) {
      if (sites[site].kind == SITE_KIND_NORM) placed.norm = each;
      else (replacements[each].of_bias ? placed.biases : rows).push_back(each);
    }
    placed.own = ascending_rows(replacements, rows);
    sites_.push_back(std::move(placed));
  }
  for (Placed& placed : sites_) place_rows(placed, replacements, sites[placed.site]);
  forms_at_ = bytes_;
  for (Placed& placed : sites_) place_vectors(placed, deltas, sites[placed.site]);
}

void AdapterLayout::place_deltas(Placed& placed, const std::vector<SourceDelta>& deltas, const SiteSpec& site) {
  placed.steps = a_steps(site.in_width);
  SiteRecord& record = placed.record;
  for (size_t next = placed.first_delta; next < deltas.size() && deltas[next].site == placed.site; next++) {
    const SourceDelta& delta = deltas[next];
    for (const int border : {delta.offset, delta.offset + delta.width})
      if (std::find(site.borders.begin(), site.borders.end(), border) == site.borders.end()) throw Error("adapter_invalid", "the adapter changes a part of one of the model's modules");
    const int i = record.num_deltas++;
    for (int other = 0; other < std::min(i, MAX_DELTAS); other++) {
      const DeltaRecord& before = record.deltas[other];
      if (delta.offset < before.offset + before.width && before.offset < delta.offset + delta.width) throw Error("adapter_invalid", "the adapter changes an output of the model twice");
    }
    if (i == MAX_DELTAS) throw Error("adapter_invalid", "the adapter changes one output of the model more than " + std::to_string(MAX_DELTAS) + " times");
    record.deltas[i] = {nullptr, record.total_rank, delta.rank, delta.offset, delta.width, delta.scale};
    record.total_rank += grouped(delta.rank);
    if (delta.magnitude != nullptr) gained_.emplace_back(placed.site, i);
  }
  placed.a_at = place(static_cast<size_t>(record.total_rank) * placed.steps * A_STEP * sizeof(uint16_t));
  for (int i = 0; i < record.num_deltas; i++) placed.b_at.push_back(place(static_cast<size_t>(b_width(record.deltas[i].width)) * grouped(record.deltas[i].rank) * sizeof(uint16_t)));
  if (site.kind != SITE_KIND_EMBEDDING) max_total_rank_ = std::max(max_total_rank_, record.total_rank);
}

void AdapterLayout::place_rows(Placed& placed, const std::vector<SourceReplacement>& replacements, const SiteSpec& site) {
  const bool is_embedding = site.kind == SITE_KIND_EMBEDDING;
  const int num_rows = is_embedding ? site.in_width : site.borders.back(), width = is_embedding ? site.borders.back() : site.in_width;
  const auto fits = [&](const SourceReplacement& from, int cols) {
    return from.values.rows > 0 && from.values.cols == cols && from.row_at(0) >= 0 && from.row_at(from.values.rows - 1) < num_rows;
  };
  for (const OwnRow& row : placed.own)
    if (!fits(replacements[row.source], width)) throw Error("adapter_invalid", "the adapter replaces rows that the model does not have");
  for (const int bias : placed.biases)
    if (!fits(replacements[bias], 1)) throw Error("adapter_invalid", "the adapter replaces biases that the model does not have");
  if (placed.norm && (replacements[*placed.norm].values.rows != num_rows || !fits(replacements[*placed.norm], 1))) throw Error("adapter_invalid", "the adapter replaces a norm of another width");
  if (placed.own.empty()) return;
  placed.rows_at = place(placed.own.size() * aligned_width(width) * (placed.is_exact ? sizeof(float) : sizeof(uint16_t)));
  placed.ids_at = place(placed.own.size() * sizeof(int32_t));
}

void AdapterLayout::place_vectors(Placed& placed, const std::vector<SourceDelta>& deltas, const SiteSpec& site) {
  bool has_gain = false, has_bias = false;
  for (int i = 0; i < placed.record.num_deltas; i++) {
    has_bias |= deltas[placed.first_delta + i].bias != nullptr;
    has_gain |= deltas[placed.first_delta + i].magnitude != nullptr;
  }
  const size_t bytes = out_widths_[placed.site] * sizeof(float);
  if (has_gain) placed.gain_at = place(bytes);
  if (has_bias) placed.bias_at = place(bytes);
  if (!placed.biases.empty()) placed.shift_at = place(bytes);
  if (placed.norm) placed.norm_at = place(bytes);

  uint32_t forms = 0;
  if (has_gain || has_bias || placed.shift_at) forms |= FORM_OUTPUTS;
  const bool is_routed = site.kind == SITE_KIND_ROUTER || site.kind == SITE_KIND_EXPERT;
  if (!placed.own.empty()) forms |= is_routed ? FORM_EXPERT_ROWS : FORM_ROWS;
  switch (site.kind) {
    case SITE_KIND_EMBEDDING: forms_ |= FORM_EMBEDDING; break;
    case SITE_KIND_NORM: forms_ |= FORM_NORMS; break;
    case SITE_KIND_HEAD: forms_ |= FORM_HEAD; site_forms_[placed.site] = static_cast<uint8_t>(forms); break;
    default: forms_ |= forms; site_forms_[placed.site] = static_cast<uint8_t>(forms);
  }
}

void AdapterLayout::write(const std::vector<SourceDelta>& deltas, uint8_t* out, const std::vector<SourceReplacement>& replacements) const {
  std::fill_n(out, bytes_, uint8_t{0});
  const auto floats_at = [out](const std::optional<size_t>& at) { return at ? reinterpret_cast<float*>(out + *at) : nullptr; };
  for (const Placed& placed : sites_) {
    float* const gain = floats_at(placed.gain_at);
    float* const bias = floats_at(placed.bias_at);
    if (gain != nullptr) std::fill_n(gain, out_widths_[placed.site], 1.0f);
    for (int i = 0; i < placed.record.num_deltas; i++) {
      const DeltaRecord& record = placed.record.deltas[i];
      const SourceDelta& delta = deltas[placed.first_delta + i];
      convert<8>(delta.a, reinterpret_cast<uint16_t*>(out + placed.a_at), [&](int rank, int column) { return a_index(record.rank_offset + rank, column, placed.steps); });
      convert<2>(delta.b, reinterpret_cast<uint16_t*>(out + placed.b_at[i]), [&](int output, int rank) { return b_index(output, rank, record.rank, record.width); });
      if (delta.magnitude != nullptr) {
        require_finite(delta.magnitude, delta.width, "magnitude");
        std::copy_n(delta.magnitude, delta.width, gain + delta.offset);
      }
      if (delta.bias != nullptr) {
        require_finite(delta.bias, delta.width, "bias");
        std::transform(delta.bias, delta.bias + delta.width, bias + delta.offset, [&](float value) { return delta.scale * value; });
      }
    }
    for (size_t i = 0; i < placed.own.size(); i++) {
      const OwnRow& own = placed.own[i];
      const SourceMatrix& values = replacements[own.source].values;
      const size_t at = i * aligned_width(values.cols);
      if (placed.is_exact) widen_row(values, own.row, reinterpret_cast<float*>(out + placed.rows_at) + at);
      else round_row(values, own.row, reinterpret_cast<uint16_t*>(out + placed.rows_at) + at);
      reinterpret_cast<int32_t*>(out + placed.ids_at)[i] = own.id;
    }
    for (const int index : placed.biases) {
      const SourceReplacement& from = replacements[index];
      for (int i = 0; i < from.values.rows; i++) floats_at(placed.shift_at)[from.row_at(i)] = value_at(from.values, i) - from.base[i];
    }
    if (placed.shift_at) require_finite(floats_at(placed.shift_at), out_widths_[placed.site], "bias");
    if (placed.norm) {
      const SourceReplacement& from = replacements[*placed.norm];
      for (int i = 0; i < from.values.rows; i++) floats_at(placed.norm_at)[i] = value_at(from.values, i);
      require_finite(floats_at(placed.norm_at), from.values.rows, "norm");
    }
  }
}

std::vector<SiteRecord> AdapterLayout::records_at(const uint8_t* device) const {
  std::vector<SiteRecord> records(out_widths_.size(), SiteRecord{});
  for (const Placed& placed : sites_) {
    if (placed.record.num_deltas == 0) continue;
    SiteRecord& record = records[placed.site] = placed.record;
    record.a = reinterpret_cast<const bf16*>(device + placed.a_at);
    for (int i = 0; i < record.num_deltas; i++) record.deltas[i].b = reinterpret_cast<const bf16*>(device + placed.b_at[i]);
  }
  return records;
}

std::vector<FormRecord> AdapterLayout::forms_at(uint8_t* device) const {
  const auto floats_at = [device](const std::optional<size_t>& at) { return at ? reinterpret_cast<const float*>(device + *at) : nullptr; };
  std::vector<FormRecord> forms(out_widths_.size(), FormRecord{});
  for (const Placed& placed : sites_) {
    FormRecord& form = forms[placed.site];
    form.gain = floats_at(placed.gain_at);
    form.bias = floats_at(placed.bias_at);
    form.shift = floats_at(placed.shift_at);
    form.norm = floats_at(placed.norm_at);
    if (placed.own.empty()) continue;
    if (placed.is_exact) form.exact_rows = reinterpret_cast<const float*>(device + placed.rows_at);
    else form.rows = reinterpret_cast<const bf16*>(device + placed.rows_at);
    form.row_ids = reinterpret_cast<const int32_t*>(device + placed.ids_at);
    form.num_rows = static_cast<int32_t>(placed.own.size());
  }
  return forms;
}

}  // namespace lorikeet
