#include "step_plan.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "../../step_layout.h"
#include "../kernels/kernels.h"
#include "adapters.h"
#include "error.h"
#include "round_up.h"

namespace lorikeet {

const std::vector<int> DECODE_BUCKETS = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256};

int bucket_of(int rows) {
  const auto found = std::lower_bound(DECODE_BUCKETS.begin(), DECODE_BUCKETS.end(), rows);
  return found == DECODE_BUCKETS.end() ? 0 : *found;
}

int padded(int rows) {
  constexpr int LARGE_ROW_UNIT = 64;
  const int bucket = bucket_of(rows);
  return bucket != 0 ? bucket : round_up(rows, LARGE_ROW_UNIT);
}

int tile_bucket(int tiles, int most) {
  int bucket = 2;
  while (bucket < tiles) bucket *= 4;
  return std::min(bucket, most);
}

namespace {

/** Blocks of the decode kernel that one multiprocessor holds. */
constexpr int DECODE_BLOCKS_PER_MULTIPROCESSOR = 2;
/** Two pages are under way at once anyway. */
constexpr int MIN_STRETCH_PAGES = 2;
/** Sections begin on 64 bytes. */
constexpr int SECTION_WORDS = 16;

int divide_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

/** Blocks of one stretch: one per kv head and sixteen query heads of it. */
int blocks_per_stretch(const PlanLimits& limits) {
  return limits.num_kv_heads * divide_up(limits.num_heads / limits.num_kv_heads, 16);
}

/** Large steps overwrite whole outputs, or go by tiles where they read them: base rows, too. */
bool covers_all_rows(const PlanLimits& limits, int rows) { return rows > limits.small_rows; }

int tile_rows_of(const PlanLimits& limits, int rows, uint32_t forms) {
  if (forms & FORM_ROWS) return limits.large_tile_rows;
  return rows <= limits.streamed_rows ? limits.streamed_rows : rows <= limits.small_rows ? SMALL_TILE_ROWS : limits.large_tile_rows;
}

void require(bool condition, const char* rule) {
  if (!condition) throw Error("step_invalid", std::string("a step block breaks a rule: ") + rule);
}

/** Sections lie in the header's order, each as long as it says or longer, within the block. */
void require_sections(const int32_t* block, size_t num_words) {
  const int rows = block[STEP_HEADER_NUM_ROWS];
  const struct {
    int field;
    int64_t words;
  } sections[] = {{STEP_HEADER_TOKENS_AT, rows},
                  {STEP_HEADER_POSITIONS_AT, rows},
                  {STEP_HEADER_SEQUENCE_OF_ROW_AT, rows},
                  {STEP_HEADER_SEQUENCES_AT, int64_t{block[STEP_HEADER_NUM_SEQUENCES]} * SEQUENCE_WORDS},
                  {STEP_HEADER_PAGES_AT, 0},
                  {STEP_HEADER_SEGMENTS_AT, int64_t{block[STEP_HEADER_NUM_SEGMENTS]} * SEGMENT_WORDS},
                  {STEP_HEADER_SAMPLES_AT, int64_t{block[STEP_HEADER_NUM_SAMPLED]} * SAMPLE_WORDS},
                  {STEP_HEADER_ADJUSTMENTS_AT, 0}};
  int64_t end = STEP_HEADER_WORDS;
  for (const auto& section : sections) {
    require(block[section.field] >= end, "sections lie in order");
    end = block[section.field] + section.words;
    require(end <= static_cast<int64_t>(num_words), "sections lie within the block");
  }
}

}  // namespace

