#include "matmul.h"

#include <algorithm>

namespace lorikeet {
namespace {

/** What Hopper's kernels want at most. */
constexpr size_t WORKSPACE_BYTES = 32 << 20;
constexpr int CANDIDATES = 8;

void require(cublaslt::Status status, const char* what) {
  if (status != 0) throw Error("cuda_failed", std::string("cuBLASLt failed at ") + what + " with status " + std::to_string(status));
}

}  // namespace

/** Row-major x[m, k] · w[n, k]ᵀ is, column-major, wᵀ[n, k] · x[k, m]. */
struct Matmul::Shape {
  const cublaslt::Functions& lt;
  cublaslt::MatmulDesc desc = nullptr;
  cublaslt::Layout weight = nullptr, x = nullptr, out = nullptr;
  std::vector<cublaslt::HeuristicResult> candidates; /* the chosen one first; none: the own kernel */

  Shape(const cublaslt::Functions& lt, const LinearArgs& args) : lt(lt) {
    const int out_type = args.out_type == OutType::f32 ? CUDA_R_32F : CUDA_R_16BF;
    require(lt.desc_create(&desc, cublaslt::COMPUTE_32F, CUDA_R_32F), "creating a product");
    require(lt.desc_set_attribute(desc, cublaslt::DESC_TRANSA, &cublaslt::OPERATION_T, sizeof(int)), "describing a product");
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

Matmul::Matmul(const std::string& library_path) : library_(cublaslt::load(library_path)) {
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

Matmul::Key Matmul::key_of(const LinearArgs& a) {
  return {a.m, a.n, a.k, a.x_stride, a.weight_stride, a.out_stride, static_cast<int>(a.out_type), a.accumulate};
}

Matmul::Shape& Matmul::shape_of(const LinearArgs& args) {
  std::unique_ptr<Shape>& found = shapes_[key_of(args)];
  if (found) return *found;
  found = std::make_unique<Shape>(library_.functions, args);
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
  return *found;
}

void Matmul::run_shape(const Shape& shape, const cublaslt::Algorithm& algorithm, const LinearArgs& args, cudaStream_t stream) {
  const float alpha = 1.0f, beta = args.accumulate ? 1.0f : 0.0f;
  require(library_.functions.matmul(handle_, shape.desc, &alpha, args.weight, shape.weight, args.x, shape.x, &beta, args.out, shape.out, args.out,
                                    shape.out, &algorithm, workspace_.as<void>(), WORKSPACE_BYTES, stream),
          "a product");
}

void Matmul::run(const LinearArgs& args, cudaStream_t stream) {
  if (handle_ != nullptr) {
    const Shape& shape = shape_of(args);
    if (!shape.candidates.empty()) return run_shape(shape, shape.candidates[0].algorithm, args, stream);
  }
  linear_plain(args, stream);
}

void Matmul::tune(const std::vector<LinearArgs>& calls, cudaStream_t stream) {
  if (handle_ == nullptr || calls.empty()) return;
  Shape& shape = shape_of(calls[0]);
  if (shape.candidates.size() < 2) return;
  Event begin(cudaEventDefault), end(cudaEventDefault);
  std::vector<std::pair<float, size_t>> times;
  for (size_t i = 0; i < shape.candidates.size(); i++) {
    float best = 0.0f;
    /* The first round warms up. */
    for (int round = 0; round < 3; round++) {
      check(cudaEventRecord(begin, stream), "tuning");
      for (const LinearArgs& call : calls) run_shape(shape, shape.candidates[i].algorithm, call, stream);
      check(cudaEventRecord(end, stream), "tuning");
      check(cudaEventSynchronize(end), "tuning");
      float ms = 0.0f;
      check(cudaEventElapsedTime(&ms, begin, end), "tuning");
      if (round == 1 || (round > 1 && ms < best)) best = ms;
    }
    times.emplace_back(best, i);
  }
  std::swap(shape.candidates[0], shape.candidates[std::min_element(times.begin(), times.end())->second]);
}

std::string Matmul::description() const {
  if (handle_ == nullptr) return "own matrix kernels (cuBLASLt is not used: " + refusal_ + ")";
  const size_t v = library_.version;
  return "cuBLASLt " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
}

}  // namespace lorikeet
