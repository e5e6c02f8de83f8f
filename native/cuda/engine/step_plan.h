/**
 * From a step block, as TypeScript writes it, to the words that the kernels read.
 *
 * Pure: it can be tested on a machine without a device. Sections lie at offsets that depend on a `BlockLayout` alone, so
 * that a captured graph finds them where they were when it was captured.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <vector>

namespace lorikeet {

/** Capacities of one layout and the word offsets that follow from them. */
struct BlockLayout {
  int rows, sampled, decode_items, prefill_items, tiles, sampled_tiles;
  int tokens_at, positions_at, kv_slots_at, row_slots_at, sampled_rows_at, sampled_slots_at, samples_at, decode_items_at, prefill_items_at, tiles_at, sampled_tiles_at, first_tag_at, pages_at;

  static BlockLayout of(int rows, int sampled, int decode_items, int prefill_items, int tiles, int sampled_tiles);
};

struct PlanLimits {
  int max_rows, max_sequences, num_extents, num_slots;
  int num_heads, num_kv_heads, num_multiprocessors, vocabulary;
  int longest_window;
  /** Up to this many rows adapters work in small tiles, above it in large ones before the base products. */
  int small_rows;
  /** Up to this many rows products read adapters along with the weights, and all rows of a slot are one tile. */
  int streamed_rows;
  /** Of large steps, of those in which an adapter has rows of its own, and of sampled rows. */
  int large_tile_rows;
};

/** What is in a step, and how much of each. */
struct StepShape {
  int rows = 0, sampled = 0, decode_items = 0, prefill_items = 0, tiles = 0, pages = 0;
  /** Words of what changes logits: ADJUSTMENT records, then bits of allowed tokens. */
  int changes = 0;
  /** Runs of sampled rows with one slot; none where no adapter of the step changes the head. */
  int sampled_tiles = 0;
  bool has_adapters = false;
  /** Of all adapters of the step: a set of `Form`. */
  uint32_t forms = 0;
  /** Every sequence has one row and all rows are sampled: a step that a captured graph can run. */
  bool is_decode = false;
};

/** Graphs exist for these numbers of rows. */
extern const std::vector<int> DECODE_BUCKETS;
/** The least bucket that holds `rows`, or 0. */
int bucket_of(int rows);
/** Rows that a step of `rows` computes: a bucket, or above the largest one a multiple that keeps the shapes of products few. */
int padded(int rows);
/** Graphs with adapters exist for 2, 8, 32, ... tiles: blocks without a tile end at once, but thousands of them take time. */
int tile_bucket(int tiles, int most);

/** Most stretches that decode rows can be cut into. */
int max_decode_items(const PlanLimits& limits, int rows);
/** Most runs of rows with one slot, as tiles of a step whose adapters have such forms. */
int max_tiles(const PlanLimits& limits, int rows, uint32_t forms);
/** The same of sampled rows. */
int max_sampled_tiles(const PlanLimits& limits, int sampled);
/** Most runs of sampled rows in a decode step of so many tiles. */
int sampled_tiles_of(const PlanLimits& limits, int bucket, int tiles);

class StepPlan {
 public:
  explicit StepPlan(const PlanLimits& limits) : limits_(limits) {}
  void set_large_tile_rows(int rows) { limits_.large_tile_rows = rows; }

  /**
   * Reads a step block and decides what runs.
   *
   * @param slot_forms of each slot's adapter, sets of `Form`; null for none
   * @param num_awaitable samples of the step before, whose tokens rows may name as `~sample`
   * @throws Error `step_invalid` for a block that breaks its own rules or the engine's limits
   */
  const StepShape& read(const int32_t* block, size_t num_words, const uint32_t* slot_forms = nullptr, int num_awaitable = 0);
  /** Of the step that was read last. */
  const StepShape& shape() const { return shape_; }

  /**
   * Writes the step that was read. In samples, SAMPLE_ALLOWED_AT counts from the first word of `changes()`, and is below 0 where all
   * tokens are allowed.
   *
   * @param first_tag as StreamedLora wants it
   * @param out holds `words_of(layout)` words
   */
  void write(const BlockLayout& layout, uint32_t first_tag, int32_t* out) const;
  size_t words_of(const BlockLayout& layout) const { return static_cast<size_t>(layout.pages_at) + shape_.pages; }
  /** What changes logits, `shape().changes` words. */
  const int32_t* changes() const { return changes_; }

 private:
  struct Stretch {
    int32_t row, position, pages_at, begin, end, split, num_splits;
  };
  void cut_decode_rows();
  void tile_rows(const uint32_t* slot_forms);
  void tile_sampled_rows();

  PlanLimits limits_;
  StepShape shape_;
  const int32_t* block_ = nullptr;
  const int32_t* changes_ = nullptr;
  std::vector<Stretch> stretches_;
  struct Run {
    int32_t row, num_rows, position, pages_at;
  };
  std::vector<Run> runs_;
  struct Tile {
    int32_t slot, row, num_rows;
  };
  std::vector<Tile> tiles_, sampled_tiles_;
};

}  // namespace lorikeet
