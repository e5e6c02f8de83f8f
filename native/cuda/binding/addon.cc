/**
 * The addon's face: arguments in, results out, nothing decided here.
 *
 * Everything that takes time is a promise. Three threads do the work: one gives steps to the device in order, one waits for their results,
 * so that the next step can be given meanwhile, and one lays adapters out and copies them, while steps go on. Their completions
 * reach JavaScript through one thread-safe function.
 */
#include <napi.h>

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "../../step_layout.h"
#include "../engine/engine.h"
#include "../engine/task_thread.h"

using namespace lorikeet;

namespace {

Napi::Error to_js(Napi::Env env, const std::string& code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

/** What a task gives back: a value made on the JavaScript thread, or an error. */
struct Completion {
  Napi::Promise::Deferred deferred;
  std::function<Napi::Value(Napi::Env)> value;
  std::string code, message;
};

int32_t int_of(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsNumber()) throw to_js(object.Env(), "argument_invalid", std::string(name) + " must be a number");
  return value.As<Napi::Number>().Int32Value();
}

Napi::Object object_at(const Napi::Array& array, uint32_t i) { return array.Get(i).As<Napi::Object>(); }

EngineOptions options_of(const Napi::Object& from) {
  EngineOptions to;
  to.device = int_of(from, "device");
  to.cublaslt_path = from.Get("cublasltPath").As<Napi::String>().Utf8Value();
  to.max_rows = int_of(from, "maxRows");
  to.max_sequences = int_of(from, "maxSequences");
  to.num_extents = int_of(from, "numExtents");
  to.extent_bytes = static_cast<size_t>(from.Get("extentBytes").As<Napi::Number>().Int64Value());
  to.num_pages = int_of(from, "numPages");
  to.num_slots = int_of(from, "numSlots");
  to.num_layers = int_of(from, "numLayers");
  to.num_heads = int_of(from, "numHeads");
  to.num_kv_heads = int_of(from, "numKvHeads");
  to.head_dim = int_of(from, "headDim");
  to.rotary_dim = int_of(from, "rotaryDim");
  to.vocabulary = int_of(from, "vocabSize");
  to.max_context = int_of(from, "maxContext");
  to.num_experts = int_of(from, "numExperts");
  to.top_k = int_of(from, "topK");
  to.longest_window = int_of(from, "longestWindow");
  to.score_scale = from.Get("scoreScale").As<Napi::Number>().FloatValue();
  const Napi::Array buffers = from.Get("buffers").As<Napi::Array>(), weights = from.Get("weights").As<Napi::Array>();
  const Napi::Array sites = from.Get("sites").As<Napi::Array>();
  for (uint32_t i = 0; i < buffers.Length(); i++) {
    const Napi::Object buffer = object_at(buffers, i);
    to.buffers.push_back({int_of(buffer, "width"), int_of(buffer, "rows"), buffer.Get("isFloat").ToBoolean()});
  }
  for (uint32_t i = 0; i < weights.Length(); i++) {
    const Napi::Object weight = object_at(weights, i);
    to.weights.push_back({int_of(weight, "rows"), int_of(weight, "cols"), int_of(weight, "kind"), int_of(weight, "numExperts")});
  }
  for (uint32_t i = 0; i < sites.Length(); i++) {
    const Napi::Object site = object_at(sites, i);
    const Napi::Int32Array borders = site.Get("borders").As<Napi::Int32Array>();
    to.sites.push_back({int_of(site, "inWidth"), {borders.Data(), borders.Data() + borders.ElementLength()}, int_of(site, "kind"), int_of(site, "expert")});
  }
  const Napi::Int32Array launches = from.Get("launches").As<Napi::Int32Array>();
  for (size_t at = 0; at + LAUNCH_WORDS <= launches.ElementLength(); at += LAUNCH_WORDS) {
    LaunchSpec launch = {};
    for (int i = 0; i < LAUNCH_WORDS; i++) launch.words[i] = launches[at + i];
    to.launches.push_back(launch);
  }
  return to;
}

SourceMatrix matrix_of(const Napi::Object& from) {
  const Napi::Uint8Array bytes = from.Get("bytes").As<Napi::Uint8Array>();
  const SourceMatrix matrix = {static_cast<Dtype>(int_of(from, "dtype")), int_of(from, "rows"), int_of(from, "cols"), bytes.Data()};
  const size_t element = matrix.dtype == Dtype::f32 ? 4 : 2;
  if (bytes.ByteLength() != element * matrix.rows * matrix.cols) throw to_js(from.Env(), "argument_invalid", "a matrix has other bytes than its shape");
  return matrix;
}

/** Null where there are none. */
const float* floats_of(const Napi::Object& from, const char* name, int count) {
  const Napi::Value value = from.Get(name);
  if (value.IsUndefined()) return nullptr;
  const Napi::Float32Array floats = value.As<Napi::Float32Array>();
  if (floats.ElementLength() != static_cast<size_t>(count)) throw to_js(from.Env(), "argument_invalid", std::string(name) + " has other numbers than its delta has rows");
  return floats.Data();
}

SourceReplacement replacement_of(const Napi::Object& from, size_t num_sites) {
  SourceReplacement to = {int_of(from, "site"), from.Get("ofBias").ToBoolean(), from.Get("isCopy").ToBoolean(), int_of(from, "firstRow"), {}, matrix_of(from.Get("values").As<Napi::Object>()), {}};
  if (to.site < 0 || static_cast<size_t>(to.site) >= num_sites) throw to_js(from.Env(), "argument_invalid", "there is no site " + std::to_string(to.site));
  const Napi::Value rows = from.Get("rows");
  if (rows.IsUndefined()) return to;
  const Napi::Int32Array list = rows.As<Napi::Int32Array>();
  if (list.ElementLength() != static_cast<size_t>(to.values.rows)) throw to_js(from.Env(), "argument_invalid", "rows are as many as their values");
  to.rows.assign(list.Data(), list.Data() + list.ElementLength());
  return to;
}

class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "Engine",
                       {
                           InstanceMethod<&EngineObject::windows>("windows"),
                           InstanceMethod<&EngineObject::load_rows>("loadRows"),
                           InstanceMethod<&EngineObject::fill_random>("fillRandom"),
                           InstanceMethod<&EngineObject::load_rope_table>("loadRopeTable"),
                           InstanceMethod<&EngineObject::warm_up>("warmUp"),
                           InstanceMethod<&EngineObject::run>("run"),
                           InstanceMethod<&EngineObject::profile>("profile"),
                           InstanceMethod<&EngineObject::run_launches>("runLaunches"),
                           InstanceMethod<&EngineObject::stage>("stage"),
                           InstanceMethod<&EngineObject::attach>("attach"),
                           InstanceMethod<&EngineObject::stats>("stats"),
                           InstanceMethod<&EngineObject::close>("close"),
                       });
  }

  explicit EngineObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineObject>(info) {
    const Napi::Env env = info.Env();
    try {
      const EngineOptions options = options_of(info[0].As<Napi::Object>());
      num_sites_ = options.sites.size();
      engine_ = std::make_unique<Engine>(options);
    } catch (const Error& error) {
      throw to_js(env, error.code, error.what());
    }
    finished_ = Napi::ThreadSafeFunction::New(env, Napi::Function::New(env, [](const Napi::CallbackInfo&) {}), "lorikeet-cuda", 0, 1);
    /* An idle engine keeps no program alive. */
    finished_.Unref(env);
    steps_ = std::make_unique<TaskThread>();
    results_ = std::make_unique<TaskThread>();
    copies_ = std::make_unique<TaskThread>();
  }

  ~EngineObject() override { shut_down(); }

 private:
  /** Runs `work` on a thread; what it returns makes the promise's value. `kept` lives until then. */
  Napi::Value promise(Napi::Env env, TaskThread& thread, std::function<std::function<Napi::Value(Napi::Env)>()> work, const Napi::Object* kept = nullptr) {
    if (engine_ == nullptr) throw to_js(env, "closed", "the engine is closed");
    auto* completion = new Completion{Napi::Promise::Deferred::New(env), {}, {}, {}};
    const Napi::Promise result = completion->deferred.Promise();
    std::shared_ptr<Napi::ObjectReference> reference;
    if (kept != nullptr) reference = std::make_shared<Napi::ObjectReference>(Napi::Persistent(*kept));
    if (pending_++ == 0) {
      finished_.Ref(env);
      Ref();
    }
    thread.post([this, completion, work = std::move(work), reference]() mutable {
      try {
        completion->value = work();
      } catch (const Error& error) {
        completion->code = error.code;
        completion->message = error.what();
      } catch (const std::exception& error) {
        completion->code = "cuda_failed";
        completion->message = error.what();
      }
      work = nullptr;
      finished_.NonBlockingCall(completion, [this, reference = std::move(reference)](Napi::Env env, Napi::Function, Completion* done) {
        const std::unique_ptr<Completion> owner(done);
        if (--pending_ == 0) {
          finished_.Unref(env);
          Unref();
        }
        const Napi::HandleScope scope(env);
        if (done->code.empty()) done->deferred.Resolve(done->value ? done->value(env) : env.Undefined());
        else done->deferred.Reject(to_js(env, done->code, done->message).Value());
      });
    });
    return result;
  }

  /** windows(count, numBytes): Uint8Array[], page-locked memory that goes when the last reference does. */
  Napi::Value windows(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    const uint32_t count = info[0].As<Napi::Number>();
    const size_t bytes = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
    const Napi::Array windows = Napi::Array::New(env, count);
    try {
      for (uint32_t i = 0; i < count; i++) {
        auto memory = std::make_unique<PinnedMemory>(bytes);
        void* data = memory->as<void>();
        const auto buffer = Napi::ArrayBuffer::New(env, data, bytes, [](Napi::Env, void*, PinnedMemory* held) { delete held; }, memory.get());
        memory.release();
        windows.Set(i, Napi::Uint8Array::New(env, bytes, buffer, 0));
      }
    } catch (const Error& error) {
      throw to_js(env, error.code, error.what());
    }
    return windows;
  }

  /** loadRows(weight, firstRow, numRows, dtype, bytes): Promise<number | null>, the first row that is not finite. */
  Napi::Value load_rows(const Napi::CallbackInfo& info) {
    const Napi::Uint8Array bytes = info[4].As<Napi::Uint8Array>();
    const int weight = info[0].As<Napi::Number>(), first_row = info[1].As<Napi::Number>(), num_rows = info[2].As<Napi::Number>();
    const Dtype dtype = static_cast<Dtype>(info[3].As<Napi::Number>().Int32Value());
    const uint8_t* data = bytes.Data();
    const size_t size = bytes.ByteLength();
    return promise(
        info.Env(), *copies_,
        [this, weight, first_row, num_rows, dtype, data, size]() -> std::function<Napi::Value(Napi::Env)> {
          const std::optional<int> bad = engine_->load_rows(weight, first_row, num_rows, dtype, data, size);
          return [bad](Napi::Env env) -> Napi::Value { return bad ? Napi::Number::New(env, *bad) : env.Null(); };
        },
        &bytes);
  }

  Napi::Value load_rope_table(const Napi::CallbackInfo& info) {
    const Napi::Float32Array table = info[0].As<Napi::Float32Array>();
    try {
      engine_->load_rope_table(table.Data(), table.ElementLength());
    } catch (const Error& error) {
      throw to_js(info.Env(), error.code, error.what());
    }
    return info.Env().Undefined();
  }

  Napi::Value fill_random(const Napi::CallbackInfo& info) {
    const uint64_t seed = static_cast<uint64_t>(info[0].As<Napi::Number>().Int64Value());
    return promise(info.Env(), *steps_, [this, seed] {
      engine_->fill_random(seed);
      return nullptr;
    });
  }

  Napi::Value warm_up(const Napi::CallbackInfo& info) {
    return promise(info.Env(), *steps_, [this] {
      engine_->warm_up();
      return nullptr;
    });
  }

  /** run(words: Int32Array): Promise<Int32Array>, the result record. Results come in the order of the calls. */
  Napi::Value run(const Napi::CallbackInfo& info) {
    const Napi::Int32Array words = info[0].As<Napi::Int32Array>();
    auto block = std::make_shared<std::vector<int32_t>>(words.Data(), words.Data() + words.ElementLength());
    const auto submit = std::make_shared<std::packaged_task<StepUnderWay()>>([this, block] { return engine_->submit(block->data(), block->size()); });
    const auto given = std::make_shared<std::future<StepUnderWay>>(submit->get_future());
    if (engine_ != nullptr) steps_->post([submit] { (*submit)(); });
    return promise(info.Env(), *results_, [this, given]() -> std::function<Napi::Value(Napi::Env)> {
      size_t count = 0;
      const int32_t* result = engine_->receive(given->get(), count);
      auto copy = std::make_shared<std::vector<int32_t>>(result, result + count);
      return [copy](Napi::Env env) -> Napi::Value {
        Napi::Int32Array array = Napi::Int32Array::New(env, copy->size());
        std::copy(copy->begin(), copy->end(), array.Data());
        return array;
      };
    });
  }

  /** profile(words): Promise<{ launch, count, micros }[]>; what the step computes is lost. */
  Napi::Value profile(const Napi::CallbackInfo& info) {
    const Napi::Int32Array words = info[0].As<Napi::Int32Array>();
    auto block = std::make_shared<std::vector<int32_t>>(words.Data(), words.Data() + words.ElementLength());
    return promise(info.Env(), *steps_, [this, block]() -> std::function<Napi::Value(Napi::Env)> {
      const std::vector<LaunchTime> times = engine_->profile(block->data(), block->size());
      return [times](Napi::Env env) -> Napi::Value {
        const Napi::Array array = Napi::Array::New(env, times.size());
        for (size_t i = 0; i < times.size(); i++) {
          const Napi::Object each = Napi::Object::New(env);
          each.Set("launch", Napi::Number::New(env, times[i].launch));
          each.Set("parts", Napi::Number::New(env, times[i].parts));
          each.Set("count", Napi::Number::New(env, times[i].count));
          each.Set("micros", Napi::Number::New(env, times[i].micros));
          array.Set(static_cast<uint32_t>(i), each);
        }
        return array;
      };
    });
  }

  /** runLaunches(words, first, count, inputs: { buffer, values }[], outputs): Promise<{ buffers: Float32Array[], record: Int32Array }>. */
  Napi::Value run_launches(const Napi::CallbackInfo& info) {
    const Napi::Int32Array words = info[0].As<Napi::Int32Array>();
    auto block = std::make_shared<std::vector<int32_t>>(words.Data(), words.Data() + words.ElementLength());
    const int first = info[1].As<Napi::Number>(), count = info[2].As<Napi::Number>();
    auto inputs = std::make_shared<std::vector<BufferValues>>();
    const Napi::Array from = info[3].As<Napi::Array>(), wanted = info[4].As<Napi::Array>();
    for (uint32_t i = 0; i < from.Length(); i++) {
      const Napi::Float32Array values = object_at(from, i).Get("values").As<Napi::Float32Array>();
      inputs->push_back({int_of(object_at(from, i), "buffer"), std::vector<float>(values.Data(), values.Data() + values.ElementLength())});
    }
    std::vector<int> outputs;
    for (uint32_t i = 0; i < wanted.Length(); i++) outputs.push_back(wanted.Get(i).As<Napi::Number>());
    return promise(info.Env(), *steps_, [this, block, first, count, inputs, outputs]() -> std::function<Napi::Value(Napi::Env)> {
      auto left = std::make_shared<LaunchResult>(engine_->run_launches(block->data(), block->size(), first, count, *inputs, outputs));
      return [left](Napi::Env env) -> Napi::Value {
        const Napi::Object result = Napi::Object::New(env);
        const Napi::Array buffers = Napi::Array::New(env, left->buffers.size());
        for (size_t i = 0; i < left->buffers.size(); i++) {
          Napi::Float32Array values = Napi::Float32Array::New(env, left->buffers[i].size());
          std::copy(left->buffers[i].begin(), left->buffers[i].end(), values.Data());
          buffers.Set(static_cast<uint32_t>(i), values);
        }
        Napi::Int32Array record = Napi::Int32Array::New(env, left->record.size());
        std::copy(left->record.begin(), left->record.end(), record.Data());
        result.Set("buffers", buffers);
        result.Set("record", record);
        return result;
      };
    });
  }

  /** stage(deltas, replacements): Promise<{ image, numBytes, maxTotalRank }>. The matrices' bytes must not change meanwhile. */
  Napi::Value stage(const Napi::CallbackInfo& info) {
    const Napi::Array from = info[0].As<Napi::Array>(), replaced = info[1].As<Napi::Array>();
    auto deltas = std::make_shared<std::vector<SourceDelta>>();
    for (uint32_t i = 0; i < from.Length(); i++) {
      const Napi::Object delta = object_at(from, i);
      deltas->push_back({int_of(delta, "site"), int_of(delta, "offset"), int_of(delta, "width"), int_of(delta, "rank"), delta.Get("scale").As<Napi::Number>().FloatValue(),
                         matrix_of(delta.Get("a").As<Napi::Object>()), matrix_of(delta.Get("b").As<Napi::Object>()), floats_of(delta, "bias", int_of(delta, "width")),
                         floats_of(delta, "magnitude", int_of(delta, "width"))});
    }
    auto replacements = std::make_shared<std::vector<SourceReplacement>>();
    for (uint32_t i = 0; i < replaced.Length(); i++) replacements->push_back(replacement_of(object_at(replaced, i), num_sites_));
    /* Both hold what the matrices point to. */
    const Napi::Array kept = Napi::Array::New(info.Env(), 2);
    kept.Set(0u, from);
    kept.Set(1u, replaced);
    return promise(
        info.Env(), *copies_,
        [this, deltas, replacements]() -> std::function<Napi::Value(Napi::Env)> {
          auto image = engine_->stage(*deltas, std::move(*replacements));
          return [image](Napi::Env env) -> Napi::Value {
            const Napi::Object result = Napi::Object::New(env);
            const int64_t bytes = static_cast<int64_t>(image->bytes());
            Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
            result.Set("image", Napi::External<std::shared_ptr<AdapterImage>>::New(env, new std::shared_ptr<AdapterImage>(image),
                                                                                    [bytes](Napi::Env env, std::shared_ptr<AdapterImage>* held) {
                                                                                      Napi::MemoryManagement::AdjustExternalMemory(env, -bytes);
                                                                                      delete held;
                                                                                    }));
            result.Set("numBytes", Napi::Number::New(env, static_cast<double>(bytes)));
            result.Set("maxTotalRank", Napi::Number::New(env, image->layout().max_total_rank()));
            return result;
          };
        },
        &kept);
  }

  /** attach(slot, offset, image): Promise<void>. */
  Napi::Value attach(const Napi::CallbackInfo& info) {
    const int slot = info[0].As<Napi::Number>();
    const size_t offset = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
    const std::shared_ptr<AdapterImage> image = *info[2].As<Napi::External<std::shared_ptr<AdapterImage>>>().Data();
    const auto copy = [this, slot, offset, image] {
      engine_->attach(slot, offset, *image);
      return nullptr;
    };
    if (engine_ != nullptr && engine_->has_room_for(*image)) return promise(info.Env(), *copies_, copy);
    /* More ranks than any adapter before, or the first forms somewhere: work areas grow between steps. */
    return promise(info.Env(), *steps_, [this, image, copy] {
      engine_->reserve(*image);
      return copy();
    });
  }

  Napi::Value stats(const Napi::CallbackInfo& info) {
    const Napi::Env env = info.Env();
    if (engine_ == nullptr) throw to_js(env, "closed", "the engine is closed");
    const EngineStats stats = engine_->stats();
    const Napi::Object result = Napi::Object::New(env);
    const auto set = [&](const char* name, double value) { result.Set(name, Napi::Number::New(env, value)); };
    result.Set("description", Napi::String::New(env, engine_->description()));
    set("graphSteps", static_cast<double>(stats.graph_steps));
    set("eagerSteps", static_cast<double>(stats.eager_steps));
    set("graphs", static_cast<double>(stats.num_graphs));
    set("weightBytes", static_cast<double>(stats.weight_bytes));
    set("activationBytes", static_cast<double>(stats.activation_bytes));
    return result;
  }

  /** Ends both threads after what they were given, then frees the device. */
  Napi::Value close(const Napi::CallbackInfo& info) {
    shut_down();
    return info.Env().Undefined();
  }

  void shut_down() {
    if (engine_ == nullptr) return;
    copies_->stop();
    steps_->stop();
    results_->stop();
    engine_ = nullptr;
    finished_.Release();
  }

  std::unique_ptr<Engine> engine_;
  size_t num_sites_ = 0;
  Napi::ThreadSafeFunction finished_;
  std::unique_ptr<TaskThread> steps_, results_, copies_;
  int pending_ = 0; /* JavaScript thread only */
};

