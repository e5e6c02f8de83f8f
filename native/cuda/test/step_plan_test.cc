#include "../engine/step_plan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <string>

#include "../engine/adapters.h"
#include "../engine/error.h"
#include "../kernels/kernels.h"
#include "step_block.h"

using namespace lorikeet;
using namespace lorikeet::testing;

namespace {

constexpr int VOCABULARY = 1000, NUM_PAGES = 4096, NUM_SLOTS = 40;

PlanLimits limits_with(int longest_window = 0) {
  return {.max_rows = 8192, .max_sequences = 512, .num_extents = NUM_PAGES, .num_slots = NUM_SLOTS, .num_heads = 32, .num_kv_heads = 8,
          .num_multiprocessors = 132, .vocabulary = VOCABULARY, .longest_window = longest_window, .small_rows = 256, .streamed_rows = 64, .large_tile_rows = LARGE_TILE_ROWS};
}

/** Numbers in [low, high], small ones as likely as large ones. */
int spread(std::mt19937& random, int low, int high) {
  const double share = static_cast<double>(random()) / static_cast<double>(std::mt19937::max());
  return low + static_cast<int>(share * share * share * (high - low) + 0.5);
}

std::vector<Sequence> sort_by_slot(std::vector<Sequence> sequences) {
  std::stable_sort(sequences.begin(), sequences.end(), [](const Sequence& a, const Sequence& b) { return a.slot < b.slot; });
  return sequences;
}

int slot_of(std::mt19937& random, int num_slots) { return static_cast<int>(random() % (num_slots + 1)) - 1; }

std::vector<Sequence> random_decode(std::mt19937& random, int rows, int longest, int num_slots) {
  std::vector<Sequence> sequences;
  for (int i = 0; i < rows; i++) sequences.push_back({1, spread(random, 0, longest - 1), slot_of(random, num_slots), true, static_cast<int>(random() % 3), 0, random() % 4 == 0});
  return sort_by_slot(std::move(sequences));
}

std::vector<Sequence> random_mix(std::mt19937& random, int num_sequences, int longest, int num_slots) {
  std::vector<Sequence> sequences;
  for (int i = 0; i < num_sequences; i++) {
    const int num_rows = random() % 2 == 0 ? 1 : spread(random, 1, longest);
    const int num_scored = random() % 8 == 0 ? static_cast<int>(random() % std::min(num_rows, 8)) : 0;
    sequences.push_back({num_rows, spread(random, 0, 2000), slot_of(random, num_slots), random() % 3 != 0, 0, num_scored, random() % 4 == 0});
  }
  return sort_by_slot(std::move(sequences));
}

/** What `write` left, section by section. */
struct Written {
  BlockLayout layout;
  std::vector<int32_t> words;

  template <typename T> std::vector<T> items(int at, int count) const {
    const T* first = reinterpret_cast<const T*>(words.data() + at);
    return std::vector<T>(first, first + count);
  }
  std::vector<int32_t> ints(int at, int count) const { return items<int32_t>(at, count); }
  std::vector<DecodeItem> decode_items() const { return items<DecodeItem>(layout.decode_items_at, layout.decode_items); }
  std::vector<PrefillItem> prefill_items() const { return items<PrefillItem>(layout.prefill_items_at, layout.prefill_items); }
  std::vector<RowTile> sampled_tiles() const { return items<RowTile>(layout.sampled_tiles_at, layout.sampled_tiles); }
  std::vector<RowTile> tiles() const { return items<RowTile>(layout.tiles_at, layout.tiles); }
};

constexpr uint32_t FIRST_TAG = 0x89abcdef;

Written write(const StepPlan& plan, const BlockLayout& layout) {
  Written written = {layout, std::vector<int32_t>(plan.words_of(layout), 0x5a5a5a5a)};
  plan.write(layout, FIRST_TAG, written.words.data());
  return written;
}

BlockLayout exact(const StepShape& shape) { return BlockLayout::of(shape.rows, shape.sampled, shape.decode_items, shape.prefill_items, shape.tiles, shape.sampled_tiles); }

/** The code and message that a block is refused with. */
std::string refusal(const PlanLimits& limits, const Block& block) {
  StepPlan plan(limits);
  try {
    plan.read(block.words.data(), block.words.size());
    return "accepted";
  } catch (const Error& error) {
    return error.code + ": " + error.what();
  }
}

}  // namespace

