#include "engine.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cstring>

#include "../../step_layout.h"
#include "round_up.h"

namespace lorikeet {

namespace {

float float_of(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace

void Engine::launch_all(const Run& run) {
  for (const LaunchSpec& launch : options_.launches)
    if (run.sampled > 0 || launch[LAUNCH_SAMPLED_ROWS] != 1) launch_one(run, launch);
}

void Engine::launch_one(const Run& run, const LaunchSpec& launch) {
  switch (launch[LAUNCH_OP]) {
    case LAUNCH_OP_EMBED: launch_embed(run, launch); break;
    case LAUNCH_OP_RMS_NORM: launch_norm(run, launch); break;
    case LAUNCH_OP_LINEAR: launch_linear(run, launch); break;
    case LAUNCH_OP_ROPE_KV_WRITE: launch_rope(run, launch); break;
    case LAUNCH_OP_ATTENTION: launch_attention(run, launch); break;
    case LAUNCH_OP_SILU_MUL: launch_silu(run, launch); break;
    case LAUNCH_OP_EXACT_LINEAR: launch_exact_linear(run, launch); break;
    case LAUNCH_OP_ROUTE: launch_route(run, launch); break;
    case LAUNCH_OP_EXPERT_LINEAR: launch_expert_linear(run, launch); break;
    case LAUNCH_OP_COMBINE: launch_combine(run, launch); break;
    case LAUNCH_OP_SAMPLE:
      sample({buffers_[launch[LAUNCH_X]].as<float>(), stride_of(launch[LAUNCH_X]), options_.vocabulary, run.sampled, block_at<int32_t>(run.layout.samples_at),
              changes_.as<int32_t>(), results_.as<int32_t>() + RESULT_HEADER_WORDS},
             main_queue());
      break;
  }
}

LinearArgs Engine::linear_args(const LaunchSpec& launch, int padded_rows) const {
  const WeightSpec& weight = options_.weights[launch[LAUNCH_WEIGHT]];
  const int stride = aligned_width(weight.cols);
  return {
      .x = buffers_[launch[LAUNCH_X]].as<bf16>(),
      .x_stride = stride_of(launch[LAUNCH_X]),
      .weight = weights_[launch[LAUNCH_WEIGHT]].as<bf16>(),
      .weight_stride = stride,
      .out = buffers_[launch[LAUNCH_OUT]].as<void>(),
      .out_type = options_.buffers[launch[LAUNCH_OUT]].is_float ? OutType::f32 : OutType::bf16,
      .out_stride = stride_of(launch[LAUNCH_OUT]),
      .m = padded_rows,
      .n = weight.rows,
      .k = stride,
      .accumulate = launch[LAUNCH_ACCUMULATE] == 1,
  };
}

bf16* Engine::kv_of_layer(int layer) const {
  return pool_.as<bf16>() + static_cast<int64_t>(layer) * 2 * options_.num_kv_heads * PAGE_TOKENS * options_.head_dim;
}

FormTable Engine::form_table(const Run& run, uint32_t forms) const {
  FormTable table = forms_of(block_at<int32_t>(run.layout.row_slots_at));
  if (!(run.forms & forms)) table.records = nullptr;
  return table;
}

void Engine::launch_embed(const Run& run, const LaunchSpec& launch) {
  const WeightSpec& weight = options_.weights[launch[LAUNCH_WEIGHT]];
  const EmbedArgs args = {
      .table = weights_[launch[LAUNCH_WEIGHT]].as<bf16>(),
      .vocabulary = weight.rows,
      .table_stride = aligned_width(weight.cols),
      .tokens = block_at<int32_t>(run.layout.tokens_at),
      .results = results_.as<int32_t>() + RESULT_HEADER_WORDS,
      .out = buffers_[launch[LAUNCH_OUT]].as<float>(),
      .out_stride = stride_of(launch[LAUNCH_OUT]),
      .width = weight.cols,
      .rows = run.rows,
      .forms = form_table(run, FORM_EMBEDDING),
      .sites = sites_.as<SiteRecord>(),
      .site = launch[LAUNCH_SITE],
  };
  embed(args, main_queue());
}

Pending Engine::pending_of(const Run& run, const LaunchSpec& launch) const {
  const int bias = launch[LAUNCH_PENDING_BIAS];
  const int site = launch[LAUNCH_PENDING_SITE];
  const bool has_delta = site >= 0 && run.has_adapters && !(run.forms & site_forms_[site] & FORM_OUTPUTS) && leaves_delta(run, launch[LAUNCH_X]);
  return {
      .bias = bias < 0 ? nullptr : weights_[bias].as<float>(),
      .delta = has_delta ? deltas_[launch[LAUNCH_X]].as<bf16>() : nullptr,
      .row_slot = block_at<int32_t>(run.layout.row_slots_at),
  };
}

void Engine::launch_norm(const Run& run, const LaunchSpec& launch) {
  const bool sampled = launch[LAUNCH_SAMPLED_ROWS] == 1;
  const NormArgs args = {
      .hidden = buffers_[launch[LAUNCH_X]].as<float>(),
      .hidden_stride = stride_of(launch[LAUNCH_X]),
      .row_index = sampled ? block_at<int32_t>(run.layout.sampled_rows_at) : nullptr,
      .weight = weights_[launch[LAUNCH_WEIGHT]].as<float>(),
      .eps = float_of(launch[LAUNCH_EPS]),
      .out = buffers_[launch[LAUNCH_OUT]].as<bf16>(),
      .out_stride = stride_of(launch[LAUNCH_OUT]),
      .width = options_.buffers[launch[LAUNCH_X]].width,
      .rows = sampled ? run.sampled : run.rows,
      .pending = pending_of(run, launch),
      .forms = form_table(run, FORM_NORMS),
      .site = launch[LAUNCH_SITE],
  };
  rms_norm(args, queue_behind(run, launch));
}

void Engine::launch_rope(const Run& run, const LaunchSpec& launch) {
  const auto norm = [&](int weight) { return weight < 0 ? nullptr : weights_[weight].as<float>(); };
  const RopeArgs args = {
      .qkv = buffers_[launch[LAUNCH_X]].as<bf16>(),
      .qkv_stride = stride_of(launch[LAUNCH_X]),
      .num_heads = options_.num_heads,
      .num_kv_heads = options_.num_kv_heads,
      .head_dim = options_.head_dim,
      .rotary_dim = options_.rotary_dim,
      .rows = run.rows,
      .positions = block_at<int32_t>(run.layout.positions_at),
      .kv_slots = block_at<int32_t>(run.layout.kv_slots_at),
      .table = rope_table_.as<float>(),
      .q_norm = norm(launch[LAUNCH_Q_NORM]),
      .k_norm = norm(launch[LAUNCH_K_NORM]),
      .eps = float_of(launch[LAUNCH_EPS]),
      .layer_kv = kv_of_layer(launch[LAUNCH_LAYER]),
      .page_stride = page_stride(),
      .pending = pending_of(run, launch),
      .forms = form_table(run, FORM_NORMS),
      .q_site = launch[LAUNCH_Q_NORM_SITE],
      .k_site = launch[LAUNCH_K_NORM_SITE],
  };
  const int site = launch[LAUNCH_PENDING_SITE];
  if (reader_expands(run, site)) return expand_rope_kv_write(args, lora_args(adapter_rows(run, false), site), device_.num_multiprocessors, main_queue());
  rope_kv_write(args, queue_behind(run, launch));
}

void Engine::launch_attention(const Run& run, const LaunchSpec& launch) {
  const AttentionArgs args = {
      .qkv = buffers_[launch[LAUNCH_X]].as<bf16>(),
      .qkv_stride = stride_of(launch[LAUNCH_X]),
      .num_heads = options_.num_heads,
      .num_kv_heads = options_.num_kv_heads,
      .head_dim = options_.head_dim,
      .scale = options_.score_scale,
      .window = launch[LAUNCH_WINDOW],
      .layer_kv = kv_of_layer(launch[LAUNCH_LAYER]),
      .page_stride = page_stride(),
      .pages = block_at<int32_t>(run.layout.pages_at),
      .out = buffers_[launch[LAUNCH_OUT]].as<bf16>(),
      .out_stride = stride_of(launch[LAUNCH_OUT]),
      .partial = partial_.as<float>(),
      .arrived = arrived_.as<uint32_t>(),
  };
  if (run.layout.prefill_items > 0) prefill_attention(args, block_at<PrefillItem>(run.layout.prefill_items_at), run.layout.prefill_items, main_queue());
  if (run.layout.decode_items > 0) decode_attention(args, block_at<DecodeItem>(run.layout.decode_items_at), run.layout.decode_items, main_queue());
}

void Engine::launch_silu(const Run& run, const LaunchSpec& launch) {
  const SiluArgs args = {
      .gate_up = buffers_[launch[LAUNCH_X]].as<bf16>(),
      .gate_up_stride = stride_of(launch[LAUNCH_X]),
      .out = buffers_[launch[LAUNCH_OUT]].as<bf16>(),
      .out_stride = stride_of(launch[LAUNCH_OUT]),
      .width = options_.buffers[launch[LAUNCH_OUT]].width,
      .rows = options_.buffers[launch[LAUNCH_X]].rows == BUFFER_ROWS_ROUTED ? run.rows * options_.top_k : run.rows,
      .pending = pending_of(run, launch),
  };
  const int site = launch[LAUNCH_PENDING_SITE];
  if (reader_expands(run, site)) return expand_silu_mul(args, lora_args(adapter_rows(run, false), site), device_.num_multiprocessors, main_queue());
  silu_mul(args, queue_behind(run, launch));
}

bool Engine::can_expand(const LaunchSpec& launch) const {
  /* Modules that begin within a head, or within gate or up, would be two factors of one warp. */
  const auto cut_at = [&](int width) {
    const std::vector<int>& borders = options_.sites[launch[LAUNCH_PENDING_SITE]].borders;
    return borders.size() <= MAX_EXPANDED_MODULES + 1 && std::all_of(borders.begin(), borders.end(), [&](int border) { return border % width == 0; });
  };
  switch (launch[LAUNCH_OP]) {
    case LAUNCH_OP_SILU_MUL: return expands_silu_mul(options_.buffers[launch[LAUNCH_OUT]].width) && cut_at(options_.buffers[launch[LAUNCH_OUT]].width);
    case LAUNCH_OP_ROPE_KV_WRITE: return expands_rope_kv_write(options_.head_dim, options_.rotary_dim) && cut_at(options_.head_dim);
    default: return false;
  }
}

Engine::AdapterRows Engine::adapter_rows(const Run& run, bool sampled) const {
  const bool large = limits_.large_tile_rows == LARGE_TILE_ROWS && (sampled || is_apart(run) || !is_small(run));
  const int max_rank = round_up(run.max_rank, 32);
  if (sampled) return {block_at<RowTile>(run.layout.sampled_tiles_at), run.layout.sampled_tiles, large, block_at<int32_t>(run.layout.sampled_slots_at), run.padded_sampled, max_rank};
  return {block_at<RowTile>(run.layout.tiles_at), run.layout.tiles, large, block_at<int32_t>(run.layout.row_slots_at), run.padded_rows, max_rank};
}

LoraArgs Engine::lora_args(const AdapterRows& rows, int site) const {
  /* Partial sums of all splits lie side by side in one area. */
  const int tiles = std::max(1, rows.num_tiles);
  const int wanted = rows.padded_rows <= limits_.small_rows ? MAX_SPLITS : std::max(1, LARGE_BLOCKS_PER_MULTIPROCESSOR * device_.num_multiprocessors / tiles);
  return {
      .tiles = rows.tiles,
      .num_tiles = rows.num_tiles,
      .tiles_are_made = false,
      .large = rows.large,
      .row_slot = rows.row_slot,
      .sites = sites_.as<SiteRecord>(),
      .num_sites = static_cast<int>(options_.sites.size()),
      .site = site,
      .sources = nullptr,
      .shrunk = shrunk_.as<float>(),
      .shrunk_rows = rows.padded_rows,
      .shrunk_stride = shrunk_stride_,
      .splits = std::min({wanted, MAX_SPLITS, static_cast<int>(shrunk_rows_ / rows.padded_rows)}),
      .max_rank = rows.max_rank,
  };
}

StreamedLora Engine::streamed_lora(const Run& run, int site) const {
  StreamedLora lora = {
      .tiles = block_at<RowTile>(run.layout.tiles_at),
      .num_tiles = run.layout.tiles,
      .row_slot = block_at<int32_t>(run.layout.row_slots_at),
      .sites = sites_.as<SiteRecord>(),
      .num_sites = static_cast<int>(options_.sites.size()),
      .site = site,
      .parts = {},
      .shrunk = told_.as<uint64_t>(),
      .shrunk_stride = shrunk_stride_,
      .first_tag = block_at<uint32_t>(run.layout.first_tag_at),
  };
  const std::vector<int>& borders = options_.sites[site].borders;
  lora.parts.count = static_cast<int>(borders.size()) - 1;
  std::copy(borders.begin(), borders.end(), lora.parts.begins);
  return lora;
}

/**
 * The base product and, for rows with an adapter, its delta.
 *
 * - Up to 64 rows: the product reads A and B along with the weights.
 * - Up to 256, or on older devices: the adapter works beside the base product and leaves a delta, which the kernel that reads the
 *   output adds.
 * - Many rows: A · x is known before the base product, and the kernel that reads the output, activation or rotation, multiplies it
 *   with B on its way. What a norm reads, the residual stream, gets a delta: a norm has few rows at once, and would read B for each.
 * - Many rows of large ranks, with gains, or of shapes for which there are no such kernels: the adapter's part is written first and the
 *   base product added onto it, whose epilogue hides the read.
 * - The head, and layers of a step in which an adapter has rows of its own there: one after the other, onto what the product left.
 */
void Engine::launch_linear(const Run& run, const LaunchSpec& launch) {
  const bool sampled = launch[LAUNCH_SAMPLED_ROWS] == 1;
  LinearArgs args = linear_args(launch, sampled ? run.padded_sampled : run.padded_rows);
  const int site = launch[LAUNCH_SITE];
  const bool changed = is_head(site) ? run.layout.sampled_tiles > 0 : site >= 0 && run.has_adapters;
  if (!changed) return matmul_->run(args, false, main_queue());
  const bool apart = is_head(site) || is_apart(run);
  const uint32_t forms = is_head(site) ? site_forms_[site] : site_forms_[site] & run.forms;

  /* A gain is of what base and adapter add, and own rows take the base's place: that goes aside where it would be lost in the residual stream. */
  const bool aside = args.accumulate && forms != 0;
  void* const out = args.out;
  if (aside) args.out = product_.as<float>(), args.accumulate = false;
  if (apart) launch_apart(run, launch, args);
  else launch_adapted(run, launch, args);
  if (!aside && !(forms & FORM_OUTPUTS)) return;
  const FormArgs applied = {
      .forms = forms_of(adapter_rows(run, is_head(site)).row_slot),
      .site = site,
      .product = aside ? product_.as<float>() : nullptr,
      .delta = !apart && leaves_delta(run, launch[LAUNCH_OUT]) ? deltas_[launch[LAUNCH_OUT]].as<bf16>() : nullptr,
      .out = out,
      .out_type = args.out_type,
      .stride = args.out_stride,
      .width = args.n,
      .rows = sampled ? run.sampled : run.rows,
  };
  apply_forms(applied, {*main_, overlaps() && (apart || is_streamed(run) || !is_small(run))});
}

/** The base's product, own rows over it, and deltas added to both. */
void Engine::launch_apart(const Run& run, const LaunchSpec& launch, const LinearArgs& args) {
  const int site = launch[LAUNCH_SITE];
  const AdapterRows rows = adapter_rows(run, is_head(site));
  matmul_->run(args, false, main_queue());
  if (site_forms_[site] & FORM_ROWS) {
    const OwnRowsArgs own = {
        .forms = forms_of(rows.row_slot),
        .site = site,
        .tiles = rows.tiles,
        .num_tiles = rows.num_tiles,
        .x = args.x,
        .x_stride = args.x_stride,
        .out = args.out,
        .out_type = args.out_type,
        .out_stride = args.out_stride,
    };
    own_rows(own, device_.num_multiprocessors, main_queue());
  }
  const LoraArgs lora = lora_args(rows, site);
  lora_shrink(lora, args.x, args.x_stride, main_queue());
  /* Shrinking waits for nothing where no adapter has a delta here, so that waiting for it alone would be too little. */
  lora_expand(lora, ExpandMode::add, args.out, args.out_type, args.out_stride, args.n, {*main_, false});
}

/** The product of a step with adapters: see above. */
void Engine::launch_adapted(const Run& run, const LaunchSpec& launch, LinearArgs args) {
  const int site = launch[LAUNCH_SITE];
  if (is_streamed(run)) {
    const StreamedLora lora = streamed_lora(run, site);
    return linear_stream(args, &lora, device_.num_multiprocessors, main_queue());
  }
  const LoraArgs lora = lora_args(adapter_rows(run, false), site);
  const int out_width = options_.buffers[launch[LAUNCH_OUT]].width;
  if (is_small(run)) {
    check(cudaEventRecord(*forked_, *main_), "forking");
    check(cudaStreamWaitEvent(*side_, *forked_, 0), "forking");
    if (parts_ & PART_SHRINK) lora_shrink(lora, args.x, args.x_stride, {*side_, false});
    if (parts_ & PART_EXPAND) lora_expand(lora, ExpandMode::delta, deltas_[launch[LAUNCH_OUT]].as<void>(), OutType::bf16, args.out_stride, out_width, {*side_, overlaps()});
    check(cudaEventRecord(*joined_, *side_), "joining");
    if (parts_ & PART_BASE) matmul_->run(args, true, main_queue());
    check(cudaStreamWaitEvent(*main_, *joined_, 0), "joining");
  } else {
    const bool delta = leaves_delta(run, launch[LAUNCH_OUT]), first = !delta && !reader_expands(run, site);
    void* out = delta ? deltas_[launch[LAUNCH_OUT]].as<void>() : args.out;
    if (parts_ & PART_SHRINK) lora_shrink(lora, args.x, args.x_stride, main_queue());
    if (parts_ & PART_EXPAND && (delta || first)) lora_expand(lora, delta ? ExpandMode::delta : ExpandMode::replace, out, OutType::bf16, args.out_stride, out_width, main_queue());
    args.accumulate = args.accumulate || first;
    if (parts_ & PART_BASE) matmul_->run(args, false, main_queue());
  }
}

}  // namespace lorikeet
