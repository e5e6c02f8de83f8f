#include "engine.h"

#include <algorithm>

namespace lorikeet {

void Engine::allocate_routed() {
  const size_t experts = options_.num_experts, routed = static_cast<size_t>(row_capacity_) * options_.top_k;
  if (experts == 0) return;
  const auto words = [](size_t count) { return DeviceMemory(count * sizeof(int32_t), "rows of experts"); };
  choices_ = words(routed), places_ = words(routed), sources_ = words(routed), experts_ = words(routed), expert_slots_ = words(routed);
  starts_ = words(experts + 1);
  if (options_.num_slots > 0) expert_tiles_ = DeviceMemory(routed * sizeof(RowTile), "rows of experts");
}

Routed Engine::routed() const {
  return {
      .num_experts = options_.num_experts,
      .top_k = options_.top_k,
      .choices = choices_.as<int32_t>(),
      .places = places_.as<int32_t>(),
      .starts = starts_.as<int32_t>(),
      .sources = sources_.as<int32_t>(),
      .experts = experts_.as<int32_t>(),
      .slots = expert_slots_.as<int32_t>(),
      .tiles = expert_tiles_.as<RowTile>(),
  };
}

bool Engine::has_expert_rows(const Run& run, int site, int count) const {
  return std::any_of(site_forms_.begin() + site, site_forms_.begin() + site + count, [&](uint8_t forms) { return forms & run.forms & FORM_EXPERT_ROWS; });
}

void Engine::launch_exact_linear(const Run& run, const LaunchSpec& launch) {
  const ExactLinearArgs args = {
      .x = buffers_[launch[LAUNCH_X]].as<bf16>(),
      .x_stride = stride_of(launch[LAUNCH_X]),
      .weight = weights_[launch[LAUNCH_WEIGHT]].as<float>(),
      .out = buffers_[launch[LAUNCH_OUT]].as<float>(),
      .out_stride = stride_of(launch[LAUNCH_OUT]),
      .m = run.rows,
      .n = options_.weights[launch[LAUNCH_WEIGHT]].rows,
  };
  linear_exact(args, main_queue());
  if (launch[LAUNCH_SITE] < 0 || !run.has_adapters) return;
  if (has_expert_rows(run, launch[LAUNCH_SITE], 1)) {
    const AdapterRows rows = adapter_rows(run, false);
    const OwnExactRowsArgs own = {
        .forms = forms_of(rows.row_slot),
        .site = launch[LAUNCH_SITE],
        .tiles = rows.tiles,
        .num_tiles = rows.num_tiles,
        .x = args.x,
        .x_stride = args.x_stride,
        .out = args.out,
        .out_stride = args.out_stride,
        .n = args.n,
    };
    own_exact_rows(own, main_queue());
  }
  const ExactLoraArgs lora = {
      .x = args.x,
      .x_stride = args.x_stride,
      .out = args.out,
      .out_stride = args.out_stride,
      .rows = run.rows,
      .n = args.n,
      .sites = sites_.as<SiteRecord>(),
      .forms = forms_.as<FormRecord>(),
      .num_sites = static_cast<int>(options_.sites.size()),
      .site = launch[LAUNCH_SITE],
      .row_slot = block_at<int32_t>(run.layout.row_slots_at),
      .max_rank = shrunk_stride_,
  };
  lora_exact(lora, main_queue());
}

void Engine::launch_route(const Run& run, const LaunchSpec& launch) {
  const RouteArgs args = {
      .logits = buffers_[launch[LAUNCH_X]].as<float>(),
      .logits_stride = stride_of(launch[LAUNCH_X]),
      .routes = buffers_[launch[LAUNCH_OUT]].as<float>(),
      .routes_stride = stride_of(launch[LAUNCH_OUT]),
      .normalize = launch[LAUNCH_NORMALIZE] == 1,
      .rows = run.rows,
      .kv_slots = block_at<int32_t>(run.layout.kv_slots_at),
      .row_slot = block_at<int32_t>(run.layout.row_slots_at),
      .has_adapters = run.has_adapters,
      .routed = routed(),
  };
  route(args, main_queue());
}

LoraArgs Engine::expert_lora_args(const Run& run, const LaunchSpec& launch) const {
  LoraArgs lora = lora_args(adapter_rows(run, false), launch[LAUNCH_SITE]);
  const int rows = run.rows * options_.top_k;
  const int wanted = LARGE_BLOCKS_PER_MULTIPROCESSOR * device_.num_multiprocessors / rows;
  lora.tiles = expert_tiles_.as<RowTile>();
  lora.num_tiles = rows;
  lora.tiles_are_made = true;
  lora.large = false;
  lora.sources = options_.buffers[launch[LAUNCH_X]].rows == BUFFER_ROWS_ROUTED ? nullptr : sources_.as<int32_t>();
  lora.shrunk_rows = rows;
  lora.splits = std::clamp(std::min(wanted, static_cast<int>(shrunk_rows_ / rows)), 1, MAX_SPLITS);
  return lora;
}

/** The base products of every expert; rows with an adapter get its own rows' in their place, its delta added, and then its forms. */
void Engine::launch_expert_linear(const Run& run, const LaunchSpec& launch) {
  const WeightSpec& weight = options_.weights[launch[LAUNCH_WEIGHT]];
  const int stride = aligned_width(weight.cols);
  const ExpertLinearArgs args = {
      .x = buffers_[launch[LAUNCH_X]].as<bf16>(),
      .x_stride = stride_of(launch[LAUNCH_X]),
      .by_source = options_.buffers[launch[LAUNCH_X]].rows != BUFFER_ROWS_ROUTED,
      .weight = weights_[launch[LAUNCH_WEIGHT]].as<bf16>(),
      .weight_stride = stride,
      .out = buffers_[launch[LAUNCH_OUT]].as<bf16>(),
      .out_stride = stride_of(launch[LAUNCH_OUT]),
      .n = weight.rows,
      .k = stride,
      .rows = run.rows,
      .routed = routed(),
  };
  linear_experts(args, main_queue());
  if (!run.has_adapters) return;
  if (has_expert_rows(run, launch[LAUNCH_SITE], weight.num_experts)) {
    const OwnExpertRowsArgs own = {
        .forms = forms_.as<FormRecord>(),
        .num_sites = static_cast<int>(options_.sites.size()),
        .site = launch[LAUNCH_SITE],
        .x = args.x,
        .x_stride = args.x_stride,
        .by_source = args.by_source,
        .out = args.out,
        .out_stride = args.out_stride,
        .n = args.n,
        .routed = args.routed,
    };
    own_expert_rows(own, main_queue());
  }
  const LoraArgs lora = expert_lora_args(run, launch);
  lora_shrink(lora, args.x, args.x_stride, main_queue());
  lora_expand(lora, ExpandMode::add, args.out, OutType::bf16, args.out_stride, args.n, main_queue());
  if (!(run.forms & FORM_OUTPUTS)) return;
  const ExpertFormArgs forms = {
      .forms = forms_.as<FormRecord>(),
      .num_sites = static_cast<int>(options_.sites.size()),
      .site = launch[LAUNCH_SITE],
      .out = args.out,
      .out_stride = args.out_stride,
      .width = args.n,
      .rows = run.rows,
      .routed = args.routed,
  };
  apply_expert_forms(forms, main_queue());
}

void Engine::launch_combine(const Run& run, const LaunchSpec& launch) {
  const CombineArgs args = {
      .x = buffers_[launch[LAUNCH_X]].as<bf16>(),
      .x_stride = stride_of(launch[LAUNCH_X]),
      .routes = buffers_[launch[LAUNCH_ROUTES]].as<float>(),
      .routes_stride = stride_of(launch[LAUNCH_ROUTES]),
      .out = buffers_[launch[LAUNCH_OUT]].as<float>(),
      .out_stride = stride_of(launch[LAUNCH_OUT]),
      .width = options_.buffers[launch[LAUNCH_OUT]].width,
      .rows = run.rows,
      .routed = routed(),
  };
  combine(args, main_queue());
}

}  // namespace lorikeet
