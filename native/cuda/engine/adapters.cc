#include "adapters.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

namespace lorikeet {
namespace {

constexpr size_t ALIGNMENT = 256;
constexpr int A_ROWS = 8, B_COLUMNS = 4;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

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

/** Rows of `matrix` to rows of `stride` numbers. @throws Error `adapter_invalid` */
void convert(const SourceMatrix& matrix, uint16_t* out, size_t stride) {
  for (int row = 0; row < matrix.rows; row++) {
    uint16_t* to = out + row * stride;
    bool finite = true;
    if (matrix.dtype == Dtype::bf16) {
      std::memcpy(to, static_cast<const uint8_t*>(matrix.data) + static_cast<size_t>(row) * matrix.cols * 2, matrix.cols * 2);
    } else {
      for (int i = 0; i < matrix.cols; i++) {
        const float value = value_at(matrix, static_cast<size_t>(row) * matrix.cols + i);
        /* Rounding carries a NaN of all ones into zero. */
        finite &= std::isfinite(value);
        to[i] = bfloat16_bits(value);
      }
    }
    /* The largest float32 numbers round up to infinity. */
    for (int i = 0; i < matrix.cols; i++) finite &= (to[i] & 0x7f80u) != 0x7f80u;
    if (!finite) throw Error("adapter_invalid", "the adapter has a value that is not finite in row " + std::to_string(row) + " of a matrix");
  }
}

}  // namespace

AdapterLayout::AdapterLayout(const std::vector<SourceDelta>& deltas, const std::vector<int>& site_in_widths)
    : num_sites_(static_cast<int>(site_in_widths.size())) {
  const auto place = [this](size_t bytes) {
    const size_t at = bytes_;
    bytes_ += round_up(bytes, ALIGNMENT);
    return at;
  };
  for (size_t first = 0; first < deltas.size();) {
    const int site = deltas[first].site;
    size_t last = first;
    Placed placed = {site, 0, aligned_width(site_in_widths[site]), {}, {}};
    for (; last < deltas.size() && deltas[last].site == site; last++) {
      const SourceDelta& delta = deltas[last];
      const int i = placed.record.num_deltas++;
      if (i == MAX_DELTAS) throw Error("adapter_invalid", "the adapter changes one output of the model more than " + std::to_string(MAX_DELTAS) + " times");
      placed.record.deltas[i] = {nullptr, placed.record.total_rank, delta.rank, static_cast<int32_t>(round_up(delta.rank, B_COLUMNS)), delta.offset, delta.width, delta.scale};
      placed.record.total_rank += delta.rank;
    }
    placed.a_at = place(round_up(placed.record.total_rank, A_ROWS) * placed.a_stride * 2);
    for (int i = 0; i < placed.record.num_deltas; i++)
      placed.b_at.push_back(place(static_cast<size_t>(placed.record.deltas[i].width) * placed.record.deltas[i].b_stride * 2));
    max_total_rank_ = std::max(max_total_rank_, placed.record.total_rank);
    sites_.push_back(std::move(placed));
    first = last;
  }
}

void AdapterLayout::write(const std::vector<SourceDelta>& deltas, uint8_t* out) const {
  std::fill_n(out, bytes_, uint8_t{0});
  size_t next = 0;
  for (const Placed& placed : sites_) {
    for (int i = 0; i < placed.record.num_deltas; i++, next++) {
      const DeltaRecord& record = placed.record.deltas[i];
      convert(deltas[next].a, reinterpret_cast<uint16_t*>(out + placed.a_at) + record.rank_offset * placed.a_stride, placed.a_stride);
      convert(deltas[next].b, reinterpret_cast<uint16_t*>(out + placed.b_at[i]), record.b_stride);
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

}  // namespace lorikeet
