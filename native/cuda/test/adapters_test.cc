#include "../engine/adapters.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

using namespace lorikeet;

namespace {

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

/** The nearer of the two bfloat16 numbers around a float32 one, the even one of two that are as near: by comparison. */
uint16_t nearest_bfloat16(float value) {
  const uint16_t below = static_cast<uint16_t>(bits_of(value) >> 16), above = static_cast<uint16_t>(below + 1);
  const double low = float_of(static_cast<uint32_t>(below) << 16), x = value;
  /* One step past the largest bfloat16 number is 2^128, which float32 cannot hold. */
  const double high = (above & 0x7f80) == 0x7f80 ? std::copysign(std::ldexp(1.0, 128), x) : float_of(static_cast<uint32_t>(above) << 16);
  const double to_low = std::fabs(x - low), to_high = std::fabs(high - x);
  if (to_low != to_high) return to_low < to_high ? below : above;
  return below % 2 == 0 ? below : above;
}

/** The value of half precision bits, from the definition of the format. */
double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

template <typename T> SourceMatrix matrix(Dtype dtype, int rows, int cols, const std::vector<T>& data) {
  REQUIRE(data.size() == static_cast<size_t>(rows) * cols);
  return {dtype, rows, cols, data.data()};
}

/** Sites where a module may begin and end at any output. */
std::vector<SiteSpec> sites_of(const std::vector<int>& in_widths) {
  SiteSpec site = {};
  for (int border = 0; border <= 2000; border++) site.borders.push_back(border);
  std::vector<SiteSpec> sites(in_widths.size(), site);
  for (size_t i = 0; i < sites.size(); i++) sites[i].in_width = in_widths[i];
  return sites;
}

/** `values` as the A of a delta of rank 1 at the one site; its B is a one. @returns A as written */
template <typename T> std::vector<uint16_t> converted(Dtype dtype, const std::vector<T>& values) {
  static const std::vector<uint16_t> one = {0x3f80};
  const int width = static_cast<int>(values.size());
  const std::vector<SourceDelta> deltas = {{0, 0, 1, 1, 1.0f, matrix(dtype, 1, width, values), matrix(Dtype::bf16, 1, 1, one)}};
  const AdapterLayout layout(deltas, sites_of({width}));
  std::vector<uint8_t> bytes(layout.bytes());
  layout.write(deltas, bytes.data());
  std::vector<uint16_t> out(width);
  for (int i = 0; i < width; i++) out[i] = reinterpret_cast<const uint16_t*>(bytes.data())[a_index(0, i, a_steps(width))];
  return out;
}

template <typename T> std::string refusal(Dtype dtype, const std::vector<T>& values) {
  try {
    converted(dtype, values);
    return "accepted";
  } catch (const Error& error) {
    return error.code;
  }
}

struct RandomDelta {
  SourceDelta source;
  std::vector<uint16_t> a, b;
};

}  // namespace

TEST_CASE("float32 is rounded to the nearest bfloat16, ties to even") {
  std::mt19937 random(1);
  std::vector<float> values = {0.0f, -0.0f, 1.0f, -1.0f, float_of(0x3f808000), float_of(0x3f818000), float_of(0x3f808001), float_of(0x3f817fff), float_of(0x00000001), float_of(0x80008000),
                               float_of(0x00018000), float_of(0x7f7f7fff), float_of(0xff7f7fff), std::numeric_limits<float>::min()};
  while (values.size() < 200000) {
    const float value = float_of(static_cast<uint32_t>(random()));
    if (std::isfinite(value) && (nearest_bfloat16(value) & 0x7f80) != 0x7f80) values.push_back(value);
  }
  /* Exact ties, which random bits seldom are. */
  for (int i = 0; i < 20000; i++) values.push_back(float_of((static_cast<uint32_t>(random() % 0x7f7f) << 16) | 0x8000));
  const std::vector<uint16_t> out = converted(Dtype::f32, values);
  for (size_t i = 0; i < values.size(); i++) {
    CAPTURE(values[i]);
    REQUIRE(out[i] == nearest_bfloat16(values[i]));
  }
}

