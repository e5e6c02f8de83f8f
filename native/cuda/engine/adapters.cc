#include "adapters.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "round_up.h"

namespace lorikeet {
namespace {

/** Of a block of A as the device copies it. */
constexpr size_t ALIGNMENT = 1024;

float value_at(const SourceMatrix& matrix, size_t i) {
  switch (matrix.dtype) {
    case Dtype::f32: {
      float value;
      std::memcpy(&value, static_cast<const uint8_t*>(matrix.data) + i * 4, 4);
      return value;
    }
    case Dtype::f16: {
      __half_raw raw;
      std::memcpy(&raw.x, static_cast<const uint8_t*>(matrix.data) + i * 2, 2);
      return __half2float(__half(raw));
    }
    case Dtype::bf16: {
      uint32_t bits = 0;
      std::memcpy(reinterpret_cast<uint8_t*>(&bits) + 2, static_cast<const uint8_t*>(matrix.data) + i * 2, 2);
      float value;
      std::memcpy(&value, &bits, 4);
      return value;
    }
  }
  return NAN;
}

/** Rounds to nearest even. */
uint16_t bfloat16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

void require_finite(const float* values, int count, const char* what) {
  for (int i = 0; i < count; i++)
    if (!std::isfinite(values[i])) throw Error("adapter_invalid", std::string("the adapter has a ") + what + " that is not finite in row " + std::to_string(i));
}

/**
 * Rows of `matrix` as bfloat16 bits, `AT_ONCE` neighbours at a time to where `place(row, column)` says.
 *
 * @throws Error `adapter_invalid`
 */
template <int AT_ONCE, typename Place> void convert(const SourceMatrix& matrix, uint16_t* out, Place place) {
  std::vector<uint16_t> bits(matrix.cols);
  for (int row = 0; row < matrix.rows; row++) {
    bool finite = true;
    if (matrix.dtype == Dtype::bf16) {
      std::memcpy(bits.data(), static_cast<const uint8_t*>(matrix.data) + static_cast<size_t>(row) * matrix.cols * 2, matrix.cols * 2);
    } else {
      for (int i = 0; i < matrix.cols; i++) {
        const float value = value_at(matrix, static_cast<size_t>(row) * matrix.cols + i);
        /* Rounding carries a NaN of all ones into zero. */
        finite &= std::isfinite(value);
        bits[i] = bfloat16_bits(value);
      }
    }
    /* The largest float32 numbers round up to infinity. */
    for (const uint16_t each : bits) finite &= (each & 0x7f80u) != 0x7f80u;
    if (!finite) throw Error("adapter_invalid", "the adapter has a value that is not finite in row " + std::to_string(row) + " of a matrix");
    for (int i = 0; i < matrix.cols; i += AT_ONCE) std::memcpy(out + place(row, i), bits.data() + i, std::min(AT_ONCE, matrix.cols - i) * sizeof(uint16_t));
  }
}

}  // namespace

AdapterLayout::AdapterLayout(const std::vector<SourceDelta>& deltas, const std::vector<SiteSpec>& sites)
    : num_sites_(static_cast<int>(sites.size())) {
  const auto place = [this](size_t bytes) {
    const size_t at = bytes_;
    bytes_ += round_up(bytes, ALIGNMENT);
    return at;
  };
  for (size_t first = 0; first < deltas.size();) {
    const int site = deltas[first].site;
    size_t last = first;
    Placed placed = {site, 0, a_steps(sites[site].in_width), {}, {}};
    for (; last < deltas.size() && deltas[last].site == site; last++) {
      const SourceDelta& delta = deltas[last];
      const std::vector<int>& borders = sites[site].borders;
      for (const int border : {delta.offset, delta.offset + delta.width})
        if (std::find(borders.begin(), borders.end(), border) == borders.end()) throw Error("adapter_invalid", "the adapter changes a part of one of the model's modules");
      const int i = placed.record.num_deltas++;
      for (int other = 0; other < std::min(i, MAX_DELTAS); other++) {
        const DeltaRecord& before = placed.record.deltas[other];
        if (delta.offset < before.offset + before.width && before.offset < delta.offset + delta.width) throw Error("adapter_invalid", "the adapter changes an output of the model twice");
      }
      if (i == MAX_DELTAS) throw Error("adapter_invalid", "the adapter changes one output of the model more than " + std::to_string(MAX_DELTAS) + " times");
      placed.record.deltas[i] = {nullptr, placed.record.total_rank, delta.rank, delta.offset, delta.width, delta.scale};
      placed.record.total_rank += grouped(delta.rank);
    }
    placed.a_at = place(static_cast<size_t>(placed.record.total_rank) * placed.steps * A_STEP * sizeof(uint16_t));
    for (int i = 0; i < placed.record.num_deltas; i++) {
      const DeltaRecord& delta = placed.record.deltas[i];
      placed.b_at.push_back(place(static_cast<size_t>(b_width(delta.width)) * grouped(delta.rank) * sizeof(uint16_t)));
    }
    max_total_rank_ = std::max(max_total_rank_, placed.record.total_rank);
    sites_.push_back(std::move(placed));
    first = last;
  }
  forms_at_ = bytes_;
  for (const SiteSpec& site : sites) out_widths_.push_back(site.borders.back());
  size_t next = 0;
  for (Placed& placed : sites_) {
    bool has_gain = false, has_bias = false;
    for (int i = 0; i < placed.record.num_deltas; i++, next++) {
      has_bias |= deltas[next].bias != nullptr;
      has_gain |= deltas[next].magnitude != nullptr;
      if (deltas[next].magnitude != nullptr) gained_.emplace_back(placed.site, i);
    }
    const size_t bytes = out_widths_[placed.site] * sizeof(float);
    if (has_gain) placed.gain_at = place(bytes);
    if (has_bias) placed.bias_at = place(bytes);
  }
}

void AdapterLayout::write(const std::vector<SourceDelta>& deltas, uint8_t* out) const {
  std::fill_n(out, bytes_, uint8_t{0});
  size_t next = 0;
  for (const Placed& placed : sites_) {
    for (int i = 0; i < placed.record.num_deltas; i++, next++) {
      const DeltaRecord& record = placed.record.deltas[i];
      convert<8>(deltas[next].a, reinterpret_cast<uint16_t*>(out + placed.a_at), [&](int rank, int column) { return a_index(record.rank_offset + rank, column, placed.steps); });
      convert<2>(deltas[next].b, reinterpret_cast<uint16_t*>(out + placed.b_at[i]), [&](int output, int rank) { return b_index(output, rank, record.rank, record.width); });
      const SourceDelta& delta = deltas[next];
      float* gain = reinterpret_cast<float*>(out + placed.gain_at);
      float* bias = reinterpret_cast<float*>(out + placed.bias_at);
      if (i == 0 && placed.gain_at != 0) std::fill_n(gain, out_widths_[placed.site], 1.0f);
      if (delta.magnitude != nullptr) {
        require_finite(delta.magnitude, delta.width, "magnitude");
        std::copy_n(delta.magnitude, delta.width, gain + delta.offset);
      }
      if (delta.bias != nullptr) {
        require_finite(delta.bias, delta.width, "bias");
        std::transform(delta.bias, delta.bias + delta.width, bias + delta.offset, [&](float value) { return delta.scale * value; });
      }
    }
  }
}

std::vector<SiteRecord> AdapterLayout::records_at(const uint8_t* device) const {
  std::vector<SiteRecord> records(num_sites_, SiteRecord{});
  for (const Placed& placed : sites_) {
    SiteRecord& record = records[placed.site] = placed.record;
    record.a = reinterpret_cast<const bf16*>(device + placed.a_at);
    for (int i = 0; i < record.num_deltas; i++) record.deltas[i].b = reinterpret_cast<const bf16*>(device + placed.b_at[i]);
  }
  return records;
}

std::vector<FormRecord> AdapterLayout::forms_at(uint8_t* device) const {
  std::vector<FormRecord> forms(num_sites_, FormRecord{});
  for (const Placed& placed : sites_) {
    if (placed.gain_at != 0) forms[placed.site].gain = reinterpret_cast<const float*>(device + placed.gain_at);
    if (placed.bias_at != 0) forms[placed.site].bias = reinterpret_cast<const float*>(device + placed.bias_at);
  }
  return forms;
}

}  // namespace lorikeet