BlockLayout BlockLayout::of(int rows, int sampled, int decode_items, int prefill_items, int tiles, int sampled_tiles) {
  BlockLayout layout = {};
  layout.rows = rows, layout.sampled = sampled, layout.decode_items = decode_items, layout.prefill_items = prefill_items, layout.tiles = tiles, layout.sampled_tiles = sampled_tiles;
  int end = 0;
  const auto place = [&end](int words) {
    const int at = end;
    end += (words + SECTION_WORDS - 1) / SECTION_WORDS * SECTION_WORDS;
    return at;
  };
  layout.tokens_at = place(rows);
  layout.positions_at = place(rows);
  layout.kv_slots_at = place(rows);
  layout.row_slots_at = place(rows);
  layout.sampled_rows_at = place(sampled);
  layout.sampled_slots_at = place(sampled);
  layout.samples_at = place(sampled * SAMPLE_WORDS);
  layout.decode_items_at = place(decode_items * static_cast<int>(sizeof(DecodeItem) / 4));
  layout.prefill_items_at = place(prefill_items * static_cast<int>(sizeof(PrefillItem) / 4));
  layout.tiles_at = place(tiles * static_cast<int>(sizeof(RowTile) / 4));
  layout.sampled_tiles_at = place(sampled_tiles * static_cast<int>(sizeof(RowTile) / 4));
  layout.first_tag_at = place(1);
  layout.pages_at = end;
  return layout;
}

int max_decode_items(const PlanLimits& limits, int rows) {
  return rows + divide_up(DECODE_BLOCKS_PER_MULTIPROCESSOR * limits.num_multiprocessors, blocks_per_stretch(limits)) + 1;
}

int max_tiles(const PlanLimits& limits, int rows, uint32_t forms) {
  /* Each run of rows with one slot ends in a tile that may not be full; base rows lie between runs. */
  const int slots = std::min(rows, limits.num_slots), runs = covers_all_rows(limits, rows) ? 2 * slots + 1 : slots;
  return std::min(rows, rows / tile_rows_of(limits, rows, forms) + runs);
}

int max_sampled_tiles(const PlanLimits& limits, int sampled) {
  return std::min(sampled, sampled / limits.large_tile_rows + std::min(sampled, limits.num_slots));
}

int sampled_tiles_of(const PlanLimits& limits, int bucket, int tiles) {
  /* All rows are sampled, and no tile of theirs has more rows than a large one can have. */
  return std::min(max_sampled_tiles(limits, bucket), tiles * (LARGE_TILE_ROWS / limits.large_tile_rows));
}

