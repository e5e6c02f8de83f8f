#include "engine.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <tuple>
#include <vector>

namespace lorikeet {

LaunchResult Engine::run_launches(const int32_t* block, size_t num_words, int first, int count, const std::vector<BufferValues>& inputs, const std::vector<int>& outputs) {
  const Run run = send(block, num_words);
  if (first < 0 || count < 1 || static_cast<size_t>(first) + count > options_.launches.size()) throw Error("step_invalid", "there are no such launches");
  const StepShape shape = plan_.shape();
  for (const BufferValues& input : inputs) write_buffer(input.buffer, rows_of(shape, input.buffer), input.values);
  for (int i = 0; i < count; i++) launch_one(run, options_.launches[first + i]);
  check(cudaGetLastError(), "launching a part of a step");
  size_t words = 0;
  const int32_t* const record = receive(ask_for_results(block, std::chrono::steady_clock::now()), words);
  LaunchResult result;
  result.record.assign(record, record + words);
  for (const int buffer : outputs) result.buffers.push_back(read_buffer(buffer, rows_of(shape, buffer)));
  return result;
}

int Engine::rows_of(const StepShape& shape, int buffer) const {
  if (buffer < 0 || static_cast<size_t>(buffer) >= options_.buffers.size() || options_.buffers[buffer].width == 0)
    throw Error("step_invalid", "there is no buffer " + std::to_string(buffer));
  switch (options_.buffers[buffer].rows) {
    case BUFFER_ROWS_SAMPLED: return shape.sampled;
    case BUFFER_ROWS_ROUTED: return shape.rows * options_.top_k;
    default: return shape.rows;
  }
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

std::vector<LaunchTime> Engine::profile(const int32_t* block, size_t num_words) {
  constexpr int REPLAYS = 11;
  const Run run = send(block, num_words);
  std::map<std::tuple<int, int, int, int>, std::vector<int>> kinds;
  for (size_t i = 0; i < options_.launches.size(); i++) {
    const LaunchSpec& launch = options_.launches[i];
    const bool has_weight = launch[LAUNCH_WEIGHT] >= 0;
    const WeightSpec weight = has_weight ? options_.weights[launch[LAUNCH_WEIGHT]] : WeightSpec{};
    kinds[{launch[LAUNCH_OP], weight.rows, weight.cols, launch[LAUNCH_SAMPLED_ROWS]}].push_back(static_cast<int>(i));
  }
  std::vector<LaunchTime> times;
  Event begin(cudaEventDefault), end(cudaEventDefault);
  for (const auto& [kind, launches] : kinds) {
    const auto launch_kind = [&, &same = launches] {
      for (const int i : same) launch_one(run, options_.launches[i]);
    };
    const bool has_parts = run.has_adapters && !is_streamed(run) && !is_apart(run) && options_.launches[launches[0]][LAUNCH_OP] == LAUNCH_OP_LINEAR && is_in_layer(options_.launches[launches[0]][LAUNCH_SITE]);
    for (const int parts : {ALL_PARTS, PART_BASE, PART_SHRINK, PART_EXPAND}) {
      if (parts != ALL_PARTS && !has_parts) break;
      parts_ = parts;
      /* Products make what they need at their first call. */
      launch_kind();
      const cudaGraphExec_t exec = captured(launch_kind);
      std::vector<float> samples;
      for (int replay = 0; replay < REPLAYS; replay++) {
        uint32_t* first_tag = host_blocks_[next_place_].as<uint32_t>() + run.layout.first_tag_at;
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

}  // namespace lorikeet
