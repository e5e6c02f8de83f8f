/**
 * Runs steps of one model on one device.
 *
 * All memory is taken when the engine opens. Decode steps are replayed from graphs, one per number of rows with and
 * without adapters; other steps launch their kernels one by one. Everything that varies lies in device memory at fixed
 * addresses and arrives with one copy per step.
 *
 * Not thread-safe: one thread calls it, but for `receive`, for which there may be another; and `stage` and `attach`, which a third may call
 * while steps run, and `load_rows`, which it may call before the first.
 *
 * Files of this class: engine.cc opens it and runs a step, engine_launch.cc turns launches into kernels, engine_graphs.cc warms up,
 * engine_experts.cc those of a mixture of experts, engine_load.cc takes weights, engine_adapters.cc adapters, and engine_inspect.cc serves benches and tests.
 */
#pragma once
#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "adapters.h"
#include "device.h"
#include "matmul.h"
#include "program.h"
#include "step_plan.h"

namespace lorikeet {

/** Time of one kind of launch within a step. */
struct LaunchTime {
  int launch; /* first of its kind */
  int parts;  /* of a linear operation with adapters: a sum of PART_* */
  int count;
  float micros; /* of one, median over replays of all of its kind in a row */
};

/** Numbers of a buffer, [rows, width]; rows are the step's, or the sampled ones. */
struct BufferValues {
  int buffer;
  std::vector<float> values;
};

/** What some launches of a step left behind. */
struct LaunchResult {
  std::vector<std::vector<float>> buffers;
  /** The result record; of use where the launches end in a sample. */
  std::vector<int32_t> record;
};

/** What a linear operation with adapters is made of. */
constexpr int PART_BASE = 1, PART_SHRINK = 2, PART_EXPAND = 4, ALL_PARTS = 7;

/** Steps that the device may have at once: one that runs, one that waits behind it. */
constexpr int MAX_UNDER_WAY = 2;

/** A step that the device has been given. */
struct StepUnderWay {
  int place; /* of its block and its results, among MAX_UNDER_WAY */
  int num_sampled;
  std::chrono::steady_clock::time_point given;
};

struct EngineStats {
  int64_t graph_steps = 0, eager_steps = 0, num_graphs = 0;
  size_t weight_bytes = 0, activation_bytes = 0;
};

class Engine {
 public:
  /** @throws Error `out_of_memory`, naming the part that does not fit */
  explicit Engine(EngineOptions options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /**
   * Writes rows of a weight from numbers as stored in a checkpoint, before the first step.
   *
   * @param source page-locked, or the copy is slow
   * @returns the first of these rows that has a number that is not finite
   * @throws Error `weight_invalid` for rows that the weight does not have
   */
  std::optional<int> load_rows(int weight, int first_row, int num_rows, Dtype dtype, const void* source, size_t bytes);
  /** Fills every matrix with random numbers that keep activations of order one, and every vector with ones. */
  void fill_random(uint64_t seed);
  /** Cosines, then sines, of every position: [max_context, rotary_dim]. */
  void load_rope_table(const float* table, size_t count);

  /** Finds the fastest products and captures every graph. */
  void warm_up();

  /**
   * Gives the device a step, whether or not the one before is over. In place of a token it may have `~i` for what sample i of the step
   * given before picks.
   *
   * @throws Error `step_invalid`, after which the engine is as before; `cuda_failed`, after which it is unusable
   */
  StepUnderWay submit(const int32_t* block, size_t num_words);
  /**
   * Waits for the oldest step that was given and not received.
   *
   * @returns the result record; valid until MAX_UNDER_WAY more have been given
   * @throws Error `cuda_failed`, after which the engine is unusable
   */
  const int32_t* receive(const StepUnderWay& step, size_t& result_words);

  /**
   * Runs the launches of a step kind by kind, each kind as one graph over all layers, and says how long one takes. What
   * the step computes is lost.
   */
  std::vector<LaunchTime> profile(const int32_t* block, size_t num_words);

  /**
   * Runs `count` launches of a step from `first` on, one by one, for tests: `inputs` are written before, as buffers keep them, and
   * `outputs` are read after. KV pages are written and read as in a step, and stay.
   *
   * @throws Error `step_invalid` for launches or buffers that there are not, or values of another size
   */
  LaunchResult run_launches(const int32_t* block, size_t num_words, int first, int count, const std::vector<BufferValues>& inputs, const std::vector<int>& outputs);

  /**
   * Copies an image to byte `offset` of the pool and points a slot at it. Returns when it is there. No step
   * may name the slot meanwhile.
   */
  void attach(int slot, size_t offset, AdapterImage& image);
  /** Makes room for an adapter with more ranks at one site than any before, or with the first forms at some site; steps must not run meanwhile. */
  void reserve(const AdapterImage& image);
  bool has_room_for(const AdapterImage& image) const;
  /**
   * Lays an adapter out. Copies of base weights that are those of this base are left out, in the precision that the base is held in.
   *
   * @throws Error `adapter_invalid` as AdapterLayout, or for a bias that the base does not have
   */
  std::shared_ptr<AdapterImage> stage(const std::vector<SourceDelta>& deltas, std::vector<SourceReplacement> replacements) const;

  EngineStats stats() const { return stats_; }
  std::string description() const;

 private:
  /** Sizes and addresses of what runs: of a captured graph, or of one step. */
  struct Run {
    BlockLayout layout;
    int rows, padded_rows, sampled, padded_sampled;
    bool has_adapters;
    uint32_t forms; /* of adapters, beyond plain LoRA */
    int bucket; /* of the graph that runs it, or 0 */
    int max_rank; /* no adapter of the step has more at one site; of a graph, no adapter at all */
  };
  /** Rows as adapters' kernels take them: all of a step, or the sampled ones. */
  struct AdapterRows {
    const RowTile* tiles;
    int num_tiles;
    bool large;
    const int32_t* row_slot;
    int padded_rows, max_rank;
  };
  struct Graph {
    cudaGraphExec_t exec = nullptr;
  };
  /** Rows, tiles (0 without adapters), and forms. */
  using GraphKey = std::tuple<int, int, uint32_t>;

  /** Blocks of an adapter's kernel for many rows that one multiprocessor holds. */
  static constexpr int LARGE_BLOCKS_PER_MULTIPROCESSOR = 3;

  void allocate();
  void reserve_rank(int total_rank);
  /** Most that an adapter of a step has at one site. */
  int ranks_of(const int32_t* block) const;
  void reserve_forms(const AdapterLayout& layout);
  /** Graphs of which it holds end to be. */
  void drop_graphs(const std::function<bool(const GraphKey&)>& holds);
  bool equals_base(const SourceReplacement& copy) const;
  /** Lengths of an adapter's rows become gains, on the device and, for the next time, in the image. */
  void find_gains(AdapterImage& image, uint8_t* device);
  void tune_products();
  void capture(const GraphKey& key);
  BlockLayout decode_layout(int bucket, int tiles, uint32_t forms) const;
  LinearArgs linear_args(const LaunchSpec& launch, int padded_rows) const;

  /** First of the tags that a step's launches sign with; one for each site. */
  uint32_t take_tags();
  void forget_told();
  /** Reads a block, says how it runs, and sends it to the device. */
  Run send(const int32_t* block, size_t num_words);
  void launch_all(const Run& run);
  void launch_one(const Run& run, const LaunchSpec& launch);
  /** Rows of a buffer that a step has, as they are seen from outside. */
  int rows_of(const StepShape& shape, int buffer) const;
  void write_buffer(int buffer, int rows, const std::vector<float>& values);
  std::vector<float> read_buffer(int buffer, int rows);
  /** Behind the launches of a step: what was sampled goes to the host. */
  StepUnderWay ask_for_results(const int32_t* block, std::chrono::steady_clock::time_point given);
  cudaGraphExec_t captured(const std::function<void()>& launches);
  void launch_linear(const Run& run, const LaunchSpec& launch);
  void launch_adapted(const Run& run, const LaunchSpec& launch, LinearArgs args);
  void launch_apart(const Run& run, const LaunchSpec& launch, const LinearArgs& args);
  void launch_embed(const Run& run, const LaunchSpec& launch);
  void launch_norm(const Run& run, const LaunchSpec& launch);
  void launch_rope(const Run& run, const LaunchSpec& launch);
  void launch_attention(const Run& run, const LaunchSpec& launch);
  void launch_silu(const Run& run, const LaunchSpec& launch);
  AdapterRows adapter_rows(const Run& run, bool sampled) const;
  LoraArgs lora_args(const AdapterRows& rows, int site) const;
  void allocate_routed();
  Routed routed() const;
  /** Whether adapters of the step may have own rows at one of so many sites of a router or of experts. */
  bool has_expert_rows(const Run& run, int site, int count) const;
  void launch_exact_linear(const Run& run, const LaunchSpec& launch);
  void launch_route(const Run& run, const LaunchSpec& launch);
  void launch_expert_linear(const Run& run, const LaunchSpec& launch);
  void launch_combine(const Run& run, const LaunchSpec& launch);
  LoraArgs expert_lora_args(const Run& run, const LaunchSpec& launch) const;
  StreamedLora streamed_lora(const Run& run, int site) const;
  Pending pending_of(const Run& run, const LaunchSpec& launch) const;
  /** For a kernel that looks for one of `forms`. */
  FormTable form_table(const Run& run, uint32_t forms) const;
  /** For a kernel that is launched because of forms alone. */
  FormTable forms_of(const int32_t* row_slot) const { return {forms_.as<FormRecord>(), static_cast<int>(options_.sites.size()), row_slot}; }

  /** Whether products read adapters along with the weights. */
  bool is_streamed(const Run& run) const { return run.padded_rows <= limits_.streamed_rows && !is_apart(run); }
  /** Whether deltas are added behind the products, because an adapter has rows of its own. */
  static bool is_apart(const Run& run) { return (run.forms & FORM_ROWS) != 0; }
  bool is_head(int site) const { return site >= 0 && options_.sites[site].kind == SITE_KIND_HEAD; }
  /** Of a linear operation of a layer. */
  bool is_in_layer(int site) const { return site >= 0 && options_.sites[site].kind == SITE_KIND_MATRIX; }
  bool is_small(const Run& run) const { return run.rows <= limits_.small_rows; }
  /** Whether adapters' part of this output waits in a delta for the kernel that reads the output. */
  bool leaves_delta(const Run& run, int buffer) const { return !is_streamed(run) && !is_apart(run) && (is_small(run) || options_.buffers[buffer].is_float); }
  /** Whether there is a kernel that does what this launch does and adds B · (A · x) of the site whose output it reads. */
  bool can_expand(const LaunchSpec& launch) const;
  /** Whether the kernel that reads this site's output adds B · (A · x) to it by itself. */
  bool reader_expands(const Run& run, int site) const {
    return site >= 0 && site_expands_[site] && run.has_adapters && !is_small(run) && !is_apart(run) && !(run.forms & site_forms_[site] & FORM_OUTPUTS) &&
           run.max_rank <= MAX_EXPANDED_RANK;
  }
  bool overlaps() const { return device_.major >= 9; }
  Queue main_queue() const { return {*main_, overlaps()}; }
  /** Of a kernel that reads what a linear operation and perhaps an adapter on the other stream wrote. */
  Queue queue_behind(const Run& run, const LaunchSpec& launch) const {
    return {*main_, overlaps() && !(run.has_adapters && is_small(run) && !is_streamed(run) && launch[LAUNCH_PENDING_SITE] >= 0)};
  }
  template <typename T> T* block_at(int words) const { return reinterpret_cast<T*>(block_.as<int32_t>() + words); }
  int stride_of(int buffer) const { return aligned_width(options_.buffers[buffer].width); }
  bf16* kv_of_layer(int layer) const;
  /** Elements from one page to the next. */
  int64_t page_stride() const { return static_cast<int64_t>(options_.extent_bytes / sizeof(uint16_t)); }

  EngineOptions options_;
  DeviceInfo device_;
  PlanLimits limits_;
  StepPlan plan_;
  int parts_ = ALL_PARTS; /* fewer while parts are timed */
  EngineStats stats_;
  int row_capacity_ = 0, sampled_capacity_ = 0, decode_item_capacity_ = 0;
  int shrunk_stride_ = 0;
  size_t shrunk_rows_ = 0; /* rows times splits */
  uint32_t next_tag_ = 1;
  int next_place_ = 0;
  int num_awaitable_ = 0; /* samples of the step given last */
  std::atomic<int> num_under_way_ = 0;
  std::chrono::steady_clock::time_point last_received_; /* of who receives */

  std::optional<Stream> main_, side_, copy_;
  std::optional<Event> forked_, joined_, copied_;
  std::array<Event, MAX_UNDER_WAY> sampled_;
  std::unique_ptr<Matmul> matmul_;
  std::vector<DeviceMemory> weights_, buffers_, deltas_; /* deltas_ by output buffer */
  std::vector<int> site_weights_, site_biases_; /* the base's of each site, or -1 */
  std::vector<bool> site_expands_; /* `can_expand` of the launch that reads the site's output */
  std::vector<uint32_t> slot_forms_;
  std::vector<int> slot_ranks_; /* most that the slot's adapter has at one site */
  std::vector<uint8_t> site_forms_; /* as AdapterLayout's, what any adapter so far has there */
  std::mutex gains_mutex_; /* held while gains are found, or copied to or from an image */
  DeviceMemory forms_;   /* FormRecord of every slot and site */
  DeviceMemory product_; /* [rows, stride] float32: what is not yet part of the residual stream; none before an adapter with forms in layers */
  DeviceMemory pool_; /* KV pages and adapters */
  DeviceMemory sites_, rope_table_, shrunk_, told_, partial_, arrived_, block_, changes_, results_, bad_row_;
  DeviceMemory choices_, places_, starts_, sources_, experts_, expert_slots_, expert_tiles_; /* see Routed; nothing without experts */
  DeviceMemory landing_; /* weights as stored, on their way; none once there are all */
  std::array<PinnedMemory, MAX_UNDER_WAY> host_blocks_, host_results_;
  std::map<GraphKey, Graph> graphs_;
};

}  // namespace lorikeet