const StepShape& StepPlan::read(const int32_t* block, size_t num_words, const uint32_t* slot_forms, int num_awaitable) {
  shape_ = {};
  stretches_.clear();
  runs_.clear();
  tiles_.clear();
  sampled_tiles_.clear();
  block_ = block;
  require(num_words >= STEP_HEADER_WORDS && block[STEP_HEADER_VERSION] == ABI_VERSION, "its version is this build's");
  require(static_cast<size_t>(block[STEP_HEADER_NUM_WORDS]) == num_words, "its length is what it says");
  shape_.rows = block[STEP_HEADER_NUM_ROWS];
  shape_.sampled = block[STEP_HEADER_NUM_SAMPLED];
  const int num_sequences = block[STEP_HEADER_NUM_SEQUENCES], num_segments = block[STEP_HEADER_NUM_SEGMENTS];
  require(shape_.rows >= 1 && shape_.rows <= limits_.max_rows, "rows lie within the limit");
  require(num_sequences >= 1 && num_sequences <= limits_.max_sequences, "sequences lie within the limit");
  /* A prompt that is scored has more than one. */
  require(shape_.sampled >= 0 && shape_.sampled <= std::min(limits_.max_sequences, shape_.rows), "sampled rows lie within the limit");
  require(num_segments >= 0 && num_segments <= shape_.rows, "segments have rows");
  require_sections(block, num_words);
  const int changes_at = block[STEP_HEADER_ADJUSTMENTS_AT], num_allowed_words = divide_up(limits_.vocabulary, 32);
  changes_ = block + changes_at;
  shape_.changes = static_cast<int>(num_words) - changes_at;
  shape_.pages = block[STEP_HEADER_SEGMENTS_AT] - block[STEP_HEADER_PAGES_AT];
  const int32_t* tokens = block + block[STEP_HEADER_TOKENS_AT];
  for (int row = 0; row < shape_.rows; row++) require(tokens[row] >= -num_awaitable && tokens[row] < limits_.vocabulary, "tokens lie within the vocabulary, or name a sample of the step before");
  const int32_t* pages = block + block[STEP_HEADER_PAGES_AT];
  for (int i = 0; i < shape_.pages; i++) require(pages[i] >= 0 && pages[i] < limits_.num_extents, "pages lie within the pool");
  const int32_t* samples = block + block[STEP_HEADER_SAMPLES_AT];
  for (int i = 0; i < shape_.sampled; i++) {
    const int32_t* sample = samples + i * SAMPLE_WORDS;
    require(sample[SAMPLE_ROW] >= 0 && sample[SAMPLE_ROW] < shape_.rows, "a sampled row is the step's");
    require(i == 0 || sample[SAMPLE_ROW] > (sample - SAMPLE_WORDS)[SAMPLE_ROW], "sampled rows ascend");
    const int64_t first = sample[SAMPLE_ADJUSTMENTS_START], count = sample[SAMPLE_NUM_ADJUSTMENTS];
    require(first >= 0 && count >= 0 && (first + count) * ADJUSTMENT_WORDS <= shape_.changes, "a sample's penalties are the step's");
    const int allowed_at = sample[SAMPLE_ALLOWED_AT];
    require(allowed_at == 0 || (allowed_at >= changes_at && allowed_at <= static_cast<int64_t>(num_words) - num_allowed_words), "a sample's allowed tokens are the step's");
  }

  const int32_t* positions = block + block[STEP_HEADER_POSITIONS_AT];
  const int32_t* sequence_of_row = block + block[STEP_HEADER_SEQUENCE_OF_ROW_AT];
  int next_row = 0;
  bool all_single = true;
  for (int s = 0; s < num_sequences; s++) {
    const int32_t* sequence = block + block[STEP_HEADER_SEQUENCES_AT] + s * SEQUENCE_WORDS;
    const int row = sequence[SEQUENCE_ROW_START], num_rows = sequence[SEQUENCE_NUM_ROWS], pages_at = sequence[SEQUENCE_PAGES_START];
    const int64_t num_pages = sequence[SEQUENCE_NUM_PAGES];
    require(row == next_row && num_rows >= 1 && num_rows <= shape_.rows - row, "sequences follow one another");
    next_row += num_rows;
    require(pages_at >= 0 && num_pages >= 0 && pages_at + num_pages <= shape_.pages, "a sequence's pages are the step's");
    require(positions[row] >= 0 && static_cast<int64_t>(positions[row]) + num_rows <= num_pages * PAGE_TOKENS, "a sequence's pages hold its positions");
    for (int i = 0; i < num_rows; i++)
      require(sequence_of_row[row + i] == s && positions[row + i] == positions[row] + i, "a sequence's rows have ascending positions");
    if (num_rows == 1) {
      stretches_.push_back({row, positions[row], pages_at, 0, positions[row] + 1, 0, 1});
      continue;
    }
    all_single = false;
    for (int first = 0; first < num_rows; first += PREFILL_ROWS)
      runs_.push_back({row + first, std::min(PREFILL_ROWS, num_rows - first), positions[row] + first, pages_at});
  }
  require(next_row == shape_.rows, "every row has a sequence");
  shape_.is_decode = all_single && shape_.sampled == shape_.rows;
  cut_decode_rows();
  /* Rows that see most come first, so that none of them is left running alone at the end. */
  std::stable_sort(runs_.begin(), runs_.end(), [](const Run& a, const Run& b) { return a.position + a.num_rows > b.position + b.num_rows; });
  tile_rows(slot_forms);
  if (shape_.forms & FORM_HEAD) tile_sampled_rows();
  shape_.decode_items = static_cast<int>(stretches_.size());
  shape_.prefill_items = static_cast<int>(runs_.size());
  shape_.tiles = static_cast<int>(tiles_.size());
  shape_.sampled_tiles = static_cast<int>(sampled_tiles_.size());
  return shape_;
}

