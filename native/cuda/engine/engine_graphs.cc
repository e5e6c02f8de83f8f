#include "engine.h"

#include <map>
#include <tuple>
#include <vector>

namespace lorikeet {

void Engine::tune_products() {
  for (const int bucket : DECODE_BUCKETS) {
    if (bucket > sampled_capacity_) break;
    std::map<std::tuple<int, int, bool, bool, bool>, std::vector<LinearArgs>> calls;
    for (const LaunchSpec& launch : options_.launches) {
      if (launch[LAUNCH_OP] != LAUNCH_OP_LINEAR) continue;
      const LinearArgs args = linear_args(launch, bucket);
      calls[{args.n, args.k, args.out_type == OutType::f32, args.accumulate, is_in_layer(launch[LAUNCH_SITE])}].push_back(args);
    }
    const bool has_neighbours = options_.num_slots > 0 && bucket > limits_.streamed_rows;
    for (const auto& [key, same] : calls) matmul_->tune(same, has_neighbours && std::get<4>(key), main_queue());
  }
}

BlockLayout Engine::decode_layout(int bucket, int tiles, uint32_t forms) const {
  return BlockLayout::of(bucket, bucket, max_decode_items(limits_, bucket), 0, tiles, forms & FORM_HEAD ? sampled_tiles_of(limits_, bucket, tiles) : 0);
}

cudaGraphExec_t Engine::captured(const std::function<void()>& launches) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamBeginCapture(*main_, cudaStreamCaptureModeThreadLocal), "capturing a graph");
  try {
    launches();
  } catch (...) {
    cudaStreamEndCapture(*main_, &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    throw;
  }
  check(cudaStreamEndCapture(*main_, &graph), "capturing a graph");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "making a graph");
  check(cudaGraphUpload(exec, *main_), "uploading a graph");
  return exec;
}

void Engine::capture(const GraphKey& key) {
  const auto [bucket, tiles, forms] = key;
  const Run run = {decode_layout(bucket, tiles, forms), bucket, bucket, bucket, bucket, tiles > 0, forms, bucket, shrunk_stride_};
  graphs_[key].exec = captured([&] { launch_all(run); });
  stats_.num_graphs = static_cast<int64_t>(graphs_.size());
}

void Engine::warm_up() {
  check(cudaSetDevice(options_.device), "choosing the device");
  landing_ = DeviceMemory();
  tune_products();
  for (auto bucket = DECODE_BUCKETS.rbegin(); bucket != DECODE_BUCKETS.rend(); ++bucket) {
    if (*bucket > sampled_capacity_) continue;
    capture({*bucket, 0, 0});
    if (options_.num_slots == 0) continue;
    const int most = max_tiles(limits_, *bucket, 0);
    for (int tiles = tile_bucket(1, most); capture({*bucket, tiles, 0}), tiles < most;) tiles = tile_bucket(tiles + 1, most);
  }
  check(cudaStreamSynchronize(*main_), "warming up");
}

}  // namespace lorikeet