Napi::Value probe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Probe found = probe_devices();
  const Napi::Object result = Napi::Object::New(env);
  const Napi::Array devices = Napi::Array::New(env);
  for (const DeviceInfo& device : found.devices) {
    const Napi::Object each = Napi::Object::New(env);
    each.Set("index", Napi::Number::New(env, device.index));
    each.Set("name", Napi::String::New(env, device.name));
    each.Set("major", Napi::Number::New(env, device.major));
    each.Set("minor", Napi::Number::New(env, device.minor));
    each.Set("totalBytes", Napi::Number::New(env, static_cast<double>(device.total_bytes)));
    each.Set("freeBytes", Napi::Number::New(env, static_cast<double>(device.free_bytes)));
    devices.Set(devices.Length(), each);
  }
  result.Set("devices", devices);
  result.Set("code", Napi::String::New(env, found.code));
  result.Set("reason", Napi::String::New(env, found.reason));
  result.Set("driverVersion", Napi::Number::New(env, found.driver_version));
  return result;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("abiVersion", Napi::Number::New(env, ABI_VERSION));
  exports.Set("version", Napi::Number::New(env, ADDON_VERSION));
  exports.Set("probe", Napi::Function::New(env, probe));
  exports.Set("Engine", EngineObject::define(env));
  return exports;
}

}  // namespace

NODE_API_MODULE(lorikeet_cuda, init)
