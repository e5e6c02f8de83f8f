#include "engine.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../../step_layout.h"
#include "round_up.h"

namespace lorikeet {

void Engine::reserve_rank(int total_rank) {
  const int stride = round_up(total_rank, 32);
  if (stride <= shrunk_stride_) return;
  if (stride > MAX_RANK_SMALL_TILES) {
    throw Error("adapter_too_large", "the adapter has " + std::to_string(total_rank) + " ranks at one linear operation, more than the " +
                                         std::to_string(MAX_RANK_SMALL_TILES) + " that a CUDA device holds; use --backend wasm");
  }
  /* Captured graphs hold the old address. */
  drop_graphs([](const GraphKey& key) { return std::get<1>(key) > 0; });
  shrunk_ = DeviceMemory();
  shrunk_ = DeviceMemory(shrunk_rows_ * stride * sizeof(float), "adapters' work areas");
  told_ = DeviceMemory();
  told_ = DeviceMemory(static_cast<size_t>(MAX_SMALL_ROWS) * stride / 2 * sizeof(uint64_t), "adapters' work areas");
  forget_told();
  shrunk_stride_ = stride;
  if (stride > MAX_RANK_LARGE_TILES) {
    limits_.large_tile_rows = SMALL_TILE_ROWS;
    plan_.set_large_tile_rows(SMALL_TILE_ROWS);
  }
}

int Engine::ranks_of(const int32_t* block) const {
  const int32_t* segment = block + block[STEP_HEADER_SEGMENTS_AT];
  int ranks = 0;
  for (int i = 0; i < block[STEP_HEADER_NUM_SEGMENTS]; i++, segment += SEGMENT_WORDS) ranks = std::max(ranks, slot_ranks_[segment[SEGMENT_SLOT]]);
  return ranks;
}

/** No tag is 0. */
void Engine::forget_told() { check(cudaMemsetAsync(told_.as<void>(), 0, told_.bytes(), *main_), "clearing adapters' work areas"); }

uint32_t Engine::take_tags() {
  const uint32_t count = static_cast<uint32_t>(options_.sites.size());
  if (next_tag_ > UINT32_MAX - count) {
    forget_told();
    next_tag_ = 1;
  }
  const uint32_t first = next_tag_;
  next_tag_ += count;
  return first;
}

void Engine::drop_graphs(const std::function<bool(const GraphKey&)>& holds) {
  for (auto graph = graphs_.begin(); graph != graphs_.end();) {
    if (!holds(graph->first)) {
      ++graph;
      continue;
    }
    cudaGraphExecDestroy(graph->second.exec);
    graph = graphs_.erase(graph);
  }
}

bool Engine::has_room_for(const AdapterImage& image) const {
  const AdapterLayout& layout = image.layout();
  for (size_t site = 0; site < site_forms_.size(); site++)
    if (layout.site_forms()[site] & ~site_forms_[site]) return false;
  return layout.max_total_rank() <= shrunk_stride_;
}

void Engine::reserve(const AdapterImage& image) {
  /* Steps under way use what goes. */
  check(cudaStreamSynchronize(*main_), "making room for an adapter");
  reserve_rank(image.layout().max_total_rank());
  reserve_forms(image.layout());
}

void Engine::reserve_forms(const AdapterLayout& layout) {
  if (product_.bytes() == 0 && (layout.forms() & (FORM_OUTPUTS | FORM_ROWS))) {
    size_t widest = 0;
    for (const LaunchSpec& launch : options_.launches)
      if (launch[LAUNCH_OP] == LAUNCH_OP_LINEAR && is_in_layer(launch[LAUNCH_SITE]) && launch[LAUNCH_ACCUMULATE] == 1) widest = std::max<size_t>(widest, stride_of(launch[LAUNCH_OUT]));
    product_ = DeviceMemory(std::max<size_t>(1, row_capacity_ * widest * sizeof(float)), "products beside the residual stream");
  }
  for (size_t site = 0; site < site_forms_.size(); site++) site_forms_[site] |= layout.site_forms()[site];
  /* They lack what is launched at the new sites. */
  drop_graphs([](const GraphKey& key) { return std::get<2>(key) != 0; });
}

std::shared_ptr<AdapterImage> Engine::stage(const std::vector<SourceDelta>& deltas, std::vector<SourceReplacement> replacements) const {
  check(cudaSetDevice(options_.device), "choosing the device");
  std::erase_if(replacements, [this](const SourceReplacement& each) { return each.is_copy && equals_base(each); });
  for (SourceReplacement& each : replacements) {
    if (!each.of_bias) continue;
    const int bias = site_biases_.at(each.site);
    if (bias < 0 || each.first_row < 0 || each.first_row + each.values.rows > options_.weights[bias].rows) throw Error("adapter_invalid", "the adapter replaces a bias that the model does not have");
    each.base.resize(each.values.rows);
    check(cudaMemcpyAsync(each.base.data(), weights_[bias].as<float>() + each.first_row, each.base.size() * sizeof(float), cudaMemcpyDeviceToHost, *copy_), "reading a bias");
    check(cudaStreamSynchronize(*copy_), "reading a bias");
  }
  return std::make_shared<AdapterImage>(deltas, options_.sites, replacements);
}

bool Engine::equals_base(const SourceReplacement& copy) const {
  constexpr size_t PIECE_BYTES = 16 << 20;
  const int index = site_weights_.at(copy.site);
  if (index < 0 || !copy.rows.empty()) return false;
  const WeightSpec& weight = options_.weights[index];
  const SourceMatrix& values = copy.values;
  if (values.cols != weight.cols || copy.first_row < 0 || copy.first_row + values.rows > weight.rows) return false;
  const size_t stride = aligned_width(weight.cols), row_bytes = static_cast<size_t>(weight.cols) * sizeof(uint16_t);
  const int piece = std::max(1, static_cast<int>(PIECE_BYTES / (stride * sizeof(uint16_t))));
  std::vector<uint16_t> base(piece * stride), own(weight.cols);
  for (int row = 0; row < values.rows; row++) {
    if (row % piece == 0) {
      const size_t rows = std::min(piece, values.rows - row);
      check(cudaMemcpyAsync(base.data(), weights_[index].as<uint16_t>() + (copy.first_row + row) * stride, rows * stride * sizeof(uint16_t), cudaMemcpyDeviceToHost, *copy_), "comparing with the base");
      check(cudaStreamSynchronize(*copy_), "comparing with the base");
    }
    round_row(values, row, own.data());
    if (std::memcmp(own.data(), base.data() + row % piece * stride, row_bytes) != 0) return false;
  }
  return true;
}

void Engine::attach(int slot, size_t offset, AdapterImage& image) {
  if (slot < 0 || slot >= options_.num_slots || offset + image.bytes() > pool_.bytes()) throw Error("step_invalid", "an adapter does not fit its slot");
  check(cudaSetDevice(options_.device), "choosing the device");
  uint8_t* to = pool_.as<uint8_t>() + offset;
  /* Names of equal content share an image, and two threads may attach. */
  std::unique_lock gains(gains_mutex_, std::defer_lock);
  const bool has_gains = !image.layout().gained().empty();
  if (has_gains) gains.lock();
  check(cudaMemcpyAsync(to, image.data(), image.bytes(), cudaMemcpyHostToDevice, *copy_), "copying an adapter");
  if (has_gains && !image.knows_gains) find_gains(image, to);
  const std::vector<SiteRecord> records = image.layout().records_at(to);
  SiteRecord* row = sites_.as<SiteRecord>() + static_cast<size_t>(slot) * options_.sites.size();
  check(cudaMemcpyAsync(row, records.data(), records.size() * sizeof(SiteRecord), cudaMemcpyHostToDevice, *copy_), "pointing at an adapter");
  const std::vector<FormRecord> forms = image.layout().forms_at(to);
  FormRecord* form_row = forms_.as<FormRecord>() + static_cast<size_t>(slot) * options_.sites.size();
  check(cudaMemcpyAsync(form_row, forms.data(), forms.size() * sizeof(FormRecord), cudaMemcpyHostToDevice, *copy_), "pointing at an adapter");
  check(cudaEventRecord(*copied_, *copy_), "copying an adapter");
  check(cudaEventSynchronize(*copied_), "copying an adapter");
  slot_forms_[slot] = image.layout().forms();
  slot_ranks_[slot] = image.layout().max_total_rank();
}

void Engine::find_gains(AdapterImage& image, uint8_t* device) {
  const AdapterLayout& layout = image.layout();
  const std::vector<SiteRecord> records = layout.records_at(device);
  const std::vector<FormRecord> forms = layout.forms_at(device);
  for (const auto& [site, index] : layout.gained()) {
    check(cudaMemsetAsync(bad_row_.as<void>(), 0xff, sizeof(uint32_t), *copy_), "finding gains");
    const WeightSpec& weight = options_.weights[site_weights_[site]];
    const int64_t at = static_cast<int64_t>(options_.sites[site].expert) * weight.rows * aligned_width(weight.cols);
    const bool is_exact = weight.kind == WEIGHT_KIND_EXACT;
    form_gains({.weight = is_exact ? nullptr : weights_[site_weights_[site]].as<bf16>() + at,
                .exact = is_exact ? weights_[site_weights_[site]].as<float>() + at : nullptr,
                .weight_stride = aligned_width(weight.cols),
                .own = forms[site],
                .num_tokens = options_.sites[site].kind == SITE_KIND_EMBEDDING ? weight.rows : 0,
                .a = records[site].a,
                .a_steps = a_steps(options_.sites[site].in_width),
                .delta = records[site].deltas[index],
                .gain = const_cast<float*>(forms[site].gain),
                .bias = const_cast<float*>(forms[site].bias),
                .bad_output = bad_row_.as<uint32_t>()},
               *copy_);
    check(cudaGetLastError(), "finding gains");
    uint32_t bad = 0;
    check(cudaMemcpyAsync(&bad, bad_row_.as<void>(), sizeof bad, cudaMemcpyDeviceToHost, *copy_), "finding gains");
    check(cudaStreamSynchronize(*copy_), "finding gains");
    if (bad != ~0u)
      throw Error("adapter_invalid", "the adapter's changed weights of site " + std::to_string(site) + " have length 0 in row " + std::to_string(bad) + ", which no magnitude can divide");
  }
  check(cudaMemcpyAsync(image.forms(), device + layout.forms_at(), image.bytes() - layout.forms_at(), cudaMemcpyDeviceToHost, *copy_), "finding gains");
  check(cudaStreamSynchronize(*copy_), "finding gains");
  image.knows_gains = true;
}

}  // namespace lorikeet
