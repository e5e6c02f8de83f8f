/** Step blocks as `encodeStep` in src/core/step-block.ts writes them. */
#pragma once
#include <stdint.h>

#include <random>
#include <vector>

#include "../../step_layout.h"
#include "../layout.h"

namespace lorikeet::testing {

/** Consecutive positions of one sequence. */
struct Sequence {
  int num_rows, position, slot;
  bool sampled = true;
  int num_adjustments = 0;
  /** First rows whose next token is known and scored. */
  int num_scored = 0;
  /** Whether its token is one of some. */
  bool is_constrained = false;
};

/** The words of a step, and what they were made from. */
struct Block {
  std::vector<Sequence> sequences;
  std::vector<int32_t> words;
  int rows = 0, sampled = 0;

  int32_t& header(int field) { return words[field]; }
  int32_t header(int field) const { return words[field]; }
  int32_t* section(int field) { return words.data() + words[field]; }
  const int32_t* section(int field) const { return words.data() + words[field]; }
};

/** Tokens and pages are drawn from `random`; sequences are expected sorted by slot. */
inline Block make_block(std::vector<Sequence> sequences, int vocabulary, int num_pages, std::mt19937& random) {
  Block block;
  std::vector<int32_t> tokens, positions, sequence_of_row, records, pages, segments, samples, adjustments, allowed;
  std::vector<size_t> constrained; /* words of samples that say where in `allowed` */
  int previous_slot = -1;
  for (size_t s = 0; s < sequences.size(); s++) {
    const Sequence& each = sequences[s];
    const int row = block.rows, held = (each.position + each.num_rows + PAGE_TOKENS - 1) / PAGE_TOKENS;
    records.insert(records.end(), {row, each.num_rows, static_cast<int32_t>(pages.size()), held});
    for (int i = 0; i < held; i++) pages.push_back(static_cast<int32_t>(random() % num_pages));
    if (each.slot >= 0) {
      if (each.slot != previous_slot) segments.insert(segments.end(), {row, 0, each.slot, 0});
      segments[segments.size() - SEGMENT_WORDS + SEGMENT_NUM_ROWS] += each.num_rows;
    }
    previous_slot = each.slot;
    for (int i = 0; i < each.num_rows; i++) {
      tokens.push_back(static_cast<int32_t>(random() % vocabulary));
      positions.push_back(each.position + i);
      sequence_of_row.push_back(static_cast<int32_t>(s));
    }
    const auto add_sample = [&](int sampled_row, int num_adjustments, bool is_constrained) {
      std::vector<int32_t> sample(SAMPLE_WORDS);
      for (int32_t& word : sample) word = static_cast<int32_t>(random());
      sample[SAMPLE_ROW] = sampled_row;
      sample[SAMPLE_ADJUSTMENTS_START] = static_cast<int32_t>(adjustments.size()) / ADJUSTMENT_WORDS;
      sample[SAMPLE_NUM_ADJUSTMENTS] = num_adjustments;
      sample[SAMPLE_ALLOWED_AT] = is_constrained ? static_cast<int32_t>(allowed.size()) : 0;
      if (is_constrained) {
        constrained.push_back(samples.size() + SAMPLE_ALLOWED_AT);
        for (int word = 0; word < (vocabulary + 31) / 32; word++) allowed.push_back(static_cast<int32_t>(random()));
      }
      samples.insert(samples.end(), sample.begin(), sample.end());
      for (int i = 0; i < num_adjustments * ADJUSTMENT_WORDS; i++) adjustments.push_back(static_cast<int32_t>(random()));
      block.sampled++;
    };
    for (int i = 0; i < each.num_scored; i++) add_sample(row + i, 1, false);
    block.rows += each.num_rows;
    if (each.sampled) add_sample(block.rows - 1, each.num_adjustments, each.is_constrained);
  }
  block.words.assign(STEP_HEADER_WORDS, 0);
  const auto section = [&block](int field, const std::vector<int32_t>& words) {
    block.words[field] = static_cast<int32_t>(block.words.size());
    block.words.insert(block.words.end(), words.begin(), words.end());
  };
  section(STEP_HEADER_TOKENS_AT, tokens);
  section(STEP_HEADER_POSITIONS_AT, positions);
  section(STEP_HEADER_SEQUENCE_OF_ROW_AT, sequence_of_row);
  section(STEP_HEADER_SEQUENCES_AT, records);
  section(STEP_HEADER_PAGES_AT, pages);
  section(STEP_HEADER_SEGMENTS_AT, segments);
  section(STEP_HEADER_SAMPLES_AT, samples);
  section(STEP_HEADER_ADJUSTMENTS_AT, adjustments);
  for (const size_t word : constrained) block.section(STEP_HEADER_SAMPLES_AT)[word] += static_cast<int32_t>(block.words.size());
  block.words.insert(block.words.end(), allowed.begin(), allowed.end());
  block.header(STEP_HEADER_VERSION) = ABI_VERSION;
  block.header(STEP_HEADER_NUM_WORDS) = static_cast<int32_t>(block.words.size());
  block.header(STEP_HEADER_NUM_ROWS) = block.rows;
  block.header(STEP_HEADER_NUM_SEQUENCES) = static_cast<int32_t>(sequences.size());
  block.header(STEP_HEADER_NUM_SEGMENTS) = static_cast<int32_t>(segments.size()) / SEGMENT_WORDS;
  block.header(STEP_HEADER_NUM_SAMPLED) = block.sampled;
  block.sequences = std::move(sequences);
  return block;
}

}  // namespace lorikeet::testing
