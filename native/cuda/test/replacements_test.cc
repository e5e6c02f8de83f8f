/** Rows of its own that an adapter has: where they lie, and which counts. */
#include "../engine/replacements.h"

#include <cuda_bf16.h>
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "../engine/adapters.h"
#include "../kernels/changed_rows.h"

using namespace lorikeet;

namespace {

/** 100 tokens of 40 numbers, q, k and v of 16, 8 and 8 outputs, a norm, and the head. */
const std::vector<SiteSpec> SITES = {{100, {0, 40}, SITE_KIND_EMBEDDING}, {40, {0, 40}, SITE_KIND_NORM}, {40, {0, 16, 24, 32}}, {40, {0, 100}, SITE_KIND_HEAD}};

SourceReplacement run_of(int site, int first, int rows, int cols, const std::vector<float>& values) {
  return {site, false, false, first, {}, {Dtype::f32, rows, cols, values.data()}, {}};
}

SourceReplacement listed(int site, std::vector<int32_t> ids, int cols, const std::vector<float>& values) {
  const int rows = static_cast<int>(ids.size());
  return {site, false, false, ids[0], std::move(ids), {Dtype::f32, rows, cols, values.data()}, {}};
}

/** Small whole numbers, which bfloat16 holds. */
std::vector<float> numbers(std::mt19937& random, size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random() % 255) - 127;
  return values;
}

float as_float(const bf16& value) { return __bfloat162float(value); }

std::string refusal(const std::vector<SourceReplacement>& replacements) {
  try {
    const AdapterLayout layout({}, SITES, replacements);
    std::vector<uint8_t> bytes(layout.bytes());
    layout.write({}, bytes.data(), replacements);
    return "accepted";
  } catch (const Error& error) {
    return error.code + ": " + error.what();
  }
}

}  // namespace

TEST_CASE("rows ascend whatever the order of their sources, and a listed one counts where a run has it too") {
  const std::vector<float> any(100);
  const std::vector<SourceReplacement> replacements = {run_of(0, 10, 4, 1, any), run_of(0, 2, 3, 1, any), listed(0, {3, 5, 12}, 1, any)};
  const std::vector<OwnRow> rows = ascending_rows(replacements, {0, 1, 2});
  const std::vector<std::vector<int>> wanted = {{2, 1, 0}, {3, 2, 0}, {4, 1, 2}, {5, 2, 1}, {10, 0, 0}, {11, 0, 1}, {12, 2, 2}, {13, 0, 3}};
  REQUIRE(rows.size() == wanted.size());
  for (size_t i = 0; i < rows.size(); i++) CHECK(std::vector<int>{rows[i].id, rows[i].source, rows[i].row} == wanted[i]);
  CHECK(ascending_rows(replacements, {}).empty());
}

TEST_CASE("an own row is found by its number, and no other one is") {
  std::mt19937 random(1);
  constexpr int STRIDE = 64;
  for (int run = 0; run < 300; run++) {
    const int total = 1 + random() % 200;
    std::vector<int32_t> ids;
    for (int id = 0; id < total; id++) if (run % 10 == 0 || random() % 3 == 0) ids.push_back(id);
    const std::vector<bf16> rows(ids.size() * STRIDE);
    const FormRecord form = {.gain = nullptr, .bias = nullptr, .shift = nullptr, .norm = nullptr, .rows = rows.data(), .exact_rows = nullptr, .row_ids = ids.data(), .num_rows = static_cast<int32_t>(ids.size())};
    for (int id = 0; id < total; id++) {
      const auto found = std::lower_bound(ids.begin(), ids.end(), id);
      const bf16* const wanted = found == ids.end() || *found != id ? nullptr : rows.data() + (found - ids.begin()) * STRIDE;
      REQUIRE(own_row(form, id, STRIDE) == wanted);
    }
  }
}

