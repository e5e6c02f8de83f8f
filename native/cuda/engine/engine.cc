#include "engine.h"

#include <algorithm>
#include <chrono>
#include <tuple>

#include "../../step_layout.h"
#include "round_up.h"

namespace lorikeet {

namespace {

constexpr int SMALL_ROWS = 256; /* the largest bucket */
constexpr int COPIED_WORDS = 4; /* at a time, by threads */
static_assert(RESULT_HEADER_WORDS % COPIED_WORDS == 0 && RESULT_WORDS % COPIED_WORDS == 0);
/** Of q, k and v at rank 21; adapters with more make room for themselves. */
constexpr int INITIAL_TOTAL_RANK = 64;

DeviceInfo find_device(int index) {
  const Probe probe = probe_devices();
  for (const DeviceInfo& device : probe.devices)
    if (device.index == index) return device;
  throw Error("no_device", probe.devices.empty() ? probe.reason : "there is no NVIDIA device " + std::to_string(index));
}

/** Whether products of layers can read the adapters of every site along with the weights: tiny heads of test models are not whole octets. */
bool streams(const EngineOptions& options) {
  return std::all_of(options.launches.begin(), options.launches.end(), [&](const LaunchSpec& launch) {
    if (launch[LAUNCH_OP] != LAUNCH_OP_LINEAR || launch[LAUNCH_SITE] < 0) return true;
    const SiteSpec& site = options.sites[launch[LAUNCH_SITE]];
    if (site.kind != SITE_KIND_MATRIX) return true;
    return site.borders.size() <= MAX_PARTS + 1 && site.borders.back() <= MAX_STREAMED_OUTPUTS &&
           std::all_of(site.borders.begin(), site.borders.end(), [](int border) { return border % B_OCTET == 0; });
  });
}

size_t bytes_of(const WeightSpec& weight) {
  switch (weight.kind) {
    /* Products copy blocks of eight rows, the last one whole. */
    case WEIGHT_KIND_MATRIX: return round_up<size_t>(weight.all_rows(), 8) * aligned_width(weight.cols) * sizeof(uint16_t);
    case WEIGHT_KIND_EXACT: return weight.all_rows() * aligned_width(weight.cols) * sizeof(float);
    default: return weight.all_rows() * sizeof(float);
  }
}

PlanLimits limits_of(const EngineOptions& o, const DeviceInfo& device) {
  check(cudaSetDevice(o.device), "choosing the device");
  const int streamed_rows = linear_stream_works() && streams(o) ? MAX_SMALL_ROWS : 0;
  return {o.max_rows, o.max_sequences, o.num_extents, o.num_slots, o.num_heads, o.num_kv_heads, device.num_multiprocessors, o.vocabulary, o.longest_window, SMALL_ROWS, streamed_rows, LARGE_TILE_ROWS};
}

}  // namespace

Engine::Engine(EngineOptions options)
    : options_(std::move(options)), device_(find_device(options_.device)), limits_(limits_of(options_, device_)), plan_(limits_) {
  check(cudaSetDevice(options_.device), "choosing the device");
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "asking for priorities");
  main_.emplace(least);
  /* Adapters' small kernels must find room beside base products that fill the device. */
  side_.emplace(greatest);
  copy_.emplace(least);
  forked_.emplace();
  joined_.emplace();
  copied_.emplace();
  int widest = 1;
  for (const WeightSpec& weight : options_.weights) widest = std::max(widest, weight.rows);
  matmul_ = std::make_unique<Matmul>(options_.cublaslt_path, device_.num_multiprocessors, widest);
  allocate();
}

Engine::~Engine() {
  cudaDeviceSynchronize();
  for (auto& [key, graph] : graphs_) cudaGraphExecDestroy(graph.exec);
}

