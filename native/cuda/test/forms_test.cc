/** Forms of adapters beyond plain LoRA: where gains, biases and own rows lie, and the lengths of changed rows and columns. */
#include "../engine/adapters.h"

#include <cuda_bf16.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "../kernels/changed_rows.h"

using namespace lorikeet;

namespace {

struct Delta {
  SourceDelta source;
  std::vector<float> a, b, bias, magnitude;
};

std::vector<float> random_floats(std::mt19937& random, size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

Delta random_delta(std::mt19937& random, int site, int offset, int width, int rank, int in_width, bool has_bias, bool has_magnitude) {
  Delta delta;
  delta.a = random_floats(random, static_cast<size_t>(rank) * in_width);
  delta.b = random_floats(random, static_cast<size_t>(width) * rank);
  if (has_bias) delta.bias = random_floats(random, width);
  if (has_magnitude) delta.magnitude = random_floats(random, width);
  delta.source = {site, offset, width, rank, 0.5f + static_cast<float>(random() % 8) / 8, {}, {}};
  return delta;
}

/** Their sources, once they no longer move. */
std::vector<SourceDelta> sources(std::vector<Delta>& deltas, const std::vector<SiteSpec>& sites) {
  std::vector<SourceDelta> out;
  for (Delta& delta : deltas) {
    delta.source.a = {Dtype::f32, delta.source.rank, sites[delta.source.site].in_width, delta.a.data()};
    delta.source.b = {Dtype::f32, delta.source.width, delta.source.rank, delta.b.data()};
    delta.source.bias = delta.bias.empty() ? nullptr : delta.bias.data();
    delta.source.magnitude = delta.magnitude.empty() ? nullptr : delta.magnitude.data();
    out.push_back(delta.source);
  }
  return out;
}

struct Written {
  AdapterLayout layout;
  std::vector<uint8_t> bytes;
};

Written write(std::vector<Delta>& deltas, const std::vector<SiteSpec>& sites) {
  const std::vector<SourceDelta> from = sources(deltas, sites);
  AdapterLayout layout(from, sites);
  std::vector<uint8_t> bytes(layout.bytes(), 0xff);
  layout.write(from, bytes.data());
  return {std::move(layout), std::move(bytes)};
}

double rounded(float value) { return __bfloat162float(__float2bfloat16(value)); }

}  // namespace

TEST_CASE("gains and biases lie behind all matrices, for every output of the sites that have them") {
  std::mt19937 random(3);
  const std::vector<SiteSpec> sites = {{40, {0, 16, 24, 32}}, {32, {0, 48}}, {64, {0, 8, 16}}, {32, {0, 16}}};
  std::vector<Delta> deltas;
  deltas.push_back(random_delta(random, 0, 0, 16, 4, 40, false, true));
  deltas.push_back(random_delta(random, 0, 24, 8, 3, 40, true, false));
  deltas.push_back(random_delta(random, 1, 0, 48, 9, 32, true, false));
  deltas.push_back(random_delta(random, 2, 8, 8, 2, 64, false, false));
  Written written = write(deltas, sites);
  const std::vector<FormRecord> forms = written.layout.forms_at(written.bytes.data());
  REQUIRE(forms.size() == 4);
  CHECK(written.layout.gained() == std::vector<std::pair<int, int>>{{0, 0}});
  CHECK(forms[1].gain == nullptr);
  for (const int site : {2, 3}) CHECK((forms[site].gain == nullptr && forms[site].bias == nullptr));
  const float* const first = reinterpret_cast<const float*>(written.bytes.data() + written.layout.forms_at());
  CHECK(forms[0].gain == first);
  CHECK(reinterpret_cast<const uint8_t*>(forms[1].bias + 48) <= written.bytes.data() + written.bytes.size());
  for (int i = 0; i < 32; i++) {
    CHECK(forms[0].gain[i] == (i < 16 ? deltas[0].magnitude[i] : 1.0f));
    CHECK(forms[0].bias[i] == (i >= 24 ? deltas[1].source.scale * deltas[1].bias[i - 24] : 0.0f));
  }
  for (int i = 0; i < 48; i++) CHECK(forms[1].bias[i] == deltas[2].source.scale * deltas[2].bias[i]);
}

TEST_CASE("an adapter without forms has none, and as many bytes as its matrices") {
  std::mt19937 random(4);
  const std::vector<SiteSpec> sites = {{32, {0, 16}}};
  std::vector<Delta> deltas = {random_delta(random, 0, 0, 16, 4, 32, false, false)};
  const Written written = write(deltas, sites);
  CHECK(written.layout.forms_at() == written.layout.bytes());
  CHECK(written.layout.gained().empty());
}

TEST_CASE("a length or a bias that is not finite is refused") {
  std::mt19937 random(5);
  const std::vector<SiteSpec> sites = {{32, {0, 16}}};
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<Delta> gained = {random_delta(random, 0, 0, 16, 4, 32, false, true)}, biased = {random_delta(random, 0, 0, 16, 4, 32, true, false)};
    gained[0].magnitude[7] = biased[0].bias[15] = bad;
    CHECK_THROWS_WITH_AS(write(gained, sites), "the adapter has a magnitude that is not finite in row 7", Error);
    CHECK_THROWS_WITH_AS(write(biased, sites), "the adapter has a bias that is not finite in row 15", Error);
  }
}