TEST_CASE("own rows lie with the base's stride, their numbers beside them, and vectors behind all matrices") {
  std::mt19937 random(2);
  const std::vector<float> table = numbers(random, 100 * 40), single = numbers(random, 2 * 40), k = numbers(random, 8 * 40), norm = numbers(random, 40), bias = numbers(random, 8);
  std::vector<SourceReplacement> replacements = {run_of(0, 0, 100, 40, table), listed(0, {7, 99}, 40, single), run_of(1, 0, 40, 1, norm), run_of(2, 16, 8, 40, k)};
  replacements.push_back(run_of(2, 16, 8, 1, bias));
  replacements.back().of_bias = true;
  replacements.back().base = numbers(random, 8);
  const AdapterLayout layout({}, SITES, replacements);
  /* What was there before must not show through. */
  std::vector<uint8_t> bytes(layout.bytes(), 0xff);
  layout.write({}, bytes.data(), replacements);
  CHECK(layout.forms() == (FORM_EMBEDDING | FORM_NORMS | FORM_ROWS | FORM_OUTPUTS));
  CHECK(layout.site_forms() == std::vector<uint8_t>{0, 0, FORM_ROWS | FORM_OUTPUTS, 0});
  const std::vector<FormRecord> forms = layout.forms_at(bytes.data());
  REQUIRE(forms[0].num_rows == 100);
  REQUIRE(forms[2].num_rows == 8);
  CHECK(forms[3].num_rows == 0);
  for (int token = 0; token < 100; token++) {
    const bf16* const row = own_row(forms[0], token, 64);
    REQUIRE(row != nullptr);
    const float* const from = token == 7 ? single.data() : token == 99 ? single.data() + 40 : table.data() + token * 40;
    for (int i = 0; i < 64; i++) REQUIRE(as_float(row[i]) == (i < 40 ? from[i] : 0.0f));
  }
  for (int output = 0; output < 32; output++) {
    const bf16* const row = own_row(forms[2], output, 64);
    REQUIRE((row != nullptr) == (output >= 16 && output < 24));
    if (row != nullptr) for (int i = 0; i < 40; i++) REQUIRE(as_float(row[i]) == k[(output - 16) * 40 + i]);
    CHECK(forms[2].shift[output] == (row != nullptr ? bias[output - 16] - replacements.back().base[output - 16] : 0.0f));
  }
  for (int i = 0; i < 40; i++) CHECK(forms[1].norm[i] == norm[i]);
  for (const float* vector : {forms[1].norm, forms[2].shift}) {
    CHECK(reinterpret_cast<const uint8_t*>(vector) >= bytes.data() + layout.forms_at());
    CHECK(reinterpret_cast<const uint8_t*>(vector) < bytes.data() + layout.bytes());
  }
  for (const SiteRecord& record : layout.records_at(bytes.data())) CHECK(record.num_deltas == 0);
}

TEST_CASE("own rows of a router keep every bit, those of experts are bfloat16, and neither sets products of layers apart") {
  /* A router of two experts, and of each the gate and up of 8 outputs. */
  const std::vector<SiteSpec> sites = {{40, {0, 2}, SITE_KIND_ROUTER}, {40, {0, 8, 16}, SITE_KIND_EXPERT}, {40, {0, 8, 16}, SITE_KIND_EXPERT, 1}};
  std::vector<float> router(2 * 40), up(8 * 40);
  for (std::vector<float>* values : {&router, &up})
    for (size_t i = 0; i < values->size(); i++) (*values)[i] = 1.0f / static_cast<float>(3 + i);
  router[41] = std::numeric_limits<float>::max();
  const std::vector<SourceReplacement> replacements = {run_of(0, 0, 2, 40, router), run_of(2, 8, 8, 40, up)};
  const AdapterLayout layout({}, sites, replacements);
  std::vector<uint8_t> bytes(layout.bytes(), 0xff);
  layout.write({}, bytes.data(), replacements);
  CHECK(layout.forms() == FORM_EXPERT_ROWS);
  CHECK(layout.site_forms() == std::vector<uint8_t>{FORM_EXPERT_ROWS, 0, FORM_EXPERT_ROWS});
  const std::vector<FormRecord> forms = layout.forms_at(bytes.data());
  REQUIRE(forms[0].num_rows == 2);
  CHECK(forms[0].rows == nullptr);
  for (int id = 0; id < 2; id++) {
    REQUIRE(own_index(forms[0], id) == id);
    for (int i = 0; i < 64; i++) REQUIRE(forms[0].exact_rows[id * 64 + i] == (i < 40 ? router[id * 40 + i] : 0.0f));
  }
  CHECK((forms[1].num_rows == 0 && forms[1].rows == nullptr && forms[1].exact_rows == nullptr));
  REQUIRE(forms[2].num_rows == 8);
  CHECK(forms[2].exact_rows == nullptr);
  for (int output = 0; output < 16; output++) {
    const bf16* const row = own_row(forms[2], output, 64);
    REQUIRE((row != nullptr) == (output >= 8));
    for (int i = 0; row != nullptr && i < 64; i++) REQUIRE(as_float(row[i]) == (i < 40 ? __bfloat162float(__float2bfloat16(up[(output - 8) * 40 + i])) : 0.0f));
  }
  router[41] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_WITH_AS(layout.write({}, bytes.data(), replacements), "the adapter has a value that is not finite in row 1 of a matrix", Error);
}