TEST_CASE("every finite float16 number is rounded to the nearest bfloat16") {
  std::vector<uint16_t> values;
  for (int bits = 0; bits < 0x10000; bits++) if ((bits & 0x7c00) != 0x7c00) values.push_back(static_cast<uint16_t>(bits));
  const std::vector<uint16_t> out = converted(Dtype::f16, values);
  for (size_t i = 0; i < values.size(); i++) {
    CAPTURE(values[i]);
    /* float32 holds every float16 number. */
    REQUIRE(out[i] == nearest_bfloat16(static_cast<float>(half_value(values[i]))));
  }
}

TEST_CASE("every finite bfloat16 number stays as it is") {
  std::vector<uint16_t> values;
  for (int bits = 0; bits < 0x10000; bits++) if ((bits & 0x7f80) != 0x7f80) values.push_back(static_cast<uint16_t>(bits));
  CHECK(converted(Dtype::bf16, values) == values);
}

TEST_CASE("what is not finite, or would not be in bfloat16, is refused") {
  for (const uint32_t bits : {0x7f800000u, 0xff800000u, 0x7f800001u, 0x7fc00000u, 0x7fff7fffu, 0x7fff8000u, 0x7fffffffu, 0xffffffffu, 0x7f7fffffu, 0xff7f8000u}) {
    CAPTURE(bits);
    CHECK(refusal(Dtype::f32, std::vector<float>{1.0f, float_of(bits)}) == "adapter_invalid");
  }
  for (const uint16_t bits : {0x7c00, 0xfc00, 0x7c01, 0x7e00, 0xffff}) CHECK(refusal(Dtype::f16, std::vector<uint16_t>{0, bits}) == "adapter_invalid");
  for (const uint16_t bits : {0x7f80, 0xff80, 0x7f81, 0x7fc0, 0xffff}) CHECK(refusal(Dtype::bf16, std::vector<uint16_t>{0, bits}) == "adapter_invalid");
}

TEST_CASE("matrices read from any byte of a file") {
  std::vector<uint8_t> file(1 + 3 * 4);
  const float values[3] = {1.5f, -2.0f, 0.25f};
  std::memcpy(file.data() + 1, values, sizeof values);
  const std::vector<uint16_t> one = {0x3f80};
  const std::vector<SourceDelta> deltas = {{0, 0, 1, 1, 1.0f, {Dtype::f32, 1, 3, file.data() + 1}, matrix(Dtype::bf16, 1, 1, one)}};
  const AdapterLayout layout(deltas, sites_of({3}));
  std::vector<uint8_t> bytes(layout.bytes());
  layout.write(deltas, bytes.data());
  const uint16_t expected[3] = {0x3fc0, 0xc000, 0x3e80};
  CHECK(std::memcmp(bytes.data() + a_index(0, 0, 2) * 2, expected, sizeof expected) == 0);
}