void Engine::allocate() {
  const EngineOptions& o = options_;
  row_capacity_ = std::max(padded(o.max_rows), padded(o.max_sequences));
  sampled_capacity_ = padded(o.max_sequences);
  decode_item_capacity_ = max_decode_items(limits_, sampled_capacity_);
  for (const WeightSpec& weight : o.weights) {
    weights_.emplace_back(bytes_of(weight), "weights");
    stats_.weight_bytes += weights_.back().bytes();
  }
  for (const BufferSpec& buffer : o.buffers) {
    const size_t rows = buffer.rows == BUFFER_ROWS_SAMPLED ? sampled_capacity_ : buffer.rows == BUFFER_ROWS_ROUTED ? row_capacity_ * o.top_k : row_capacity_;
    buffers_.emplace_back(rows * aligned_width(buffer.width) * (buffer.is_float ? sizeof(float) : sizeof(uint16_t)), "activations");
    stats_.activation_bytes += buffers_.back().bytes();
  }
  deltas_.resize(o.buffers.size());
  for (const LaunchSpec& launch : o.launches) {
    if (launch[LAUNCH_OP] != LAUNCH_OP_LINEAR || !is_in_layer(launch[LAUNCH_SITE])) continue;
    DeviceMemory& delta = deltas_[launch[LAUNCH_OUT]];
    const size_t rows = options_.buffers[launch[LAUNCH_OUT]].is_float ? std::max(SMALL_ROWS, row_capacity_) : SMALL_ROWS;
    if (delta.bytes() == 0) delta = DeviceMemory(rows * stride_of(launch[LAUNCH_OUT]) * sizeof(uint16_t), "adapter deltas");
  }
  pool_ = DeviceMemory(o.num_extents * o.extent_bytes, "KV pages and adapters");
  site_weights_.assign(o.sites.size(), -1);
  site_biases_.assign(o.sites.size(), -1);
  site_expands_.resize(o.sites.size());
  for (const LaunchSpec& launch : o.launches) {
    const int op = launch[LAUNCH_OP], site = launch[LAUNCH_SITE], weight = launch[LAUNCH_WEIGHT], read = launch[LAUNCH_PENDING_SITE];
    const bool is_matrix = op == LAUNCH_OP_LINEAR || op == LAUNCH_OP_EMBED || op == LAUNCH_OP_EXACT_LINEAR || op == LAUNCH_OP_EXPERT_LINEAR;
    /* Every expert's matrix is a site, side by side. */
    if (is_matrix && site >= 0) std::fill_n(site_weights_.begin() + site, o.weights[weight].num_experts, weight);
    if (read >= 0) site_biases_[read] = launch[LAUNCH_PENDING_BIAS];
    if (read >= 0) site_expands_[read] = can_expand(launch);
  }
  slot_forms_.resize(o.num_slots);
  slot_ranks_.resize(o.num_slots);
  site_forms_.resize(o.sites.size());
  const size_t num_records = static_cast<size_t>(std::max(1, o.num_slots)) * std::max<size_t>(1, o.sites.size());
  const std::string places = std::to_string(o.num_slots) + " slots and " + std::to_string(o.sites.size()) + " sites";
  forms_ = DeviceMemory(num_records * sizeof(FormRecord), ("the table of forms of " + places).c_str());
  sites_ = DeviceMemory(num_records * sizeof(SiteRecord), ("the table of adapters of " + places).c_str());
  rope_table_ = DeviceMemory(static_cast<size_t>(o.max_context) * o.rotary_dim * sizeof(float), "rotation tables");
  shrunk_rows_ = std::max({MAX_SPLITS * SMALL_ROWS, LARGE_BLOCKS_PER_MULTIPROCESSOR * row_capacity_, o.top_k * row_capacity_});
  allocate_routed();
  reserve_rank(INITIAL_TOTAL_RANK);
  partial_ = DeviceMemory(decode_partial_bytes(decode_item_capacity_, o.num_heads, o.head_dim), "attention's partial sums");
  arrived_ = DeviceMemory(static_cast<size_t>(row_capacity_) * o.num_heads * sizeof(uint32_t), "attention's counters");
  PlanLimits smallest_tiles = limits_;
  smallest_tiles.large_tile_rows = SMALL_TILE_ROWS;
  const int most_tiles = std::max(max_tiles(limits_, SMALL_ROWS, 0), max_tiles(smallest_tiles, row_capacity_, FORM_ROWS));
  const BlockLayout largest = BlockLayout::of(row_capacity_, sampled_capacity_, decode_item_capacity_, row_capacity_, most_tiles, max_sampled_tiles(smallest_tiles, sampled_capacity_));
  const size_t most_listed = static_cast<size_t>(MAX_TABLES_PER_PAGE) * o.num_pages;
  /* Twice where an adapter comes to act within a step: its sequence is there two times then. */
  const size_t block_words = round_up<size_t>(largest.pages_at + 2 * most_listed + o.max_sequences, COPIED_WORDS);
  block_ = DeviceMemory(block_words * sizeof(int32_t), "step blocks");
  for (PinnedMemory& host_block : host_blocks_) host_block = PinnedMemory(block_words * sizeof(int32_t));
  const size_t most_penalties = std::min(most_listed * PAGE_TOKENS, static_cast<size_t>(o.max_sequences) * std::min(o.max_context, o.vocabulary));
  const size_t most_adjustments = most_penalties + static_cast<size_t>(o.max_sequences) * 1024;
  const size_t most_allowed_words = static_cast<size_t>(o.max_sequences) * ((o.vocabulary + 31) / 32);
  changes_ = DeviceMemory((most_adjustments * ADJUSTMENT_WORDS + most_allowed_words) * sizeof(int32_t), "penalties and allowed tokens");
  const size_t result_bytes = (RESULT_HEADER_WORDS + static_cast<size_t>(sampled_capacity_) * RESULT_WORDS) * sizeof(int32_t);
  results_ = DeviceMemory(result_bytes, "results");
  for (PinnedMemory& host_results : host_results_) host_results = PinnedMemory(result_bytes);
  bad_row_ = DeviceMemory(sizeof(uint32_t), "checks");
}

