#include "matmul.h"

#include <algorithm>
#include <cmath>

namespace lorikeet {
namespace {

/** What Hopper's kernels want at most. */
constexpr size_t WORKSPACE_BYTES = 32 << 20;
constexpr int CANDIDATES = 8;
/** Multiprocessors left to adapters' kernels that run beside a product, and how much slower that may make it. */
constexpr int SPARED_MULTIPROCESSORS[] = {48, 32, 24, 16, 8};
constexpr float SPARING_ALLOWANCE = 1.04f;

void require(cublaslt::Status status, const char* what) {
  if (status != 0) throw Error("cuda_failed", std::string("cuBLASLt failed at ") + what + " with status " + std::to_string(status));
}

}  // namespace

/** Row-major x[m, k] · w[n, k]ᵀ is, column-major, wᵀ[n, k] · x[k, m]. */
struct Matmul::Shape {
  const cublaslt::Functions& lt;
  cublaslt::MatmulDesc desc = nullptr;
  cublaslt::Layout weight = nullptr, x = nullptr, out = nullptr;
  std::vector<cublaslt::HeuristicResult> candidates; /* the chosen one first; none: the own kernels */
  bool small_is_fastest = false;

  Shape(const cublaslt::Functions& lt, const LinearArgs& args, int num_multiprocessors) : lt(lt) {
    const int out_type = args.out_type == OutType::f32 ? CUDA_R_32F : CUDA_R_16BF;
    require(lt.desc_create(&desc, cublaslt::COMPUTE_32F, CUDA_R_32F), "creating a product");
    require(lt.desc_set_attribute(desc, cublaslt::DESC_TRANSA, &cublaslt::OPERATION_T, sizeof(int)), "describing a product");
    if (num_multiprocessors > 0)
      require(lt.desc_set_attribute(desc, cublaslt::DESC_SM_COUNT_TARGET, &num_multiprocessors, sizeof(int)), "describing a product");
    require(lt.layout_create(&weight, CUDA_R_16BF, args.k, args.n, args.weight_stride), "describing a weight");
    require(lt.layout_create(&x, CUDA_R_16BF, args.k, args.m, args.x_stride), "describing an input");
    require(lt.layout_create(&out, out_type, args.n, args.m, args.out_stride), "describing an output");
  }
  ~Shape() {
    if (out) lt.layout_destroy(out);
    if (x) lt.layout_destroy(x);
    if (weight) lt.layout_destroy(weight);
    if (desc) lt.desc_destroy(desc);
  }
  Shape(const Shape&) = delete;
  Shape& operator=(const Shape&) = delete;
};

Matmul::Matmul(const std::string& library_path, int num_multiprocessors, int widest)
    : library_(cublaslt::load(library_path)),
      partial_(linear_small_partial_bytes(num_multiprocessors), "partial sums"),
      arrived_(linear_small_counter_bytes(widest), "counters"),
      num_blocks_(num_multiprocessors),
      streams_(linear_stream_works()) {
  if (!library_.loaded) {
    refusal_ = library_.reason;
    return;
  }
  const cublaslt::Status status = library_.functions.create(&handle_);
  if (status != 0) {
    refusal_ = "it did not start (status " + std::to_string(status) + ")";
    return;
  }
  workspace_ = DeviceMemory(WORKSPACE_BYTES, "cuBLASLt's work areas");
}

Matmul::~Matmul() {
  shapes_.clear();
  if (handle_ != nullptr) library_.functions.destroy(handle_);
}

Matmul::Key Matmul::key_of(const LinearArgs& a, bool shares_device) {
  return {a.m, a.n, a.k, a.x_stride, a.weight_stride, a.out_stride, static_cast<int>(a.out_type), a.accumulate, shares_device};
}

Matmul::Shape& Matmul::shape_of(const LinearArgs& args, bool shares_device) {
  std::unique_ptr<Shape>& found = shapes_[key_of(args, shares_device)];
  if (!found) found = make_shape(args, 0);
  return *found;
}

std::unique_ptr<Matmul::Shape> Matmul::make_shape(const LinearArgs& args, int num_multiprocessors) {
  std::unique_ptr<Shape> found = std::make_unique<Shape>(library_.functions, args, num_multiprocessors);
  cublaslt::Preference preference = nullptr;
  require(library_.functions.preference_create(&preference), "creating a preference");
  const size_t bytes = WORKSPACE_BYTES;
  require(library_.functions.preference_set_attribute(preference, cublaslt::PREFERENCE_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes), "setting a preference");
  found->candidates.resize(CANDIDATES);
  int count = 0;
  const cublaslt::Status status = library_.functions.get_heuristic(handle_, found->desc, found->weight, found->x, found->out, found->out, preference,
                                                                   CANDIDATES, found->candidates.data(), &count);
  library_.functions.preference_destroy(preference);
  found->candidates.resize(status == 0 ? count : 0);
  std::erase_if(found->candidates, [](const cublaslt::HeuristicResult& each) { return each.state != 0; });
  return found;
}

void Matmul::run_shape(const Shape& shape, const cublaslt::Algorithm& algorithm, const LinearArgs& args, cudaStream_t stream) {
  const float alpha = 1.0f, beta = args.accumulate ? 1.0f : 0.0f;
  require(library_.functions.matmul(handle_, shape.desc, &alpha, args.weight, shape.weight, args.x, shape.x, &beta, args.out, shape.out, args.out,
                                    shape.out, &algorithm, workspace_.as<void>(), WORKSPACE_BYTES, stream),
          "a product");
}

void Matmul::run_small(const LinearArgs& args, Queue queue) {
  if (streams_) return linear_stream(args, nullptr, num_blocks_, queue);
  linear_small(args, num_blocks_, partial_.as<float>(), arrived_.as<uint32_t>(), queue);
}

void Matmul::run(const LinearArgs& args, bool shares_device, Queue queue) {
  if (handle_ != nullptr) {
    const Shape& shape = shape_of(args, shares_device);
    if (!shape.small_is_fastest && !shape.candidates.empty()) return run_shape(shape, shape.candidates[0].algorithm, args, queue.stream);
  }
  if (args.m <= MAX_SMALL_ROWS) run_small(args, queue);
  else linear_plain(args, queue);
}

void Matmul::tune(const std::vector<LinearArgs>& calls, bool shares_device, Queue queue) {
  if (handle_ == nullptr || calls.empty()) return;
  Event begin(cudaEventDefault), end(cudaEventDefault);
  const auto time = [&](auto&& product) {
    float best = 0.0f;
    /* The first round warms up. */
    for (int round = 0; round < 4; round++) {
      check(cudaEventRecord(begin, queue.stream), "tuning");
      for (const LinearArgs& call : calls) product(call);
      check(cudaEventRecord(end, queue.stream), "tuning");
      check(cudaEventSynchronize(end), "tuning");
      float ms = 0.0f;
      check(cudaEventElapsedTime(&ms, begin, end), "tuning");
      if (round == 1 || (round > 1 && ms < best)) best = ms;
    }
    return best;
  };
  /* The fastest candidate becomes the first. */
  const auto choose = [&](Shape& shape) {
    float fastest = INFINITY;
    size_t chosen = 0;
    for (size_t i = 0; i < shape.candidates.size(); i++) {
      const float ms = time([&](const LinearArgs& call) { run_shape(shape, shape.candidates[i].algorithm, call, queue.stream); });
      if (ms < fastest) fastest = ms, chosen = i;
    }
    if (!shape.candidates.empty()) std::swap(shape.candidates[0], shape.candidates[chosen]);
    return fastest;
  };
  Shape& shape = shape_of(calls[0], false);
  const float fastest = choose(shape);
  float small = INFINITY;
  if (calls[0].m <= MAX_SMALL_ROWS) small = time([&](const LinearArgs& call) { run_small(call, queue); });
  shape.small_is_fastest = small <= fastest;

  if (shares_device) {
    std::unique_ptr<Shape>& shared = shapes_[key_of(calls[0], true)];
    for (const int spare : SPARED_MULTIPROCESSORS) {
      std::unique_ptr<Shape> candidate = make_shape(calls[0], num_blocks_ - spare);
      if (choose(*candidate) > fastest * SPARING_ALLOWANCE) continue;
      shared = std::move(candidate);
      break;
    }
    if (shared) return;
    shared = make_shape(calls[0], 0);
    choose(*shared);
    shared->small_is_fastest = shape.small_is_fastest;
  }
}

std::string Matmul::description() const {
  if (handle_ == nullptr) return "own matrix kernels (cuBLASLt is not used: " + refusal_ + ")";
  const size_t v = library_.version;
  return "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

}  // namespace lorikeet