/** Few long rows would leave most of the device idle, so their positions are shared out. */
void StepPlan::cut_decode_rows() {
  if (stretches_.empty()) return;
  int64_t total = 0;
  for (Stretch& row : stretches_) {
    if (limits_.longest_window > 0) row.begin = std::max(0, row.position + 1 - limits_.longest_window) / PAGE_TOKENS * PAGE_TOKENS;
    total += row.end - row.begin;
  }
  const int64_t blocks = DECODE_BLOCKS_PER_MULTIPROCESSOR * limits_.num_multiprocessors;
  const int length = std::max(MIN_STRETCH_PAGES, divide_up(total * blocks_per_stretch(limits_), blocks * PAGE_TOKENS));
  std::vector<Stretch> cut;
  cut.reserve(stretches_.size());
  for (const Stretch& row : stretches_) {
    const int num_pages = divide_up(row.end - row.begin, PAGE_TOKENS);
    /* The nearest number of equal parts: a row a little longer than the rest is not worth a second block. */
    const int wanted = std::max(1, (num_pages + length / 2) / length);
    const int part_pages = divide_up(num_pages, wanted), num_splits = divide_up(num_pages, part_pages);
    for (int split = 0; split < num_splits; split++) {
      Stretch part = row;
      part.begin = row.begin + split * part_pages * PAGE_TOKENS;
      part.end = std::min(row.end, part.begin + part_pages * PAGE_TOKENS);
      part.split = split;
      part.num_splits = num_splits;
      cut.push_back(part);
    }
  }
  stretches_ = std::move(cut);
}

void StepPlan::tile_rows(const uint32_t* slot_forms) {
  const int num_segments = block_[STEP_HEADER_NUM_SEGMENTS];
  shape_.has_adapters = num_segments > 0;
  if (num_segments == 0) return;
  const int32_t* const segments = block_ + block_[STEP_HEADER_SEGMENTS_AT];
  for (int i = 0; i < num_segments; i++) {
    const int slot = segments[i * SEGMENT_WORDS + SEGMENT_SLOT];
    require(slot >= 0 && slot < limits_.num_slots, "a segment's slot exists");
    if (slot_forms != nullptr) shape_.forms |= slot_forms[slot];
  }
  const int size = tile_rows_of(limits_, shape_.rows, shape_.forms);
  const bool covers_all = covers_all_rows(limits_, shape_.rows);
  const auto add = [&](int slot, int begin, int end) {
    for (int row = begin; row < end; row += size) tiles_.push_back({slot, row, std::min(size, end - row)});
  };
  int next = 0;
  std::vector<bool> seen(limits_.num_slots, false);
  for (int i = 0; i < num_segments; i++) {
    const int32_t* segment = segments + i * SEGMENT_WORDS;
    const int row = segment[SEGMENT_ROW_START], slot = segment[SEGMENT_SLOT];
    /* Tiles are counted by slots, so rows of one slot are neighbours. */
    require(!seen[slot], "a slot has one segment");
    seen[slot] = true;
    const int num_rows = segment[SEGMENT_NUM_ROWS];
    require(row >= next && row < shape_.rows && num_rows >= 1 && num_rows <= shape_.rows - row, "segments ascend");
    if (covers_all) add(-1, next, row);
    next = row + segment[SEGMENT_NUM_ROWS];
    add(slot, row, next);
  }
  if (covers_all) add(-1, next, shape_.rows);
}

/** Rows of a slot are neighbours, and so are their samples. */
void StepPlan::tile_sampled_rows() {
  const int32_t* const samples = block_ + block_[STEP_HEADER_SAMPLES_AT];
  const int32_t* segment = block_ + block_[STEP_HEADER_SEGMENTS_AT];
  const int32_t* const end = segment + block_[STEP_HEADER_NUM_SEGMENTS] * SEGMENT_WORDS;
  for (int i = 0; i < shape_.sampled; i++) {
    const int row = samples[i * SAMPLE_WORDS + SAMPLE_ROW];
    while (segment < end && segment[SEGMENT_ROW_START] + segment[SEGMENT_NUM_ROWS] <= row) segment += SEGMENT_WORDS;
    if (segment == end || segment[SEGMENT_ROW_START] > row) continue;
    const int slot = segment[SEGMENT_SLOT];
    Tile* const last = sampled_tiles_.empty() ? nullptr : &sampled_tiles_.back();
    if (last != nullptr && last->slot == slot && last->num_rows < limits_.large_tile_rows) last->num_rows++;
    else sampled_tiles_.push_back({slot, i, 1});
  }
}