TEST_CASE("rows that the model does not have, and numbers that are not finite, are refused") {
  std::mt19937 random(3);
  const std::vector<float> values = numbers(random, 200 * 40);
  CHECK(refusal({run_of(0, 0, 100, 40, values)}) == "accepted");
  const std::string missing = "adapter_invalid: the adapter replaces rows that the model does not have";
  CHECK(refusal({run_of(0, 1, 100, 40, values)}) == missing);
  CHECK(refusal({run_of(0, -1, 100, 40, values)}) == missing);
  CHECK(refusal({run_of(0, 0, 100, 41, values)}) == missing);
  CHECK(refusal({listed(3, {4, 100}, 40, values)}) == missing);
  CHECK(refusal({run_of(1, 0, 39, 1, values)}) == "adapter_invalid: the adapter replaces a norm of another width");
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::max()}) {
    std::vector<float> spoilt = values;
    spoilt[2 * 40 + 3] = bad;
    CHECK(refusal({run_of(0, 5, 10, 40, spoilt)}) == "adapter_invalid: the adapter has a value that is not finite in row 2 of a matrix");
  }
  std::vector<float> spoilt = values;
  spoilt[12] = std::numeric_limits<float>::infinity();
  CHECK(refusal({run_of(1, 0, 40, 1, spoilt)}) == "adapter_invalid: the adapter has a norm that is not finite in row 12");
}

TEST_CASE("an embedding's warps sum the squares of each changed column, own rows in the base's place, as by the definition") {
  std::mt19937 random(4);
  constexpr int TOKENS = 100, WIDTH = 40, RANK = 11, STRIDE = 64;
  std::vector<float> a(RANK * TOKENS), b(WIDTH * RANK), lengths(WIDTH, 1.0f), base(TOKENS * WIDTH);
  for (std::vector<float>* values : {&a, &b, &base}) for (float& value : *values) value = __bfloat162float(__float2bfloat16(static_cast<float>(random() % 2001) / 1000 - 1));
  std::vector<Columns> table(TOKENS * STRIDE / COLUMNS_AT_ONCE);
  for (int token = 0; token < TOKENS; token++)
    for (int i = 0; i < STRIDE; i++) table[0].numbers[token * STRIDE + i] = __float2bfloat16(i < WIDTH ? base[token * WIDTH + i] : 0.0f);
  const std::vector<float> own = numbers(random, 2 * WIDTH);
  for (const bool has_own : {false, true}) {
    const std::vector<SourceDelta> deltas = {{0, 0, WIDTH, RANK, 0.75f, {Dtype::f32, RANK, TOKENS, a.data()}, {Dtype::f32, WIDTH, RANK, b.data()}, nullptr, lengths.data()}};
    std::vector<SourceReplacement> replacements;
    if (has_own) replacements.push_back(listed(0, {0, 63}, WIDTH, own));
    const AdapterLayout layout(deltas, SITES, replacements);
    CHECK(layout.forms() == FORM_EMBEDDING);
    /* Its ranks take no room that products need. */
    CHECK(layout.max_total_rank() == 0);
    CHECK(layout.gained() == std::vector<std::pair<int, int>>{{0, 0}});
    std::vector<uint8_t> bytes(layout.bytes());
    layout.write(deltas, bytes.data(), replacements);
    const SiteRecord record = layout.records_at(bytes.data())[0];
    const GainArgs args = {.weight = table[0].numbers, .exact = nullptr, .weight_stride = STRIDE, .own = layout.forms_at(bytes.data())[0], .num_tokens = TOKENS, .a = record.a, .a_steps = a_steps(TOKENS),
                           .delta = record.deltas[0], .gain = nullptr, .bias = nullptr, .bad_output = nullptr};
    for (int output = 0; output < WIDTH; output++) {
      double wanted = 0.0;
      for (int token = 0; token < TOKENS; token++) {
        const bool is_own = has_own && (token == 0 || token == 63);
        double value = is_own ? own[(token == 63) * WIDTH + output] : base[token * WIDTH + output], delta = 0.0;
        for (int rank = 0; rank < RANK; rank++) delta += static_cast<double>(b[output * RANK + rank]) * a[rank * TOKENS + token];
        REQUIRE(embedded(record.a, a_steps(TOKENS), record.deltas[0], token, output) == doctest::Approx(delta).epsilon(1e-4));
        value += 0.75 * delta;
        wanted += value * value;
      }
      float sum = 0.0f;
      for (int worker = 0; worker < 8; worker++) sum += changed_column_squares(args, output, worker, 8);
      REQUIRE(std::fabs(sum - wanted) <= 1e-4 * wanted);
    }
  }
}