TEST_CASE("a warp's lanes sum the squares of each changed row, an adapter's own in the base's place, as by the definition") {
  std::mt19937 random(6);
  for (const int in_width : {8, 33, 64, 130, 300}) {
    const std::vector<SiteSpec> sites = {{in_width, {0, 16, 32, 56}}};
    std::vector<Delta> deltas;
    deltas.push_back(random_delta(random, 0, 0, 16, 5, in_width, false, true));
    deltas.push_back(random_delta(random, 0, 32, 24, 70, in_width, false, true));
    Written written = write(deltas, sites);
    const std::vector<SiteRecord> records = written.layout.records_at(written.bytes.data());
    const int stride = aligned_width(in_width);
    std::vector<float> base(static_cast<size_t>(56) * in_width);
    std::vector<Columns> weight(static_cast<size_t>(56) * stride / COLUMNS_AT_ONCE);
    std::vector<float> exact(static_cast<size_t>(56) * stride);
    bf16* numbers = weight[0].numbers;
    for (int row = 0; row < 56; row++)
      for (int column = 0; column < stride; column++) {
        const float value = column < in_width ? static_cast<float>(rounded(random_floats(random, 1)[0])) : 0.0f;
        if (column < in_width) base[static_cast<size_t>(row) * in_width + column] = value;
        numbers[static_cast<size_t>(row) * stride + column] = __float2bfloat16(value);
        exact[static_cast<size_t>(row) * stride + column] = value;
      }
    /* Of an exact matrix they are not rounded. */
    const std::vector<int32_t> own_ids = {0, 5, 40};
    std::vector<float> own_exact(own_ids.size() * stride);
    std::vector<Columns> own_rows(own_exact.size() / COLUMNS_AT_ONCE);
    for (size_t i = 0; i < own_exact.size(); i++) {
      if (static_cast<int>(i % stride) < in_width) own_exact[i] = random_floats(random, 1)[0];
      own_rows[0].numbers[i] = __float2bfloat16(own_exact[i]);
    }
    FormRecord own = {.gain = nullptr, .bias = nullptr, .shift = nullptr, .norm = nullptr, .rows = nullptr, .exact_rows = nullptr, .row_ids = own_ids.data(), .num_rows = 3};
    for (int i = 0; i < 2; i++) {
      const Delta& from = deltas[i];
      GainArgs args = {.weight = numbers, .exact = nullptr, .weight_stride = stride, .own = {}, .num_tokens = 0, .a = records[0].a, .a_steps = a_steps(in_width), .delta = records[0].deltas[i], .gain = nullptr, .bias = nullptr, .bad_output = nullptr};
      for (int output = 0; output < from.source.width; output++) {
        const auto found = std::find(own_ids.begin(), own_ids.end(), from.source.offset + output);
        for (const bool has_own : {false, true})
          for (const bool is_exact : {false, true}) {
            double wanted = 0.0;
            for (int column = 0; column < in_width; column++) {
              double value = base[static_cast<size_t>(from.source.offset + output) * in_width + column];
              if (has_own && found != own_ids.end()) {
                const float number = own_exact[(found - own_ids.begin()) * stride + column];
                value = is_exact ? number : rounded(number);
              }
              for (int rank = 0; rank < from.source.rank; rank++)
                value += from.source.scale * rounded(from.b[output * from.source.rank + rank]) * rounded(from.a[rank * in_width + column]);
              wanted += value * value;
            }
            own.rows = is_exact ? nullptr : own_rows[0].numbers, own.exact_rows = is_exact ? own_exact.data() : nullptr;
            args.own = has_own ? own : FormRecord{};
            args.exact = is_exact ? exact.data() : nullptr;
            float sum = 0.0f;
            for (int lane = 0; lane < 32; lane++) sum += changed_squares(args, output, lane, 32);
            REQUIRE(std::fabs(sum - wanted) <= 1e-4 * wanted);
          }
      }
    }
  }
}