TEST_CASE("a bucket is the least that holds the rows") {
  for (int rows = 1; rows <= DECODE_BUCKETS.back(); rows++) {
    const int bucket = bucket_of(rows);
    REQUIRE(bucket >= rows);
    REQUIRE(std::count(DECODE_BUCKETS.begin(), DECODE_BUCKETS.end(), bucket) == 1);
    for (const int other : DECODE_BUCKETS) REQUIRE_FALSE((other >= rows && other < bucket));
  }
  CHECK(bucket_of(DECODE_BUCKETS.back() + 1) == 0);
  CHECK(std::is_sorted(DECODE_BUCKETS.begin(), DECODE_BUCKETS.end()));
}

TEST_CASE("sections of a layout lie in order, apart, on 64 bytes, and depend on capacities alone") {
  std::mt19937 random(1);
  for (int run = 0; run < 200; run++) {
    const int rows = 1 + random() % 600, sampled = random() % 300, decode = random() % 700, prefill = random() % 200, tiles = random() % 100, sampled_tiles = random() % 50;
    const BlockLayout layout = BlockLayout::of(rows, sampled, decode, prefill, tiles, sampled_tiles);
    const std::vector<std::pair<int, int>> sections = {
        {layout.tokens_at, rows}, {layout.positions_at, rows}, {layout.kv_slots_at, rows}, {layout.row_slots_at, rows}, {layout.sampled_rows_at, sampled},
        {layout.sampled_slots_at, sampled}, {layout.samples_at, sampled * SAMPLE_WORDS}, {layout.decode_items_at, decode * 8}, {layout.prefill_items_at, prefill * 4}, {layout.tiles_at, tiles * 4}, {layout.sampled_tiles_at, sampled_tiles * 4}, {layout.first_tag_at, 1}};
    int end = 0;
    for (const auto& [at, words] : sections) {
      REQUIRE(at % 16 == 0);
      REQUIRE(at >= end);
      end = at + words;
    }
    REQUIRE(layout.pages_at >= end);
  }
  static_assert(sizeof(DecodeItem) == 32 && sizeof(PrefillItem) == 16 && sizeof(RowTile) == 16);
}

TEST_CASE("decode rows: stretches cover every position that a row sees exactly once, in order, whatever the lengths and the window") {
  std::mt19937 random(2);
  for (const int window : {0, 1, 63, 64, 65, 100, 1000}) {
    for (int run = 0; run < 120; run++) {
      PlanLimits limits = limits_with(window);
      limits.num_kv_heads = 1 << random() % 4;
      limits.num_heads = limits.num_kv_heads * (1 + random() % 40);
      limits.num_multiprocessors = 1 + random() % 160;
      StepPlan plan(limits);
      const int rows = 1 + random() % DECODE_BUCKETS.back();
      const Block block = make_block(random_decode(random, rows, 1 + random() % 20000, 4), VOCABULARY, NUM_PAGES, random);
      const StepShape shape = plan.read(block.words.data(), block.words.size());
      REQUIRE(shape.is_decode);
      REQUIRE(shape.prefill_items == 0);
      REQUIRE(shape.decode_items <= max_decode_items(limits, rows));
      const std::vector<DecodeItem> items = write(plan, exact(shape)).decode_items();
      size_t next = 0;
      int pages_at = 0;
      for (int row = 0; row < rows; row++) {
        const int position = block.sequences[row].position;
        REQUIRE(next < items.size());
        const int num_splits = items[next].num_splits;
        int covered = items[next].begin;
        /* Whole pages before the window may be left out, nothing within it. */
        REQUIRE(covered <= std::max(0, window == 0 ? 0 : position + 1 - window));
        for (int split = 0; split < num_splits; split++, next++) {
          const DecodeItem& item = items[next];
          REQUIRE(item.row == row);
          REQUIRE(item.position == position);
          REQUIRE(item.pages_at == pages_at);
          REQUIRE(item.split == split);
          REQUIRE(item.num_splits == num_splits);
          REQUIRE(item.begin == covered);
          REQUIRE(item.begin % PAGE_TOKENS == 0);
          REQUIRE(item.end > item.begin);
          covered = item.end;
        }
        REQUIRE(covered == position + 1);
        if (window > 0) REQUIRE(position + 1 - items[next - num_splits].begin < window + PAGE_TOKENS);
        pages_at += (position + PAGE_TOKENS) / PAGE_TOKENS;
      }
      REQUIRE(next == items.size());
    }
  }
}