TEST_CASE("deltas are stacked per site, aligned, apart, with zeros between, and found through the records") {
  std::mt19937 random(2);
  for (int run = 0; run < 100; run++) {
    const std::vector<int> widths = {1 + static_cast<int>(random() % 300), 32, 33, 64};
    std::vector<RandomDelta> made;
    int deltas_of_site[4] = {};
    for (int site = 0; site < 4; site++) {
      deltas_of_site[site] = random() % (run % 5 == 0 ? MAX_DELTAS + 1 : 4);
      for (int i = 0, offset = 0; i < deltas_of_site[site]; i++) {
        RandomDelta one;
        const int rank = 1 + random() % 40, width = 1 + random() % 100;
        offset += random() % 50;
        one.a.resize(rank * widths[site]), one.b.resize(width * rank);
        for (auto* numbers : {&one.a, &one.b}) for (uint16_t& number : *numbers) number = static_cast<uint16_t>(random() % 0x7f80);
        one.source = {site, offset, width, rank, static_cast<float>(random() % 100) / 8, {}, {}};
        offset += width;
        made.push_back(std::move(one));
      }
    }
    std::vector<SourceDelta> deltas;
    for (RandomDelta& one : made) {
      one.source.a = matrix(Dtype::bf16, one.source.rank, widths[one.source.site], one.a);
      one.source.b = matrix(Dtype::bf16, one.source.width, one.source.rank, one.b);
      deltas.push_back(one.source);
    }
    const AdapterLayout layout(deltas, sites_of(widths));
    /* What was there before must not show through. */
    std::vector<uint8_t> bytes(layout.bytes(), 0xff);
    layout.write(deltas, bytes.data());
    const uint16_t* numbers = reinterpret_cast<const uint16_t*>(bytes.data());
    const std::vector<SiteRecord> records = layout.records_at(bytes.data());
    REQUIRE(records.size() == 4);
    std::vector<int> written(bytes.size() / 2, 0);
    const auto region = [&](const bf16* first, size_t count) {
      const size_t at = static_cast<size_t>(reinterpret_cast<const uint8_t*>(first) - bytes.data());
      REQUIRE(at % 1024 == 0);
      REQUIRE(at + count * 2 <= bytes.size());
      for (size_t i = at / 2; i < at / 2 + count; i++) REQUIRE(written[i]++ == 0);
      return at / 2;
    };
    size_t next = 0;
    int most = 0;
    for (int site = 0; site < 4; site++) {
      const SiteRecord& record = records[site];
      REQUIRE(record.num_deltas == deltas_of_site[site]);
      if (record.num_deltas == 0) {
        REQUIRE(record.total_rank == 0);
        continue;
      }
      const int steps = a_steps(widths[site]);
      const size_t a_count = static_cast<size_t>(record.total_rank) * steps * A_STEP, a_at = region(record.a, a_count);
      std::vector<uint16_t> expected_a(a_count, 0);
      int rank_offset = 0;
      for (int i = 0; i < record.num_deltas; i++, next++) {
        const DeltaRecord& delta = record.deltas[i];
        const SourceDelta& from = deltas[next];
        REQUIRE(delta.rank_offset == rank_offset);
        REQUIRE(delta.rank == from.rank);
        REQUIRE(delta.offset == from.offset);
        REQUIRE(delta.width == from.width);
        REQUIRE(delta.scale == from.scale);
        for (int r = 0; r < from.rank; r++)
          for (int k = 0; k < widths[site]; k++) expected_a[a_index(rank_offset + r, k, steps)] = made[next].a[r * widths[site] + k];
        const size_t b_count = static_cast<size_t>(b_width(from.width)) * grouped(from.rank), b_at = region(delta.b, b_count);
        std::vector<uint16_t> expected_b(b_count, 0);
        for (int n = 0; n < from.width; n++)
          for (int r = 0; r < from.rank; r++) expected_b[b_index(n, r, from.rank, from.width)] = made[next].b[n * from.rank + r];
        REQUIRE(std::equal(expected_b.begin(), expected_b.end(), numbers + b_at));
        rank_offset += grouped(from.rank);
      }
      REQUIRE(record.total_rank == rank_offset);
      REQUIRE(std::equal(expected_a.begin(), expected_a.end(), numbers + a_at));
      most = std::max(most, rank_offset);
    }
    REQUIRE(layout.max_total_rank() == most);
    for (size_t i = 0; i < written.size(); i++) if (written[i] == 0) REQUIRE(numbers[i] == 0);
    /* The same adapter at another address: the same places. */
    const uint8_t* device = reinterpret_cast<const uint8_t*>(uintptr_t{0x10000});
    const std::vector<SiteRecord> moved = layout.records_at(device);
    for (int site = 0; site < 4; site++)
      if (records[site].num_deltas > 0) REQUIRE(reinterpret_cast<uintptr_t>(moved[site].a) - 0x10000 == reinterpret_cast<uintptr_t>(records[site].a) - reinterpret_cast<uintptr_t>(bytes.data()));
  }
}

TEST_CASE("as many deltas at a site as kernels take, and no more") {
  const std::vector<uint16_t> one = {0x3f80};
  std::vector<SourceDelta> deltas;
  for (int i = 0; i < MAX_DELTAS; i++) deltas.push_back({0, i, 1, 1, 1.0f, matrix(Dtype::bf16, 1, 1, one), matrix(Dtype::bf16, 1, 1, one)});
  CHECK(AdapterLayout(deltas, sites_of({1})).max_total_rank() == MAX_DELTAS * RANK_GROUP);
  deltas.push_back(deltas[0]);
  deltas.back().offset = MAX_DELTAS;
  CHECK_THROWS_WITH_AS(AdapterLayout(deltas, sites_of({1})), "the adapter changes one output of the model more than 8 times", Error);
}