std::string Engine::description() const {
  return device_.name + " (sm_" + std::to_string(device_.major) + std::to_string(device_.minor) + "), " + matmul_->description();
}

StepUnderWay Engine::submit(const int32_t* block, size_t num_words) {
  const auto given = std::chrono::steady_clock::now();
  const Run run = send(block, num_words);
  const GraphKey key = {run.bucket, run.layout.tiles, run.forms};
  const auto graph = run.bucket == 0 ? graphs_.end() : graphs_.find(key);
  if (graph != graphs_.end()) {
    check(cudaGraphLaunch(graph->second.exec, *main_), "launching a graph");
    stats_.graph_steps++;
  } else {
    launch_all(run);
    check(cudaGetLastError(), "launching a step");
    stats_.eager_steps++;
    /* Only now: products make what they need at their first call, which no capture may see. */
    if (run.bucket != 0) capture(key);
  }
  const StepUnderWay step = ask_for_results(block, given);
  num_awaitable_ = step.num_sampled;
  return step;
}

StepUnderWay Engine::ask_for_results(const int32_t* block, std::chrono::steady_clock::time_point given) {
  const StepUnderWay step = {next_place_, block[STEP_HEADER_NUM_SAMPLED], given};
  if (step.num_sampled > 0) {
    const size_t bytes = static_cast<size_t>(step.num_sampled) * RESULT_WORDS * sizeof(int32_t);
    copy_by_threads(results_.as<int32_t>() + RESULT_HEADER_WORDS, host_results_[step.place].as<int32_t>() + RESULT_HEADER_WORDS, bytes, *main_);
    check(cudaGetLastError(), "reading a step's result");
  }
  check(cudaEventRecord(sampled_[step.place], *main_), "reading a step's result");
  next_place_ = (next_place_ + 1) % MAX_UNDER_WAY;
  num_under_way_++;
  return step;
}

const int32_t* Engine::receive(const StepUnderWay& step, size_t& result_words) {
  check(cudaEventSynchronize(sampled_[step.place]), "running a step");
  num_under_way_--;
  /* A step that was given early has waited for the one before it. */
  const auto now = std::chrono::steady_clock::now();
  const auto elapsed = std::chrono::duration_cast<std::chrono::microseconds>(now - std::max(step.given, last_received_));
  last_received_ = now;
  int32_t* const results = host_results_[step.place].as<int32_t>();
  results[RESULT_HEADER_VERSION] = ABI_VERSION;
  results[RESULT_HEADER_NUM_SAMPLED] = step.num_sampled;
  results[RESULT_HEADER_ELAPSED_MICROS] = static_cast<int32_t>(std::min<int64_t>(elapsed.count(), INT32_MAX));
  result_words = RESULT_HEADER_WORDS + static_cast<size_t>(step.num_sampled) * RESULT_WORDS;
  return results;
}

Engine::Run Engine::send(const int32_t* block, size_t num_words) {
  /* Its block may still be on its way. */
  if (num_under_way_ >= MAX_UNDER_WAY) throw Error("step_invalid", "the device has as many steps as it takes at once; receive one first");
  const StepShape& shape = plan_.read(block, num_words, slot_forms_.data(), num_awaitable_);
  num_awaitable_ = 0;
  const int bucket = shape.is_decode ? bucket_of(shape.rows) : 0;
  Run run = {{}, shape.rows, padded(shape.rows), shape.sampled, padded(shape.sampled), shape.has_adapters, shape.forms, bucket, bucket == 0 ? ranks_of(block) : shrunk_stride_};
  if (bucket != 0) {
    run.layout = decode_layout(bucket, shape.has_adapters ? tile_bucket(shape.tiles, max_tiles(limits_, bucket, shape.forms)) : 0, shape.forms);
    run.rows = run.sampled = bucket;
  } else {
    run.layout = BlockLayout::of(run.padded_rows, run.padded_sampled, shape.decode_items, shape.prefill_items, shape.tiles, shape.sampled_tiles);
  }
  const size_t words = round_up<size_t>(plan_.words_of(run.layout), COPIED_WORDS);
  const PinnedMemory& host_block = host_blocks_[next_place_];
  if (words * sizeof(int32_t) > host_block.bytes()) throw Error("step_invalid", "a step lists more pages than the engine holds");
  const size_t change_bytes = static_cast<size_t>(shape.changes) * sizeof(int32_t);
  if (change_bytes > changes_.bytes()) throw Error("step_invalid", "a step lists more penalties and allowed tokens than the engine holds");
  plan_.write(run.layout, run.has_adapters ? take_tags() : 0, host_block.as<int32_t>());
  copy_by_threads(host_block.as<void>(), block_.as<void>(), words * sizeof(int32_t), *main_);
  check(cudaGetLastError(), "sending a step");
  if (change_bytes > 0) check(cudaMemcpyAsync(changes_.as<void>(), plan_.changes(), change_bytes, cudaMemcpyHostToDevice, *main_), "sending penalties");
  return run;
}

}  // namespace lorikeet
