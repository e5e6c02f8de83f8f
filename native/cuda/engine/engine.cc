#include "engine.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <set>
#include <tuple>

#include "../../step_layout.h"

namespace lorikeet {

namespace {

constexpr int SMALL_ROWS = 256; /* the largest bucket */
/** Blocks of an adapter's kernel for many rows that one multiprocessor holds. */
constexpr int LARGE_BLOCKS_PER_MULTIPROCESSOR = 3;
/** Rows of large steps are padded to this many, so that products come in few shapes. */
constexpr int LARGE_ROW_UNIT = 64;
/** Of q, k and v at rank 21; adapters with more make room for themselves. */
constexpr int INITIAL_TOTAL_RANK = 64;

int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

int padded(int rows) {
  const int bucket = bucket_of(rows);
  return bucket != 0 ? bucket : round_up(rows, LARGE_ROW_UNIT);
}

/** Graphs with adapters exist for 2, 8, 32, ... tiles: blocks without a tile end at once, but thousands of them take time. */
int tile_bucket(int tiles, int most) {
  int bucket = 2;
  while (bucket < tiles) bucket *= 4;
  return std::min(bucket, most);
}

float float_of(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

DeviceInfo find_device(int index) {
  const Probe probe = probe_devices();
  for (const DeviceInfo& device : probe.devices)
    if (device.index == index) return device;
  throw Error("no_device", probe.devices.empty() ? probe.reason : "there is no NVIDIA device " + std::to_string(index));
}

/** Whether products can read the adapters of every site along with the weights: tiny heads of test models are not whole octets. */
bool streams(const std::vector<SiteSpec>& sites) {
  return std::all_of(sites.begin(), sites.end(), [](const SiteSpec& site) {
    return site.borders.size() <= MAX_PARTS + 1 && std::all_of(site.borders.begin(), site.borders.end(), [](int border) { return border % B_OCTET == 0; });
  });
}

PlanLimits limits_of(const EngineOptions& o, const DeviceInfo& device) {
  check(cudaSetDevice(o.device), "choosing the device");
  const int streamed_rows = linear_stream_works() && streams(o.sites) ? MAX_SMALL_ROWS : 0;
  return {o.max_rows, o.max_sequences, o.num_pages, o.num_slots, o.num_heads, o.num_kv_heads, device.num_multiprocessors, o.vocabulary, o.longest_window, SMALL_ROWS, streamed_rows, LARGE_TILE_ROWS};
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
    /* Products copy blocks of eight rows, the last one whole. */
    const size_t bytes = weight.is_matrix ? static_cast<size_t>(round_up(weight.rows, 8)) * aligned_width(weight.cols) * sizeof(uint16_t) : weight.rows * sizeof(float);
    weights_.emplace_back(bytes, "weights");
    stats_.weight_bytes += bytes;
  }
  for (const BufferSpec& buffer : o.buffers) {
    const size_t rows = buffer.sampled ? sampled_capacity_ : row_capacity_;
    buffers_.emplace_back(rows * aligned_width(buffer.width) * (buffer.is_float ? sizeof(float) : sizeof(uint16_t)), "activations");
    stats_.activation_bytes += buffers_.back().bytes();
  }
  deltas_.resize(o.buffers.size());
  for (const LaunchSpec& launch : o.launches) {
    if (launch[LAUNCH_OP] != LAUNCH_OP_LINEAR || launch[LAUNCH_SITE] < 0) continue;
    DeviceMemory& delta = deltas_[launch[LAUNCH_OUT]];
    const size_t rows = options_.buffers[launch[LAUNCH_OUT]].is_float ? std::max(SMALL_ROWS, row_capacity_) : SMALL_ROWS;
    if (delta.bytes() == 0) delta = DeviceMemory(rows * stride_of(launch[LAUNCH_OUT]) * sizeof(uint16_t), "adapter deltas");
  }
  kv_ = DeviceMemory(static_cast<size_t>(o.num_pages) * page_stride() * sizeof(uint16_t), "KV pages");
  stats_.kv_bytes = kv_.bytes();
  adapters_ = DeviceMemory(o.adapter_bytes, "adapters");
  site_weights_.resize(o.sites.size());
  for (const LaunchSpec& launch : o.launches)
    if (launch[LAUNCH_OP] == LAUNCH_OP_LINEAR && launch[LAUNCH_SITE] >= 0) site_weights_[launch[LAUNCH_SITE]] = launch[LAUNCH_WEIGHT];
  slots_with_forms_.resize(o.num_slots);
  forms_ = DeviceMemory(static_cast<size_t>(std::max(1, o.num_slots)) * std::max<size_t>(1, o.sites.size()) * sizeof(FormRecord), "the table of forms");
  sites_ = DeviceMemory(static_cast<size_t>(std::max(1, o.num_slots)) * std::max<size_t>(1, o.sites.size()) * sizeof(SiteRecord), "the table of adapters");
  rope_table_ = DeviceMemory(static_cast<size_t>(o.max_context) * o.rotary_dim * sizeof(float), "rotation tables");
  shrunk_rows_ = std::max(MAX_SPLITS * SMALL_ROWS, LARGE_BLOCKS_PER_MULTIPROCESSOR * row_capacity_);
  reserve_rank(INITIAL_TOTAL_RANK);
  partial_ = DeviceMemory(decode_partial_bytes(decode_item_capacity_, o.num_heads, o.head_dim), "attention's partial sums");
  arrived_ = DeviceMemory(static_cast<size_t>(row_capacity_) * o.num_heads * sizeof(uint32_t), "attention's counters");
  PlanLimits smallest_tiles = limits_;
  smallest_tiles.large_tile_rows = SMALL_TILE_ROWS;
  const int most_tiles = std::max(max_tiles(limits_, SMALL_ROWS), max_tiles(smallest_tiles, row_capacity_));
  const BlockLayout largest = BlockLayout::of(row_capacity_, sampled_capacity_, decode_item_capacity_, row_capacity_, most_tiles);
  const size_t most_listed = static_cast<size_t>(MAX_TABLES_PER_PAGE) * o.num_pages;
  /* Twice where an adapter comes to act within a step: its sequence is there two times then. */
  const size_t block_words = largest.pages_at + 2 * most_listed + o.max_sequences;
  block_ = DeviceMemory(block_words * sizeof(int32_t), "step blocks");
  host_block_ = PinnedMemory(block_words * sizeof(int32_t));
  const size_t most_penalties = std::min(most_listed * PAGE_TOKENS, static_cast<size_t>(o.max_sequences) * std::min(o.max_context, o.vocabulary));
  const size_t most_adjustments = most_penalties + static_cast<size_t>(o.max_sequences) * 1024;
  adjustments_ = DeviceMemory(most_adjustments * ADJUSTMENT_WORDS * sizeof(int32_t), "penalties");
  const size_t result_bytes = (RESULT_HEADER_WORDS + static_cast<size_t>(sampled_capacity_) * RESULT_WORDS) * sizeof(int32_t);
  results_ = DeviceMemory(result_bytes, "results");
  host_results_ = PinnedMemory(result_bytes);
  bad_row_ = DeviceMemory(sizeof(uint32_t), "checks");
}

int64_t Engine::page_stride() const {
  return static_cast<int64_t>(options_.num_layers) * 2 * options_.num_kv_heads * PAGE_TOKENS * options_.head_dim;
}

bf16* Engine::kv_of_layer(int layer) const {
  return kv_.as<bf16>() + static_cast<int64_t>(layer) * 2 * options_.num_kv_heads * PAGE_TOKENS * options_.head_dim;
}

std::string Engine::description() const {
  return device_.name + " (sm_" + std::to_string(device_.major) + std::to_string(device_.minor) + "), " + matmul_->description();
}

/* ---- loading --------------------------------------------------------------------------------------------------- */

std::optional<int> Engine::load_rows(int weight, int first_row, int num_rows, Dtype dtype, const void* source, size_t bytes) {
  const WeightSpec& spec = options_.weights.at(weight);
  const size_t row_bytes = static_cast<size_t>(spec.cols) * (dtype == Dtype::f32 ? 4 : 2);
  if (first_row < 0 || num_rows < 1 || first_row + num_rows > spec.rows || bytes != row_bytes * num_rows)
    throw Error("weight_invalid", "rows of a weight do not fit it");
  check(cudaSetDevice(options_.device), "choosing the device");
  if (landing_.bytes() < bytes) landing_ = DeviceMemory(bytes, "weights on their way");
  check(cudaMemsetAsync(bad_row_.as<void>(), 0xff, sizeof(uint32_t), *copy_), "loading weights");
  check(cudaMemcpyAsync(landing_.as<void>(), source, bytes, cudaMemcpyHostToDevice, *copy_), "loading weights");
  if (spec.is_matrix) {
    const int stride = aligned_width(spec.cols);
    convert_matrix(landing_.as<void>(), dtype, num_rows, spec.cols, weights_[weight].as<bf16>() + static_cast<int64_t>(first_row) * stride, stride, bad_row_.as<uint32_t>(), *copy_);
  } else {
    convert_vector(landing_.as<void>(), dtype, num_rows, weights_[weight].as<float>() + first_row, bad_row_.as<uint32_t>(), *copy_);
  }
  check(cudaGetLastError(), "loading weights");
  uint32_t bad_row = 0;
  check(cudaMemcpyAsync(&bad_row, bad_row_.as<void>(), sizeof bad_row, cudaMemcpyDeviceToHost, *copy_), "loading weights");
  check(cudaStreamSynchronize(*copy_), "loading weights");
  if (bad_row == ~0u) return std::nullopt;
  return static_cast<int>(bad_row);
}

void Engine::fill_random(uint64_t seed) {
  for (size_t i = 0; i < weights_.size(); i++) {
    const WeightSpec& spec = options_.weights[i];
    if (spec.is_matrix) random_matrix(weights_[i].as<bf16>(), spec.rows, spec.cols, aligned_width(spec.cols), 1.0f / std::sqrt(static_cast<float>(spec.cols)), seed * 0x10001 + i, *copy_);
    else fill_vector(weights_[i].as<float>(), spec.rows, 1.0f, *copy_);
  }
  check(cudaGetLastError(), "filling weights");
  check(cudaStreamSynchronize(*copy_), "filling weights");
}

void Engine::load_rope_table(const float* table, size_t count) {
  if (count * sizeof(float) != rope_table_.bytes()) throw Error("weight_invalid", "the rotation table has another size");
  check(cudaMemcpy(rope_table_.as<void>(), table, rope_table_.bytes(), cudaMemcpyHostToDevice), "loading the rotation table");
}

/* ---- adapters -------------------------------------------------------------------------------------------------- */

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
    form_gains({.weight = weights_[site_weights_[site]].as<bf16>(),
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

/* ---- warm-up --------------------------------------------------------------------------------------------------- */

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

void Engine::tune_products() {
  for (const int bucket : DECODE_BUCKETS) {
    if (bucket > sampled_capacity_) break;
    std::map<std::tuple<int, int, bool, bool, bool>, std::vector<LinearArgs>> calls;
    for (const LaunchSpec& launch : options_.launches) {
      if (launch[LAUNCH_OP] != LAUNCH_OP_LINEAR) continue;
      const LinearArgs args = linear_args(launch, bucket);
      calls[{args.n, args.k, args.out_type == OutType::f32, args.accumulate, launch[LAUNCH_SITE] >= 0}].push_back(args);
    }
    const bool has_neighbours = options_.num_slots > 0 && bucket > limits_.streamed_rows;
    for (const auto& [key, same] : calls) matmul_->tune(same, has_neighbours && std::get<4>(key), main_queue());
  }
}

BlockLayout Engine::decode_layout(int bucket, int tiles) const {
  return BlockLayout::of(bucket, bucket, max_decode_items(limits_, bucket), 0, tiles);
}

template <typename Launches> cudaGraphExec_t Engine::captured(Launches launches) {
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
  const auto [bucket, tiles, has_forms] = key;
  const Run run = {decode_layout(bucket, tiles), bucket, bucket, bucket, bucket, tiles > 0, has_forms, bucket};
  graphs_[key].exec = captured([&] { launch_all(run); });
  stats_.num_graphs = static_cast<int64_t>(graphs_.size());
}

std::vector<LaunchTime> Engine::profile(const int32_t* block, size_t num_words) {
  constexpr int REPLAYS = 11;
  const Run run = send(block, num_words);
  std::map<std::tuple<int, int, int, int>, std::vector<int>> kinds;
  for (size_t i = 0; i < options_.launches.size(); i++) {
    const LaunchSpec& launch = options_.launches[i];
    const bool has_weight = launch[LAUNCH_WEIGHT] >= 0;
    const WeightSpec weight = has_weight ? options_.weights[launch[LAUNCH_WEIGHT]] : WeightSpec{0, 0, false};
    kinds[{launch[LAUNCH_OP], weight.rows, weight.cols, launch[LAUNCH_SAMPLED_ROWS]}].push_back(static_cast<int>(i));
  }
  std::vector<LaunchTime> times;
  Event begin(cudaEventDefault), end(cudaEventDefault);
  for (const auto& [kind, launches] : kinds) {
    const auto launch_kind = [&, &same = launches] {
      for (const int i : same) launch_one(run, options_.launches[i]);
    };
    const bool has_parts = run.has_adapters && !is_streamed(run) && options_.launches[launches[0]][LAUNCH_OP] == LAUNCH_OP_LINEAR && options_.launches[launches[0]][LAUNCH_SITE] >= 0;
    for (const int parts : {ALL_PARTS, PART_BASE, PART_SHRINK, PART_EXPAND}) {
      if (parts != ALL_PARTS && !has_parts) break;
      parts_ = parts;
      /* Products make what they need at their first call. */
      launch_kind();
      const cudaGraphExec_t exec = captured(launch_kind);
      std::vector<float> samples;
      for (int replay = 0; replay < REPLAYS; replay++) {
        uint32_t* first_tag = host_block_.as<uint32_t>() + run.layout.first_tag_at;
        *first_tag = take_tags();
        check(cudaMemcpyAsync(block_at<uint32_t>(run.layout.first_tag_at), first_tag, sizeof *first_tag, cudaMemcpyHostToDevice, *main_), "timing");
        check(cudaEventRecord(begin, *main_), "timing");
        check(cudaGraphLaunch(exec, *main_), "timing");
        check(cudaEventRecord(end, *main_), "timing");
        check(cudaEventSynchronize(end), "timing");
        float ms = 0.0f;
        check(cudaEventElapsedTime(&ms, begin, end), "timing");
        samples.push_back(ms * 1000.0f / static_cast<float>(launches.size()));
      }
      cudaGraphExecDestroy(exec);
      std::sort(samples.begin(), samples.end());
      times.push_back({launches[0], parts, static_cast<int>(launches.size()), samples[REPLAYS / 2]});
    }
    parts_ = ALL_PARTS;
  }
  return times;
}

void Engine::warm_up() {
  check(cudaSetDevice(options_.device), "choosing the device");
  landing_ = DeviceMemory();
  tune_products();
  for (auto bucket = DECODE_BUCKETS.rbegin(); bucket != DECODE_BUCKETS.rend(); ++bucket) {
    if (*bucket > sampled_capacity_) continue;
    capture({*bucket, 0, false});
    if (options_.num_slots == 0) continue;
    const int most = max_tiles(limits_, *bucket);
    for (int tiles = tile_bucket(1, most); capture({*bucket, tiles, false}), tiles < most;) tiles = tile_bucket(tiles + 1, most);
  }
  check(cudaStreamSynchronize(*main_), "warming up");
}

/* ---- one step -------------------------------------------------------------------------------------------------- */

const int32_t* Engine::run(const int32_t* block, size_t num_words, size_t& result_words) {
  const auto started = std::chrono::steady_clock::now();
  const Run run = send(block, num_words);
  const GraphKey key = {run.bucket, run.layout.tiles, run.has_forms};
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
  result_words = receive(block);
  int32_t* results = host_results_.as<int32_t>();
  const auto elapsed = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - started);
  results[RESULT_HEADER_ELAPSED_MICROS] = static_cast<int32_t>(std::min<int64_t>(elapsed.count(), INT32_MAX));
  return results;
}

size_t Engine::receive(const int32_t* block) {
  const int num_sampled = block[STEP_HEADER_NUM_SAMPLED];
  const size_t record_words = static_cast<size_t>(num_sampled) * RESULT_WORDS;
  int32_t* results = host_results_.as<int32_t>();
  if (record_words > 0) {
    check(cudaMemcpyAsync(results + RESULT_HEADER_WORDS, results_.as<int32_t>() + RESULT_HEADER_WORDS, record_words * sizeof(int32_t), cudaMemcpyDeviceToHost, *main_),
          "reading a step's result");
  }
  check(cudaStreamSynchronize(*main_), "running a step");
  results[RESULT_HEADER_VERSION] = ABI_VERSION;
  results[RESULT_HEADER_NUM_SAMPLED] = num_sampled;
  results[RESULT_HEADER_ELAPSED_MICROS] = 0;
  return RESULT_HEADER_WORDS + record_words;
}

LaunchResult Engine::run_launches(const int32_t* block, size_t num_words, int first, int count, const std::vector<BufferValues>& inputs, const std::vector<int>& outputs) {
  const Run run = send(block, num_words);
  if (first < 0 || count < 1 || static_cast<size_t>(first) + count > options_.launches.size()) throw Error("step_invalid", "there are no such launches");
  const StepShape shape = plan_.shape();
  for (const BufferValues& input : inputs) write_buffer(input.buffer, rows_of(shape, input.buffer), input.values);
  for (int i = 0; i < count; i++) launch_one(run, options_.launches[first + i]);
  check(cudaGetLastError(), "launching a part of a step");
  const size_t words = receive(block);
  LaunchResult result;
  result.record.assign(host_results_.as<int32_t>(), host_results_.as<int32_t>() + words);
  for (const int buffer : outputs) result.buffers.push_back(read_buffer(buffer, rows_of(shape, buffer)));
  return result;
}

int Engine::rows_of(const StepShape& shape, int buffer) const {
  if (buffer < 0 || static_cast<size_t>(buffer) >= options_.buffers.size() || options_.buffers[buffer].width == 0)
    throw Error("step_invalid", "there is no buffer " + std::to_string(buffer));
  return options_.buffers[buffer].sampled ? shape.sampled : shape.rows;
}

void Engine::write_buffer(int buffer, int rows, const std::vector<float>& values) {
  const BufferSpec& spec = options_.buffers[buffer];
  if (values.size() != static_cast<size_t>(rows) * spec.width)
    throw Error("step_invalid", "buffer " + std::to_string(buffer) + " takes " + std::to_string(rows) + " rows of " + std::to_string(spec.width) + " numbers");
  const size_t size = spec.is_float ? sizeof(float) : sizeof(bf16);
  std::vector<bf16> halves;
  if (!spec.is_float) std::transform(values.begin(), values.end(), std::back_inserter(halves), [](float value) { return __float2bfloat16(value); });
  const void* from = spec.is_float ? static_cast<const void*>(values.data()) : halves.data();
  check(cudaMemcpy2DAsync(buffers_[buffer].as<void>(), stride_of(buffer) * size, from, spec.width * size, spec.width * size, rows, cudaMemcpyHostToDevice, *main_), "writing a buffer");
  check(cudaStreamSynchronize(*main_), "writing a buffer");
}

std::vector<float> Engine::read_buffer(int buffer, int rows) {
  const BufferSpec& spec = options_.buffers[buffer];
  std::vector<float> values(static_cast<size_t>(rows) * spec.width);
  const size_t size = spec.is_float ? sizeof(float) : sizeof(bf16);
  std::vector<bf16> halves(spec.is_float ? 0 : values.size());
  void* to = spec.is_float ? static_cast<void*>(values.data()) : halves.data();
  check(cudaMemcpy2D(to, spec.width * size, buffers_[buffer].as<void>(), stride_of(buffer) * size, spec.width * size, rows, cudaMemcpyDeviceToHost), "reading a buffer");
  std::transform(halves.begin(), halves.end(), values.begin(), [](bf16 value) { return __bfloat162float(value); });
  return values;
}

Engine::Run Engine::send(const int32_t* block, size_t num_words) {
  const StepShape& shape = plan_.read(block, num_words);
  const int bucket = shape.is_decode ? bucket_of(shape.rows) : 0;
  Run run = {{}, shape.rows, padded(shape.rows), shape.sampled, padded(shape.sampled), shape.has_adapters, false, bucket};
  for (int i = 0; i < block[STEP_HEADER_NUM_SEGMENTS]; i++)
    run.has_forms |= slots_with_forms_[block[block[STEP_HEADER_SEGMENTS_AT] + i * SEGMENT_WORDS + SEGMENT_SLOT]] != 0;
  if (bucket != 0) {
    run.layout = decode_layout(bucket, shape.has_adapters ? tile_bucket(shape.tiles, max_tiles(limits_, bucket)) : 0);
    run.rows = run.sampled = bucket;
  } else {
    run.layout = BlockLayout::of(run.padded_rows, run.padded_sampled, shape.decode_items, shape.prefill_items, shape.tiles);
  }
  const size_t words = plan_.words_of(run.layout);
  if (words * sizeof(int32_t) > host_block_.bytes()) throw Error("step_invalid", "a step lists more pages than the engine holds");
  const size_t adjustment_bytes = static_cast<size_t>(shape.adjustments) * ADJUSTMENT_WORDS * sizeof(int32_t);
  if (adjustment_bytes > adjustments_.bytes()) throw Error("step_invalid", "a step lists more penalties than the engine holds");
  plan_.write(run.layout, run.has_adapters ? take_tags() : 0, host_block_.as<int32_t>());
  check(cudaMemcpyAsync(block_.as<void>(), host_block_.as<void>(), words * sizeof(int32_t), cudaMemcpyHostToDevice, *main_), "sending a step");
  if (adjustment_bytes > 0) check(cudaMemcpyAsync(adjustments_.as<void>(), plan_.adjustments(), adjustment_bytes, cudaMemcpyHostToDevice, *main_), "sending penalties");
  return run;
}

void Engine::launch_all(const Run& run) {
  for (const LaunchSpec& launch : options_.launches)
    if (run.sampled > 0 || launch[LAUNCH_SAMPLED_ROWS] != 1) launch_one(run, launch);
}

void Engine::launch_one(const Run& run, const LaunchSpec& launch) {
  switch (launch[LAUNCH_OP]) {
    case LAUNCH_OP_EMBED: {
      const WeightSpec& weight = options_.weights[launch[LAUNCH_WEIGHT]];
      embed({weights_[launch[LAUNCH_WEIGHT]].as<bf16>(), aligned_width(weight.cols), block_at<int32_t>(run.layout.tokens_at), buffers_[launch[LAUNCH_OUT]].as<float>(),
             stride_of(launch[LAUNCH_OUT]), weight.cols, run.rows},
            main_queue());
      break;
    }
    case LAUNCH_OP_RMS_NORM: launch_norm(run, launch); break;
    case LAUNCH_OP_LINEAR: launch_linear(run, launch); break;
    case LAUNCH_OP_ROPE_KV_WRITE: launch_rope(run, launch); break;
    case LAUNCH_OP_ATTENTION: launch_attention(run, launch); break;
    case LAUNCH_OP_SILU_MUL: launch_silu(run, launch); break;
    case LAUNCH_OP_SAMPLE:
      sample({buffers_[launch[LAUNCH_X]].as<float>(), stride_of(launch[LAUNCH_X]), options_.vocabulary, run.sampled, block_at<int32_t>(run.layout.samples_at),
              adjustments_.as<int32_t>(), results_.as<int32_t>() + RESULT_HEADER_WORDS},
             main_queue());
      break;
  }
}

Pending Engine::pending_of(const Run& run, const LaunchSpec& launch) const {
  const int bias = launch[LAUNCH_PENDING_BIAS];
  const bool has_delta = launch[LAUNCH_PENDING_SITE] >= 0 && run.has_adapters && !run.has_forms && leaves_delta(run, launch[LAUNCH_X]);
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
  };
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
      .rows = run.rows,
      .pending = pending_of(run, launch),
  };
  silu_mul(args, queue_behind(run, launch));
}

LoraArgs Engine::lora_args(const Run& run, int site) const {
  /* Partial sums of all splits lie side by side in one area. */
  const int tiles = std::max(1, run.layout.tiles);
  const int wanted = is_small(run) ? MAX_SPLITS : std::max(1, LARGE_BLOCKS_PER_MULTIPROCESSOR * device_.num_multiprocessors / tiles);
  return {
      .tiles = block_at<RowTile>(run.layout.tiles_at),
      .num_tiles = run.layout.tiles,
      .large = !is_small(run) && limits_.large_tile_rows == LARGE_TILE_ROWS,
      .row_slot = block_at<int32_t>(run.layout.row_slots_at),
      .sites = sites_.as<SiteRecord>(),
      .num_sites = static_cast<int>(options_.sites.size()),
      .site = site,
      .shrunk = shrunk_.as<float>(),
      .shrunk_rows = run.padded_rows,
      .shrunk_stride = shrunk_stride_,
      .splits = std::min({wanted, MAX_SPLITS, static_cast<int>(shrunk_rows_ / run.padded_rows)}),
      .max_rank = shrunk_stride_,
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
 * Up to 64 rows: the product reads A and B along with the weights. Up to 256, or on older devices: the adapter works beside the
 * base product and leaves a delta, which the kernel that reads the output adds. Many rows: the adapter's part is written first
 * and the base product added onto it, whose epilogue hides the read; the residual stream, float32 and read by a norm anyway,
 * takes a delta here too.
 */
void Engine::launch_linear(const Run& run, const LaunchSpec& launch) {
  const bool sampled = launch[LAUNCH_SAMPLED_ROWS] == 1;
  LinearArgs args = linear_args(launch, sampled ? run.padded_sampled : run.padded_rows);
  const int site = launch[LAUNCH_SITE];
  if (site < 0 || !run.has_adapters) return matmul_->run(args, false, main_queue());
  if (!run.has_forms) return launch_adapted(run, launch, args);

  /* A gain is of what base and adapter add, so that goes aside where it would be lost in the residual stream. */
  const bool aside = args.accumulate;
  const bool delta = leaves_delta(run, launch[LAUNCH_OUT]);
  void* out = args.out;
  if (aside) args.out = product_.as<float>(), args.accumulate = false;
  launch_adapted(run, launch, args);
  const FormArgs forms = {
      .forms = forms_.as<FormRecord>(),
      .num_sites = static_cast<int>(options_.sites.size()),
      .site = site,
      .row_slot = block_at<int32_t>(run.layout.row_slots_at),
      .product = aside ? product_.as<float>() : nullptr,
      .delta = delta ? deltas_[launch[LAUNCH_OUT]].as<bf16>() : nullptr,
      .out = out,
      .stride = args.out_stride,
      .width = args.n,
      .rows = run.rows,
  };
  apply_forms(forms, {*main_, overlaps() && !(is_small(run) && !is_streamed(run))});
}

/** The product of a step with adapters: see above. */
void Engine::launch_adapted(const Run& run, const LaunchSpec& launch, LinearArgs args) {
  const int site = launch[LAUNCH_SITE];
  if (is_streamed(run)) {
    const StreamedLora lora = streamed_lora(run, site);
    return linear_stream(args, &lora, device_.num_multiprocessors, main_queue());
  }
  const LoraArgs lora = lora_args(run, site);
  const int out_width = options_.buffers[launch[LAUNCH_OUT]].width;
  if (is_small(run)) {
    check(cudaEventRecord(*forked_, *main_), "forking");
    check(cudaStreamWaitEvent(*side_, *forked_, 0), "forking");
    if (parts_ & PART_SHRINK) lora_shrink(lora, args.x, args.x_stride, {*side_, false});
    if (parts_ & PART_EXPAND) lora_expand(lora, ExpandMode::delta, deltas_[launch[LAUNCH_OUT]].as<bf16>(), args.out_stride, out_width, {*side_, overlaps()});
    check(cudaEventRecord(*joined_, *side_), "joining");
    if (parts_ & PART_BASE) matmul_->run(args, true, main_queue());
    check(cudaStreamWaitEvent(*main_, *joined_, 0), "joining");
  } else {
    const bool delta = leaves_delta(run, launch[LAUNCH_OUT]);
    bf16* out = delta ? deltas_[launch[LAUNCH_OUT]].as<bf16>() : static_cast<bf16*>(args.out);
    if (parts_ & PART_SHRINK) lora_shrink(lora, args.x, args.x_stride, main_queue());
    if (parts_ & PART_EXPAND) lora_expand(lora, delta ? ExpandMode::delta : ExpandMode::replace, out, args.out_stride, out_width, main_queue());
    args.accumulate = args.accumulate || !delta;
    if (parts_ & PART_BASE) matmul_->run(args, false, main_queue());
  }
}

}  // namespace lorikeet