TEST_CASE("no output is changed twice") {
  const std::vector<uint16_t> ones(10, 0x3f80);
  const auto delta = [&](int offset) { return SourceDelta{0, offset, 10, 1, 1.0f, {Dtype::bf16, 1, 1, ones.data()}, {Dtype::bf16, 10, 1, ones.data()}}; };
  CHECK(AdapterLayout({delta(0), delta(10)}, sites_of({1})).max_total_rank() == 2 * RANK_GROUP);
  for (const int offset : {0, 1, 9}) CHECK_THROWS_WITH_AS(AdapterLayout({delta(0), delta(offset)}, sites_of({1})), "the adapter changes an output of the model twice", Error);
  CHECK_THROWS_WITH_AS(AdapterLayout({delta(9), delta(0)}, sites_of({1})), "the adapter changes an output of the model twice", Error);
}

TEST_CASE("A lies as the tensor cores want it: eight ranks of 128 bytes, chunks exchanged by the rank") {
  for (const int width : {1, 64, 100, 128, 300}) {
    const int steps = a_steps(width);
    REQUIRE(steps % 2 == 0);
    REQUIRE(steps * A_STEP >= width);
    std::vector<int> times(16 * steps * A_STEP, 0);
    for (int rank = 0; rank < 16; rank++)
      for (int column = 0; column < steps * A_STEP; column++) {
        const int64_t at = a_index(rank, column, steps);
        times.at(at)++;
        /* Which block, which of its rows, and the chunk's place: its own number with bits of the row turned. */
        CHECK(at / 512 == rank / 8 * steps + column / 64);
        CHECK(at % 512 / 64 == rank % 8);
        CHECK((at % 64 / 8 ^ column % 64 / 8) == rank % 8);
        CHECK(at % 8 == column % 8);
      }
    for (const int each : times) REQUIRE(each == 1);
  }
}

TEST_CASE("B lies as the tensor cores want it: octets of outputs in chunks of 64 ranks, neighbours of a chunk side by side") {
  for (const int ranks : {1, 8, 24, 64, 65, 130}) {
    const int width = 70, groups = grouped(ranks) / 8;
    std::vector<int> times(b_width(width) * grouped(ranks), 0);
    for (int output = 0; output < b_width(width); output++)
      for (int rank = 0; rank < grouped(ranks); rank++) {
        const int64_t at = b_index(output, rank, ranks, width);
        times.at(at)++;
        /* Which of its eight by eight numbers, and that a chunk's octets follow one another with as many groups as it has. */
        CHECK(at % 64 == output % 8 * 8 + rank % 8);
        const int chunk = rank / 64, chunk_groups = std::min(8, groups - chunk * 8);
        CHECK((at - int64_t{chunk} * 72 * 64) / 64 == output / 8 * chunk_groups + rank % 64 / 8);
        CHECK(b_octet(output / 8, chunk, groups, width) == b_index(output / 8 * 8, chunk * 64, ranks, width));
      }
    for (const int each : times) REQUIRE(each == 1);
  }
}

TEST_CASE("a delta begins and ends where modules do") {
  const std::vector<uint16_t> ones(24, 0x3f80);
  const auto refusal_of = [&](int offset, int width) -> std::string {
    const SourceDelta delta = {0, offset, width, 1, 1.0f, {Dtype::bf16, 1, 1, ones.data()}, {Dtype::bf16, width, 1, ones.data()}};
    try {
      AdapterLayout({delta}, {{1, {0, 8, 24}}});
      return "accepted";
    } catch (const Error& error) {
      return error.code;
    }
  };
  for (const auto& [offset, width] : {std::pair(0, 8), {8, 16}, {0, 24}}) CHECK(refusal_of(offset, width) == "accepted");
  for (const auto& [offset, width] : {std::pair(0, 7), {1, 7}, {8, 8}, {16, 8}, {0, 16}}) CHECK(refusal_of(offset, width) == "adapter_invalid");
}

TEST_CASE("an adapter that changes nothing takes no bytes") {
  const AdapterLayout layout({}, sites_of({64, 64}));
  CHECK(layout.bytes() == 0);
  CHECK(layout.max_total_rank() == 0);
  for (const SiteRecord& record : layout.records_at(nullptr)) CHECK(record.total_rank == 0);
}
