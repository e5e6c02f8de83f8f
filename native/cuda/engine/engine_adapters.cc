#include "engine.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <mutex>
#include <string>

#include "round_up.h"

namespace lorikeet {

void Engine::reserve_rank(int total_rank) {
  const int stride = round_up(total_rank, 32);
  if (stride <= shrunk_stride_) return;
  if (stride > MAX_RANK_SMALL_TILES) {
    throw Error("adapter_too_large", "the adapter has " + std::to_string(total_rank) + " ranks at one linear operation, more than the " +
                                         std::to_string(MAX_RANK_SMALL_TILES) + " that a CUDA device holds; use --backend wasm");
  }
  check(cudaDeviceSynchronize(), "making room for an adapter");
  /* Captured graphs hold the old address. */
  for (auto graph = graphs_.begin(); graph != graphs_.end();) {
    if (std::get<1>(graph->first) == 0) {
      ++graph;
      continue;
    }
    cudaGraphExecDestroy(graph->second.exec);
    graph = graphs_.erase(graph);
  }
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

void Engine::reserve(const AdapterImage& image) {
  reserve_rank(image.max_total_rank());
  if (!image.has_forms() || product_.bytes() > 0) return;
  size_t widest = 0;
  for (const LaunchSpec& launch : options_.launches)
    if (launch[LAUNCH_OP] == LAUNCH_OP_LINEAR && launch[LAUNCH_SITE] >= 0 && launch[LAUNCH_ACCUMULATE] == 1) widest = std::max<size_t>(widest, stride_of(launch[LAUNCH_OUT]));
  product_ = DeviceMemory(std::max<size_t>(1, row_capacity_ * widest * sizeof(float)), "products beside the residual stream");
}

void Engine::attach(int slot, size_t offset, AdapterImage& image) {
  if (slot < 0 || slot >= options_.num_slots || offset + image.bytes() > adapters_.bytes()) throw Error("step_invalid", "an adapter does not fit its slot");
  check(cudaSetDevice(options_.device), "choosing the device");
  uint8_t* to = adapters_.as<uint8_t>() + offset;
  /* Names of equal content share an image, and two threads may attach. */
  std::unique_lock gains(gains_mutex_, std::defer_lock);
  if (!image.gained().empty()) gains.lock();
  check(cudaMemcpyAsync(to, image.data(), image.bytes(), cudaMemcpyHostToDevice, *copy_), "copying an adapter");
  if (!image.gained().empty() && !image.knows_gains) find_gains(image, to);
  const std::vector<SiteRecord> records = image.records_at(to);
  SiteRecord* row = sites_.as<SiteRecord>() + static_cast<size_t>(slot) * options_.sites.size();
  check(cudaMemcpyAsync(row, records.data(), records.size() * sizeof(SiteRecord), cudaMemcpyHostToDevice, *copy_), "pointing at an adapter");
  const std::vector<FormRecord> forms = image.forms_at(to);
  FormRecord* form_row = forms_.as<FormRecord>() + static_cast<size_t>(slot) * options_.sites.size();
  check(cudaMemcpyAsync(form_row, forms.data(), forms.size() * sizeof(FormRecord), cudaMemcpyHostToDevice, *copy_), "pointing at an adapter");
  check(cudaEventRecord(*copied_, *copy_), "copying an adapter");
  check(cudaEventSynchronize(*copied_), "copying an adapter");
  slots_with_forms_[slot] = image.has_forms();
}

void Engine::find_gains(AdapterImage& image, uint8_t* device) {
  const std::vector<SiteRecord> records = image.records_at(device);
  const std::vector<FormRecord> forms = image.forms_at(device);
  for (const auto& [site, index] : image.gained()) {
    check(cudaMemsetAsync(bad_row_.as<void>(), 0xff, sizeof(uint32_t), *copy_), "finding gains");
    const WeightSpec& weight = options_.weights[site_weights_[site]];
    const int64_t at = static_cast<int64_t>(options_.sites[site].expert) * weight.rows * aligned_width(weight.cols);
    const bool is_exact = weight.kind == WEIGHT_KIND_EXACT;
    form_gains({.weight = is_exact ? nullptr : weights_[site_weights_[site]].as<bf16>() + at,
                .exact = is_exact ? weights_[site_weights_[site]].as<float>() + at : nullptr,
                .weight_stride = aligned_width(weight.cols),
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
  check(cudaMemcpyAsync(image.forms(), device + image.forms_at(), image.bytes() - image.forms_at(), cudaMemcpyDeviceToHost, *copy_), "finding gains");
  check(cudaStreamSynchronize(*copy_), "finding gains");
  image.knows_gains = true;
}

}  // namespace lorikeet