TEST_CASE("one long row is shared out over the device, many short ones are not cut") {
  std::mt19937 random(3);
  StepPlan plan(limits_with());
  const Block alone = make_block({{1, 32767, -1}}, VOCABULARY, NUM_PAGES, random);
  CHECK(plan.read(alone.words.data(), alone.words.size()).decode_items > 16);
  const Block many = make_block(std::vector<Sequence>(256, {1, 1023, -1}), VOCABULARY, NUM_PAGES, random);
  CHECK(plan.read(many.words.data(), many.words.size()).decode_items == 256);
}

TEST_CASE("prompt rows: runs cover every row of longer sequences exactly once, those that see most first") {
  std::mt19937 random(4);
  for (int run = 0; run < 200; run++) {
    StepPlan plan(limits_with());
    const Block block = make_block(random_mix(random, 1 + random() % 12, 400, 6), VOCABULARY, NUM_PAGES, random);
    const StepShape shape = plan.read(block.words.data(), block.words.size());
    const Written written = write(plan, exact(shape));
    std::vector<int> times(block.rows, 0);
    const int32_t* sequence_of_row = block.section(STEP_HEADER_SEQUENCE_OF_ROW_AT);
    const int32_t* positions = block.section(STEP_HEADER_POSITIONS_AT);
    const int32_t* records = block.section(STEP_HEADER_SEQUENCES_AT);
    int64_t sees = INT64_MAX;
    for (const PrefillItem& item : written.prefill_items()) {
      REQUIRE(item.num_rows >= 1);
      REQUIRE(item.num_rows <= PREFILL_ROWS);
      const int s = sequence_of_row[item.row];
      for (int i = 0; i < item.num_rows; i++) {
        times[item.row + i]++;
        REQUIRE(sequence_of_row[item.row + i] == s);
        REQUIRE(positions[item.row + i] == item.position + i);
      }
      REQUIRE(item.pages_at == records[s * SEQUENCE_WORDS + SEQUENCE_PAGES_START]);
      REQUIRE(item.position + item.num_rows <= sees);
      sees = item.position + item.num_rows;
    }
    for (const DecodeItem& item : written.decode_items()) times[item.row] += item.split == 0;
    for (int row = 0; row < block.rows; row++) REQUIRE(times[row] == 1);
    const bool all_single = std::all_of(block.sequences.begin(), block.sequences.end(), [](const Sequence& each) { return each.num_rows == 1; });
    REQUIRE(shape.is_decode == (all_single && block.sampled == block.rows));
  }
}

TEST_CASE("tiles cover exactly the rows with an adapter, and all rows in large steps") {
  std::mt19937 random(5);
  int num_large = 0, num_streamed = 0, num_small = 0, num_without = 0;
  for (int run = 0; run < 600; run++) {
    PlanLimits limits = limits_with();
    limits.large_tile_rows = run % 2 == 0 ? LARGE_TILE_ROWS : SMALL_TILE_ROWS;
    limits.streamed_rows = run % 4 < 2 ? 64 : 0;
    limits.num_slots = 1 + random() % NUM_SLOTS;
    StepPlan plan(limits);
    const int num_slots = run % 10 == 0 ? 0 : limits.num_slots;
    const Block block = make_block(random_mix(random, 1 + random() % 60, run % 3 == 0 ? 300 : 8, num_slots), VOCABULARY, NUM_PAGES, random);
    const StepShape shape = plan.read(block.words.data(), block.words.size());
    const bool is_large = block.rows > limits.small_rows, is_streamed = block.rows <= limits.streamed_rows;
    num_large += is_large, num_streamed += is_streamed, num_small += !is_large && !is_streamed;
    REQUIRE(shape.tiles <= max_tiles(limits, block.rows, 0));
    std::vector<int> slots;
    for (const Sequence& each : block.sequences) slots.insert(slots.end(), each.num_rows, each.slot);
    const bool has_adapters = std::any_of(slots.begin(), slots.end(), [](int slot) { return slot >= 0; });
    REQUIRE(shape.has_adapters == has_adapters);
    num_without += !has_adapters;
    if (!has_adapters) REQUIRE(shape.tiles == 0);
    const Written written = write(plan, exact(shape));
    std::vector<int> times(block.rows, 0);
    for (const RowTile& tile : written.tiles()) {
      REQUIRE(tile.num_rows >= 1);
      REQUIRE(tile.num_rows <= (is_large ? limits.large_tile_rows : is_streamed ? limits.streamed_rows : SMALL_TILE_ROWS));
      for (int row = tile.row; row < tile.row + tile.num_rows; row++) {
        REQUIRE(slots[row] == tile.slot);
        times[row]++;
      }
    }
    for (int row = 0; row < block.rows; row++) REQUIRE(times[row] == (has_adapters && (slots[row] >= 0 || is_large)));
    const std::vector<int32_t> row_slots = written.ints(written.layout.row_slots_at, block.rows);
    for (int row = 0; row < block.rows; row++) REQUIRE(row_slots[row] == slots[row]);
  }
  CHECK(num_large > 100);
  CHECK(num_streamed > 50);
  CHECK(num_small > 50);
  CHECK(num_without > 20);
}