void StepPlan::write(const BlockLayout& layout, uint32_t first_tag, int32_t* out) const {
  const int32_t* positions = block_ + block_[STEP_HEADER_POSITIONS_AT];
  const int32_t* sequence_of_row = block_ + block_[STEP_HEADER_SEQUENCE_OF_ROW_AT];
  const int32_t* pages = block_ + block_[STEP_HEADER_PAGES_AT];
  const int32_t* sequences = block_ + block_[STEP_HEADER_SEQUENCES_AT];
  std::memcpy(out + layout.tokens_at, block_ + block_[STEP_HEADER_TOKENS_AT], shape_.rows * sizeof(int32_t));
  std::memcpy(out + layout.positions_at, positions, shape_.rows * sizeof(int32_t));
  for (int row = 0; row < shape_.rows; row++) {
    const int32_t* sequence = sequences + sequence_of_row[row] * SEQUENCE_WORDS;
    const int page = pages[sequence[SEQUENCE_PAGES_START] + positions[row] / PAGE_TOKENS];
    out[layout.kv_slots_at + row] = page * PAGE_TOKENS + positions[row] % PAGE_TOKENS;
  }
  /* Rows up to the layout's capacity do nothing: no page is theirs, no slot, no sample. */
  for (int row = shape_.rows; row < layout.rows; row++) {
    out[layout.tokens_at + row] = 0;
    out[layout.positions_at + row] = 0;
    out[layout.kv_slots_at + row] = -1;
  }
  std::fill_n(out + layout.row_slots_at, layout.rows, -1);
  for (const Tile& tile : tiles_) std::fill_n(out + layout.row_slots_at + tile.row, tile.num_rows, tile.slot);

  const int32_t* samples = block_ + block_[STEP_HEADER_SAMPLES_AT];
  std::memcpy(out + layout.samples_at, samples, shape_.sampled * SAMPLE_WORDS * sizeof(int32_t));
  for (int i = 0; i < shape_.sampled; i++) {
    int32_t& allowed_at = out[layout.samples_at + i * SAMPLE_WORDS + SAMPLE_ALLOWED_AT];
    allowed_at = allowed_at == 0 ? -1 : allowed_at - block_[STEP_HEADER_ADJUSTMENTS_AT];
  }
  for (int i = 0; i < layout.sampled; i++) {
    const int row = i < shape_.sampled ? samples[i * SAMPLE_WORDS + SAMPLE_ROW] : -1;
    out[layout.sampled_rows_at + i] = row;
    out[layout.sampled_slots_at + i] = row < 0 ? -1 : out[layout.row_slots_at + row];
    if (row < 0) out[layout.samples_at + i * SAMPLE_WORDS + SAMPLE_ROW] = -1;
  }

  for (int i = 0; i < layout.decode_items; i++) {
    DecodeItem item = {-1, 0, 0, 0, 0, 0, 1, 0};
    if (i < shape_.decode_items) {
      const Stretch& from = stretches_[i];
      item = {from.row, from.position, from.pages_at, from.begin, from.end, from.split, from.num_splits, 0};
    }
    std::memcpy(out + layout.decode_items_at + i * (sizeof item / 4), &item, sizeof item);
  }
  for (int i = 0; i < shape_.prefill_items; i++) {
    const PrefillItem item = {runs_[i].row, runs_[i].num_rows, runs_[i].position, runs_[i].pages_at};
    std::memcpy(out + layout.prefill_items_at + i * (sizeof item / 4), &item, sizeof item);
  }
  const auto write_tiles = [out](const std::vector<Tile>& tiles, int at, int capacity) {
    for (int i = 0; i < capacity; i++) {
      RowTile tile = {-1, 0, 0, 0};
      if (i < static_cast<int>(tiles.size())) tile = {tiles[i].slot, tiles[i].row, tiles[i].num_rows, 0};
      std::memcpy(out + at + i * (sizeof tile / 4), &tile, sizeof tile);
    }
  };
  write_tiles(tiles_, layout.tiles_at, layout.tiles);
  write_tiles(sampled_tiles_, layout.sampled_tiles_at, layout.sampled_tiles);
  std::memcpy(out + layout.first_tag_at, &first_tag, sizeof first_tag);
  std::memcpy(out + layout.pages_at, pages, shape_.pages * sizeof(int32_t));
}

}  // namespace lorikeet