TEST_CASE("where an adapter changes the head, tiles of sampled rows cover exactly those with an adapter") {
  std::mt19937 random(13);
  int num_tiles = 0;
  for (int run = 0; run < 400; run++) {
    PlanLimits limits = limits_with();
    limits.large_tile_rows = run % 2 == 0 ? LARGE_TILE_ROWS : SMALL_TILE_ROWS;
    limits.streamed_rows = run % 4 < 2 ? 64 : 0;
    std::vector<uint32_t> forms(limits.num_slots, 0);
    const int changing = static_cast<int>(random() % 4);
    forms[changing] = FORM_HEAD;
    StepPlan plan(limits);
    const Block block = run % 3 == 0 ? make_block(random_decode(random, 1 + random() % 256, 300, 4), VOCABULARY, NUM_PAGES, random)
                                     : make_block(random_mix(random, 1 + random() % 200, 20, 4), VOCABULARY, NUM_PAGES, random);
    const StepShape shape = plan.read(block.words.data(), block.words.size(), forms.data());
    std::vector<int> slots;
    for (const Sequence& each : block.sequences) slots.insert(slots.end(), each.num_rows, each.slot);
    const bool changes = std::count(slots.begin(), slots.end(), changing) > 0;
    REQUIRE(shape.forms == (changes ? FORM_HEAD : 0u));
    REQUIRE((changes || shape.sampled_tiles == 0));
    REQUIRE(shape.sampled_tiles <= max_sampled_tiles(limits, block.sampled));
    const int bucket = shape.is_decode ? bucket_of(block.rows) : 0;
    /* A graph has room for those of all steps with so many tiles. */
    if (bucket != 0) REQUIRE(shape.sampled_tiles <= sampled_tiles_of(limits, bucket, shape.tiles));
    const Written written = write(plan, exact(shape));
    std::vector<int> times(block.sampled, 0);
    for (const RowTile& tile : written.sampled_tiles()) {
      REQUIRE(tile.num_rows >= 1);
      REQUIRE(tile.num_rows <= limits.large_tile_rows);
      for (int i = tile.row; i < tile.row + tile.num_rows; i++) {
        REQUIRE(written.words[written.layout.sampled_slots_at + i] == tile.slot);
        times[i]++;
      }
    }
    num_tiles += shape.sampled_tiles;
    const int32_t* samples = block.section(STEP_HEADER_SAMPLES_AT);
    for (int i = 0; i < block.sampled; i++) REQUIRE(times[i] == (changes && slots[samples[i * SAMPLE_WORDS + SAMPLE_ROW]] >= 0));
  }
  CHECK(num_tiles > 500);
}

TEST_CASE("where an adapter has rows of its own in layers, tiles are large ones, in graphs too") {
  std::mt19937 random(14);
  for (int run = 0; run < 200; run++) {
    PlanLimits limits = limits_with();
    limits.large_tile_rows = run % 2 == 0 ? LARGE_TILE_ROWS : SMALL_TILE_ROWS;
    const std::vector<uint32_t> forms(limits.num_slots, FORM_ROWS);
    StepPlan plan(limits);
    const Block block = make_block(random_decode(random, 1 + random() % 256, 300, 8), VOCABULARY, NUM_PAGES, random);
    const StepShape shape = plan.read(block.words.data(), block.words.size(), forms.data());
    if (!shape.has_adapters) continue;
    REQUIRE(shape.forms == FORM_ROWS);
    const int bucket = bucket_of(block.rows);
    REQUIRE(shape.tiles <= tile_bucket(shape.tiles, max_tiles(limits, bucket, shape.forms)));
    for (const RowTile& tile : write(plan, exact(shape)).tiles()) REQUIRE(tile.num_rows <= limits.large_tile_rows);
  }
}

TEST_CASE("a prompt that is scored has as many samples as rows, within the limit of a step") {
  std::mt19937 random(12);
  PlanLimits limits = limits_with();
  limits.max_sequences = 4;
  const Block scored = make_block({{4, 0, -1, true, 2, 3}}, VOCABULARY, NUM_PAGES, random);
  StepPlan plan(limits);
  const StepShape shape = plan.read(scored.words.data(), scored.words.size());
  CHECK(shape.sampled == 4);
  CHECK(shape.changes == 5 * ADJUSTMENT_WORDS);
  CHECK_FALSE(shape.is_decode);
  const Written written = write(plan, exact(shape));
  CHECK(written.ints(written.layout.sampled_rows_at, 4) == std::vector<int32_t>{0, 1, 2, 3});
  CHECK(refusal(limits, make_block({{5, 0, -1, true, 0, 4}}, VOCABULARY, NUM_PAGES, random)) == "step_invalid: a step block breaks a rule: sampled rows lie within the limit");
}

TEST_CASE("what is written equals a model that looks every row up") {
  std::mt19937 random(6);
  for (int run = 0; run < 200; run++) {
    StepPlan plan(limits_with());
    const Block block = run % 2 == 0 ? make_block(random_decode(random, 1 + random() % 200, 3000, 8), VOCABULARY, NUM_PAGES, random)
                                     : make_block(random_mix(random, 1 + random() % 30, 200, 8), VOCABULARY, NUM_PAGES, random);
    const StepShape shape = plan.read(block.words.data(), block.words.size());
    REQUIRE(shape.rows == block.rows);
    REQUIRE(shape.sampled == block.sampled);
    const Written written = write(plan, exact(shape));
    const BlockLayout& layout = written.layout;
    const int32_t* tokens = block.section(STEP_HEADER_TOKENS_AT);
    const int32_t* pages = block.section(STEP_HEADER_PAGES_AT);
    int row = 0, first_page = 0;
    for (const Sequence& each : block.sequences) {
      for (int i = 0; i < each.num_rows; i++, row++) {
        const int position = each.position + i;
        REQUIRE(written.words[layout.tokens_at + row] == tokens[row]);
        REQUIRE(written.words[layout.positions_at + row] == position);
        REQUIRE(written.words[layout.kv_slots_at + row] == pages[first_page + position / PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS);
      }
      first_page += (each.position + each.num_rows + PAGE_TOKENS - 1) / PAGE_TOKENS;
    }
    REQUIRE(shape.pages == first_page);
    REQUIRE(written.words.size() == static_cast<size_t>(layout.pages_at + first_page));
    REQUIRE(std::equal(pages, pages + first_page, written.words.begin() + layout.pages_at));
    const int32_t* samples = block.section(STEP_HEADER_SAMPLES_AT);
    for (int i = 0; i < block.sampled; i++) {
      std::vector<int32_t> sample(samples + i * SAMPLE_WORDS, samples + (i + 1) * SAMPLE_WORDS);
      int32_t& allowed_at = sample[SAMPLE_ALLOWED_AT];
      allowed_at = allowed_at == 0 ? -1 : allowed_at - block.header(STEP_HEADER_ADJUSTMENTS_AT);
      REQUIRE(std::equal(sample.begin(), sample.end(), written.words.begin() + layout.samples_at + i * SAMPLE_WORDS));
      const int sampled_row = samples[i * SAMPLE_WORDS + SAMPLE_ROW];
      REQUIRE(written.words[layout.sampled_rows_at + i] == sampled_row);
      REQUIRE(written.words[layout.sampled_slots_at + i] == written.words[layout.row_slots_at + sampled_row]);
    }
    const int num_changes = std::accumulate(block.sequences.begin(), block.sequences.end(), 0, [](int sum, const Sequence& each) {
      const int allowed_words = each.sampled && each.is_constrained ? (VOCABULARY + 31) / 32 : 0;
      return sum + (each.num_scored + (each.sampled ? each.num_adjustments : 0)) * ADJUSTMENT_WORDS + allowed_words;
    });
    REQUIRE(shape.changes == num_changes);
    REQUIRE(plan.changes() == block.section(STEP_HEADER_ADJUSTMENTS_AT));
  }
}

TEST_CASE("a block with any word changed is refused by a rule, or still stays within the engine's memory") {
  std::mt19937 random(11);
  const PlanLimits limits = limits_with();
  const std::vector<uint32_t> forms(NUM_SLOTS, FORM_HEAD);
  int num_refused = 0, num_accepted = 0;
  for (int run = 0; run < 4000; run++) {
    Block block = make_block(random_mix(random, 1 + random() % 12, 20, 8), VOCABULARY, NUM_PAGES, random);
    /* Headers, records of sequences and segments, and samples; penalties and tokens have no structure. */
    const int structure = block.header(STEP_HEADER_ADJUSTMENTS_AT);
    const int values[] = {-1, 0, 1, 7, 63, 64, 1 << 20, INT32_MAX, INT32_MIN, static_cast<int>(random())};
    for (int changes = 1 + random() % 3; changes > 0; changes--) block.words[2 + random() % (structure - 2)] = values[random() % 10];
    /* A copy of its own, so that a tool that watches memory sees a read beyond it. */
    const std::vector<int32_t> words(block.words);
    StepPlan plan(limits);
    try {
      const StepShape shape = plan.read(words.data(), words.size(), forms.data());
      num_accepted++;
      const Written written = write(plan, exact(shape));
      for (int row = 0; row < shape.rows; row++) {
        const int kv_slot = written.words[written.layout.kv_slots_at + row], sampled = written.words[written.layout.row_slots_at + row];
        REQUIRE(kv_slot >= 0);
        REQUIRE(kv_slot < NUM_PAGES * PAGE_TOKENS);
        REQUIRE(sampled >= -1);
        REQUIRE(sampled < NUM_SLOTS);
      }
      for (const DecodeItem& item : written.decode_items()) {
        REQUIRE(item.row < shape.rows);
        REQUIRE(item.pages_at + (item.end + PAGE_TOKENS - 1) / PAGE_TOKENS <= shape.pages);
      }
      for (const PrefillItem& item : written.prefill_items()) {
        REQUIRE(item.row + item.num_rows <= shape.rows);
        REQUIRE(item.pages_at + (item.position + item.num_rows + PAGE_TOKENS - 1) / PAGE_TOKENS <= shape.pages);
      }
      for (const RowTile& tile : written.tiles()) REQUIRE(tile.row + tile.num_rows <= shape.rows);
      for (const RowTile& tile : written.sampled_tiles()) REQUIRE(tile.row + tile.num_rows <= shape.sampled);
      for (int i = 0; i < shape.sampled; i++) {
        const int allowed_at = written.words[written.layout.samples_at + i * SAMPLE_WORDS + SAMPLE_ALLOWED_AT];
        REQUIRE(allowed_at >= -1);
        REQUIRE((allowed_at == -1 || allowed_at + (VOCABULARY + 31) / 32 <= shape.changes));
      }
    } catch (const Error& error) {
      REQUIRE(error.code == "step_invalid");
      num_refused++;
    }
  }
  CHECK(num_refused > 1000);
  CHECK(num_accepted > 100);
}

TEST_CASE("padding: a step in its bucket's layout does no more than the step, and finds it at the same places") {
  std::mt19937 random(7);
  const PlanLimits limits = limits_with();
  StepPlan plan(limits);
  std::map<int, int> pages_at_of_bucket;
  for (int run = 0; run < 300; run++) {
    const int rows = 1 + random() % DECODE_BUCKETS.back(), bucket = bucket_of(rows);
    const Block block = make_block(random_decode(random, rows, 8000, NUM_SLOTS), VOCABULARY, NUM_PAGES, random);
    const StepShape shape = plan.read(block.words.data(), block.words.size());
    const BlockLayout layout = BlockLayout::of(bucket, bucket, max_decode_items(limits, bucket), 0, max_tiles(limits, bucket, 0), 0);
    REQUIRE(shape.decode_items <= layout.decode_items);
    REQUIRE(shape.tiles <= layout.tiles);
    REQUIRE(pages_at_of_bucket.try_emplace(bucket, layout.pages_at).first->second == layout.pages_at);
    const Written padded = write(plan, layout), tight = write(plan, exact(shape));
    for (const auto& [wide, narrow] : {std::pair(layout.tokens_at, tight.layout.tokens_at), {layout.positions_at, tight.layout.positions_at},
                                       {layout.kv_slots_at, tight.layout.kv_slots_at}, {layout.row_slots_at, tight.layout.row_slots_at},
                                       {layout.sampled_rows_at, tight.layout.sampled_rows_at}})
      REQUIRE(padded.ints(wide, rows) == tight.ints(narrow, rows));
    REQUIRE(padded.ints(layout.samples_at, rows * SAMPLE_WORDS) == tight.ints(tight.layout.samples_at, rows * SAMPLE_WORDS));
    REQUIRE(padded.ints(layout.decode_items_at, shape.decode_items * 8) == tight.ints(tight.layout.decode_items_at, shape.decode_items * 8));
    REQUIRE(padded.ints(layout.tiles_at, shape.tiles * 4) == tight.ints(tight.layout.tiles_at, shape.tiles * 4));
    for (const Written& each : {padded, tight}) REQUIRE(static_cast<uint32_t>(each.words[each.layout.first_tag_at]) == FIRST_TAG);
    REQUIRE(padded.ints(layout.pages_at, shape.pages) == tight.ints(tight.layout.pages_at, shape.pages));
    for (int row = rows; row < bucket; row++) {
      REQUIRE(padded.words[layout.tokens_at + row] == 0);
      REQUIRE(padded.words[layout.positions_at + row] == 0);
      REQUIRE(padded.words[layout.kv_slots_at + row] == -1);
      REQUIRE(padded.words[layout.row_slots_at + row] == -1);
      REQUIRE(padded.words[layout.sampled_rows_at + row] == -1);
      REQUIRE(padded.words[layout.sampled_slots_at + row] == -1);
      REQUIRE(padded.words[layout.samples_at + row * SAMPLE_WORDS + SAMPLE_ROW] == -1);
    }
    const std::vector<DecodeItem> items = padded.decode_items();
    for (int i = shape.decode_items; i < layout.decode_items; i++) REQUIRE(items[i].row == -1);
    const std::vector<RowTile> tiles = padded.tiles();
    for (int i = shape.tiles; i < layout.tiles; i++) REQUIRE(tiles[i].num_rows == 0);
  }
}

TEST_CASE("a step that has been read leaves nothing to the next") {
  std::mt19937 random(8);
  StepPlan used(limits_with());
  for (int run = 0; run < 60; run++) {
    const Block block = make_block(random_mix(random, 1 + random() % 20, 100, 4), VOCABULARY, NUM_PAGES, random);
    StepPlan fresh(limits_with());
    const StepShape shape = used.read(block.words.data(), block.words.size());
    const StepShape expected = fresh.read(block.words.data(), block.words.size());
    REQUIRE(write(used, exact(shape)).words == write(fresh, exact(expected)).words);
  }
}

TEST_CASE("a block that breaks a limit or its own rules is refused, and the plan still reads the next") {
  std::mt19937 random(9);
  const PlanLimits limits = limits_with();
  /* Rows 0 to 2 of slot 3 at positions 62 to 64, row 3 of slot 5. */
  const Block good = make_block({{3, 62, 3}, {1, 10, 5}}, VOCABULARY, NUM_PAGES, random);
  REQUIRE(refusal(limits, good) == "accepted");
  const auto refused = [&](auto&& change) {
    Block block = good;
    change(block);
    return refusal(limits, block);
  };
  const auto because = [](const char* rule) { return std::string("step_invalid: a step block breaks a rule: ") + rule; };

  CHECK(refused([](Block& b) { b.header(STEP_HEADER_VERSION)++; }) == because("its version is this build's"));
  CHECK(refused([](Block& b) { b.words.resize(STEP_HEADER_WORDS - 1); }) == because("its version is this build's"));
  CHECK(refused([](Block& b) { b.words.pop_back(); }) == because("its length is what it says"));
  CHECK(refused([](Block& b) { b.header(STEP_HEADER_NUM_WORDS) = -1; }) == because("its length is what it says"));
  for (const int rows : {0, -1, limits.max_rows + 1}) CHECK(refused([&](Block& b) { b.header(STEP_HEADER_NUM_ROWS) = rows; }) == because("rows lie within the limit"));
  for (const int count : {0, -1, limits.max_sequences + 1})
    CHECK(refused([&](Block& b) { b.header(STEP_HEADER_NUM_SEQUENCES) = count; }) == because("sequences lie within the limit"));
  CHECK(refused([&](Block& b) { b.header(STEP_HEADER_NUM_SAMPLED) = limits.max_sequences + 1; }) == because("sampled rows lie within the limit"));
  for (const int token : {-1, VOCABULARY}) CHECK(refused([&](Block& b) { b.section(STEP_HEADER_TOKENS_AT)[3] = token; }) == because("tokens lie within the vocabulary, or name a sample of the step before"));
  for (const int page : {-1, NUM_PAGES}) CHECK(refused([&](Block& b) { b.section(STEP_HEADER_PAGES_AT)[2] = page; }) == because("pages lie within the pool"));
  for (const int row : {-1, 2}) CHECK(refused([&](Block& b) { b.section(STEP_HEADER_SEQUENCES_AT)[SEQUENCE_ROW_START] = row; }) == because("sequences follow one another"));
  CHECK(refused([](Block& b) { b.section(STEP_HEADER_SEQUENCES_AT)[SEQUENCE_NUM_ROWS] = 0; }) == because("sequences follow one another"));
  CHECK(refused([](Block& b) { b.section(STEP_HEADER_SEQUENCES_AT)[SEQUENCE_NUM_PAGES] = 1; }) == because("a sequence's pages hold its positions"));
  CHECK(refused([](Block& b) { b.section(STEP_HEADER_POSITIONS_AT)[0] = -1; }) == because("a sequence's pages hold its positions"));
  for (const int slot : {-1, NUM_SLOTS}) CHECK(refused([&](Block& b) { b.section(STEP_HEADER_SEGMENTS_AT)[SEGMENT_SLOT] = slot; }) == because("a segment's slot exists"));
  CHECK(refused([](Block& b) { b.section(STEP_HEADER_SEGMENTS_AT)[int{SEGMENT_WORDS} + SEGMENT_ROW_START] = 2; }) == because("segments ascend"));
  CHECK(refused([](Block& b) { b.section(STEP_HEADER_SEGMENTS_AT)[int{SEGMENT_WORDS} + SEGMENT_NUM_ROWS] = 2; }) == because("segments ascend"));
  for (const int at : {-1, 1, static_cast<int>(good.words.size()) - VOCABULARY / 32})
    CHECK(refused([&](Block& b) { b.section(STEP_HEADER_SAMPLES_AT)[SAMPLE_ALLOWED_AT] = at; }) == because("a sample's allowed tokens are the step's"));
  for (const int row : {0, 2}) CHECK(refused([&](Block& b) { b.section(STEP_HEADER_SAMPLES_AT)[int{SAMPLE_WORDS} + SAMPLE_ROW] = row; }) == because("sampled rows ascend"));

  StepPlan plan(limits);
  Block bad = good;
  bad.header(STEP_HEADER_NUM_ROWS) = 0;
  CHECK_THROWS_AS(plan.read(bad.words.data(), bad.words.size()), Error);
  CHECK(plan.read(good.words.data(), good.words.size()).rows == 4);
}

TEST_CASE("rows may name samples of the step before, as many as there were") {
  std::mt19937 random(12);
  Block block = make_block({{1, 10, -1}, {1, 20, 5}}, VOCABULARY, NUM_PAGES, random);
  int32_t* const tokens = block.section(STEP_HEADER_TOKENS_AT);
  tokens[0] = ~1;
  StepPlan plan(limits_with());
  for (const int num_awaitable : {0, 1}) CHECK_THROWS_AS(plan.read(block.words.data(), block.words.size(), nullptr, num_awaitable), Error);
  const StepShape shape = plan.read(block.words.data(), block.words.size(), nullptr, 2);
  const BlockLayout layout = exact(shape);
  const Written written = write(plan, layout);
  CHECK(written.words[layout.tokens_at] == ~1);
  CHECK(written.words[layout.tokens_at + 1] == tokens[1]);
}

TEST_CASE("the largest step that the limits allow is within its capacities") {
  std::mt19937 random(10);
  const PlanLimits limits = limits_with();
  StepPlan plan(limits);
  /* One row more than a full tile for every slot, base rows before and behind. */
  std::vector<Sequence> sequences = {{1, 0, -1}};
  for (int slot = 0; slot < NUM_SLOTS; slot++) sequences.push_back({LARGE_TILE_ROWS + 1, 0, slot, false});
  sequences.push_back({limits.max_rows - 1 - NUM_SLOTS * (LARGE_TILE_ROWS + 1), 0, -1, false});
  const Block block = make_block(sequences, VOCABULARY, NUM_PAGES, random);
  CHECK(block.rows == limits.max_rows);
  CHECK(plan.read(block.words.data(), block.words.size()).tiles <= max_tiles(limits, block.rows, 0));
  for (const int rows : DECODE_BUCKETS) {
    std::vector<Sequence> decode;
    for (int i = 0; i < rows; i++) decode.push_back({1, 0, std::min(i, NUM_SLOTS - 1)});
    const Block one = make_block(decode, VOCABULARY, NUM_PAGES, random);
    CHECK(plan.read(one.words.data(), one.words.size()).tiles <= max_tiles(limits, rows, 0));
  }
}
