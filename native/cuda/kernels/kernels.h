/**
 * Every kernel as a host function: device pointers, sizes and a stream in, nothing back.
 *
 * Activations are row-major with a stride in elements that is a multiple of `ROW_ALIGNMENT`; what lies between a
 * row's width and its stride is zero. Matrices are [n, k] bfloat16 with the stride of their input rows. Launches
 * are asynchronous; a launch that is refused is thrown by `check()` in the engine, which looks after each one.
 */
#pragma once
#include <cuda_runtime.h>
#include <stdint.h>

#include "../layout.h"

struct __nv_bfloat16;

namespace lorikeet {

using bf16 = __nv_bfloat16;
struct SiteRecord;

/** Where a kernel is launched. */
struct Queue {
  cudaStream_t stream;
  /**
   * The kernel may start while the one before it in the stream ends. Not for the first kernel behind a wait for another
   * stream: such a pair of dependencies makes a graph run in pieces.
   */
  bool overlaps;
};

/** Elements; 64 bfloat16 numbers are what the copy engine takes of a row at a time. */
constexpr int ROW_ALIGNMENT = 64;
constexpr int aligned_width(int width) { return (width + ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT; }

/** Sources of a number that is converted while it is loaded. */
enum class Dtype : int { f32 = 0, f16 = 1, bf16 = 2 };

/** What a linear operation left for the kernel that reads its output: y = product + bias + delta. */
struct Pending {
  const float* bias;      /* [width] or null */
  const bf16* delta;      /* [rows, stride of the output] or null */
  const int32_t* row_slot; /* [rows]; a row below 0 has no delta */
};

/* ---- forms of adapters ----------------------------------------------------------------------------------------- */

/** What an adapter has at a site beside its deltas; null or 0 for what it does not have. */
struct FormRecord {
  const float* gain;  /* [outputs] */
  const float* bias;  /* [outputs], gain already in it */
  const float* shift; /* [outputs]: its own bias less the base's */
  const float* norm;  /* [width]: its own weight of a norm */
  /** Rows of the weight that take the place of the base's. */
  const bf16* rows; /* [num_rows, aligned width of a row] */
  const float* exact_rows; /* of a matrix in float32 in their place */
  const int32_t* row_ids; /* [num_rows], ascending: outputs, or tokens of an embedding */
  int32_t num_rows;
};

/** Where kernels find them. */
struct FormTable {
  const FormRecord* records; /* [slots, num_sites]; null in steps without any that this kernel would read */
  int num_sites;
  const int32_t* row_slot; /* [rows]; below 0 for a row without an adapter */
};

/* ---- rows ------------------------------------------------------------------------------------------------------ */

struct EmbedArgs {
  const bf16* table; /* [vocabulary, table_stride] */
  int vocabulary, table_stride;
  const int32_t* tokens;  /* [rows]; ~i for the token of RESULT record i */
  const int32_t* results; /* of the step before */
  float* out;
  int out_stride, width, rows;
  FormTable forms;
  const SiteRecord* sites; /* as `forms`; read along with it */
  int site;
};
/** A row of the table for each token: the adapter's own where it has one, with what it adds. */
void embed(const EmbedArgs& args, Queue queue);

/** out = bfloat16(x / rms(x) * weight) with x = hidden + pending; hidden is updated where something was pending. */
struct NormArgs {
  float* hidden;
  int hidden_stride;
  const int32_t* row_index; /* [rows]: which row of hidden, or null for row i itself */
  const float* weight;      /* [width] */
  float eps;
  bf16* out;
  int out_stride, width, rows;
  Pending pending;
  FormTable forms; /* of the rows of hidden */
  int site;
};
void rms_norm(const NormArgs& args, Queue queue);

/** Optional norm of each head, rotation of q and k in place, and the write of k and v into their pages. */
struct RopeArgs {
  bf16* qkv; /* [rows, qkv_stride]: q heads, k heads, v heads */
  int qkv_stride, num_heads, num_kv_heads, head_dim, rotary_dim, rows;
  const int32_t* positions; /* [rows] */
  const int32_t* kv_slots;  /* [rows]: page * PAGE_TOKENS + position % PAGE_TOKENS; below 0 nothing is written */
  const float* table;       /* [positions, rotary_dim]: cosines, then sines */
  const float *q_norm, *k_norm; /* [head_dim] or null */
  float eps;
  bf16* layer_kv;      /* this layer's keys in page 0 */
  int64_t page_stride; /* elements from one page to the next */
  Pending pending;
  FormTable forms;
  int q_site, k_site; /* of the norms */
};
void rope_kv_write(const RopeArgs& args, Queue queue);

/** out = silu(x[0 .. width]) * x[width .. 2 width], with x = gate_up + pending. */
struct SiluArgs {
  const bf16* gate_up;
  int gate_up_stride;
  bf16* out;
  int out_stride, width, rows;
  Pending pending;
};
void silu_mul(const SiluArgs& args, Queue queue);

/* ---- attention ------------------------------------------------------------------------------------------------- */

/** One stretch of one decode row's positions. Stretches of a row are neighbours, in order. */
struct DecodeItem {
  int32_t row;      /* below 0: nothing to do */
  int32_t position; /* of the row */
  int32_t pages_at; /* its sequence's first entry in `pages` */
  int32_t begin, end; /* positions [begin, end), begin a multiple of PAGE_TOKENS */
  int32_t split, num_splits;
  int32_t unused;
};

/** Consecutive rows of one sequence. */
struct PrefillItem {
  int32_t row, num_rows; /* at most PREFILL_ROWS */
  int32_t position;      /* of the first row */
  int32_t pages_at;
};
constexpr int PREFILL_ROWS = 64;

struct AttentionArgs {
  const bf16* qkv;
  int qkv_stride, num_heads, num_kv_heads, head_dim;
  float scale;
  int window; /* positions a row sees, its own included; 0 for all */
  const bf16* layer_kv;
  int64_t page_stride;
  const int32_t* pages;
  bf16* out;
  int out_stride;
  /* Decode only: sums of each item and kv head, [items, kv heads, group, head_dim + 2] float32, and one counter per
     row and kv head, zero before the first step and after each. */
  float* partial;
  uint32_t* arrived;
};
void decode_attention(const AttentionArgs& args, const DecodeItem* items, int num_items, Queue queue);
void prefill_attention(const AttentionArgs& args, const PrefillItem* items, int num_items, Queue queue);
/** Bytes of `partial` that so many items need. */
size_t decode_partial_bytes(int num_items, int num_heads, int head_dim);

/* ---- linear ---------------------------------------------------------------------------------------------------- */

enum class OutType : int { bf16 = 0, f32 = 1 };

/** out[m, n] = [out[m, n] +] sum_k weight[n, k] * x[m, k], for any shape: what runs where cuBLASLt is not. */
struct LinearArgs {
  const bf16* x;
  int x_stride;
  const bf16* weight;
  int weight_stride;
  void* out;
  OutType out_type;
  int out_stride;
  int m, n, k;
  bool accumulate; /* where the products with `linear_stream` and `linear_small` are, float32 alone */
};
void linear_plain(const LinearArgs& args, Queue queue);

constexpr int MAX_SMALL_ROWS = 64;
/**
 * The same for up to MAX_SMALL_ROWS rows, by `blocks` blocks.
 *
 * @param partial `linear_small_partial_bytes(blocks)`, shared by launches of one stream
 * @param arrived `linear_small_counter_bytes(n)`, zero before the first launch
 */
void linear_small(const LinearArgs& args, int blocks, float* partial, uint32_t* arrived, Queue queue);
size_t linear_small_partial_bytes(int blocks);
size_t linear_small_counter_bytes(int n);

/** Neighbouring outputs, each of one module, or of none: an adapter changes all outputs of a part or no one. */
constexpr int MAX_PARTS = 8;
struct OutputParts {
  int count;
  int32_t begins[MAX_PARTS + 1]; /* multiples of 8; the last one is the end */
};

struct StreamedLora;
/** Outputs of a site whose adapters `linear_stream` takes along. */
constexpr int MAX_STREAMED_OUTPUTS = 1 << 19;
/**
 * The same for up to MAX_SMALL_ROWS rows where `linear_stream_works()`. With `lora` also the deltas of rows with an adapter,
 * added before the sums are rounded.
 */
void linear_stream(const LinearArgs& args, const StreamedLora* lora, int num_multiprocessors, Queue queue);
/** Whether the current device and its driver can; Hopper's tensor copies and products are needed. */
bool linear_stream_works();

/* ---- adapters -------------------------------------------------------------------------------------------------- */

constexpr int MAX_DELTAS = 8;

/** out[offset .. offset + width] += scale * B · (A[rank_offset .. rank_offset + rank] · x) */
struct DeltaRecord {
  const bf16* b; /* see adapter_layout.h */
  int32_t rank_offset; /* a multiple of RANK_GROUP */
  int32_t rank;
  int32_t offset, width;
  float scale;
};

/** What one adapter does at one site; total_rank, a multiple of RANK_GROUP, is 0 where it does nothing. */
struct SiteRecord {
  const bf16* a; /* see adapter_layout.h */
  int32_t total_rank, num_deltas;
  DeltaRecord deltas[MAX_DELTAS];
};

/** Consecutive rows that share a slot. */
struct RowTile {
  int32_t slot, row, num_rows; /* num_rows 0: nothing to do; slot below 0: rows without an adapter */
  int32_t expert; /* that all of them were given; 0 where there are none */
};
constexpr int SMALL_TILE_ROWS = 16, LARGE_TILE_ROWS = 64;
/** Ranks of all deltas at one site that shared memory holds, for tiles of either size. */
constexpr int MAX_RANK_SMALL_TILES = 4992, MAX_RANK_LARGE_TILES = 1216;

/** Parts that a sum over the columns of x is cut into at most. */
constexpr int MAX_SPLITS = 8;

struct LoraArgs {
  const RowTile* tiles;
  int num_tiles;
  bool tiles_are_made; /* by a kernel of the step, not by the host */
  bool large; /* tiles of up to LARGE_TILE_ROWS rows instead of SMALL_TILE_ROWS at most */
  const int32_t* row_slot; /* [rows]; below 0 for a row without an adapter */
  const SiteRecord* sites; /* [slots, num_sites] */
  int num_sites, site; /* the first expert's where tiles have experts */
  const int32_t* sources; /* row of x that each row of a tile reads, for small tiles; null for the row itself */
  float* shrunk; /* [splits, shrunk_rows, shrunk_stride] */
  int shrunk_rows, shrunk_stride, splits;
  int max_rank; /* no slot that the step may name has more at a site; a multiple of 32 */
};

/** shrunk = A · x of every tile's rows, as `splits` partial sums over k. */
void lora_shrink(const LoraArgs& args, const bf16* x, int x_stride, Queue queue);

enum class ExpandMode : int {
  delta = 0,   /* rows with an adapter: out = B · shrunk, zero where no module writes; other rows untouched */
  replace = 1, /* as delta, and rows without an adapter become zero */
  add = 2,     /* rows with an adapter: out += B · shrunk */
};
/** @param out bfloat16; float32 only with `ExpandMode::add` */
void lora_expand(const LoraArgs& args, ExpandMode mode, void* out, OutType out_type, int out_stride, int out_width, Queue queue);

/**
 * Kernels that read a product and add B · shrunk to it on their way. `lora` is that of the shrink before; its tiles, large ones, have
 * all rows, those without an adapter too. `pending` has no delta.
 */
void expand_silu_mul(const SiluArgs& args, const LoraArgs& lora, int num_multiprocessors, Queue queue);
void expand_rope_kv_write(const RopeArgs& args, const LoraArgs& lora, int num_multiprocessors, Queue queue);
/** For which shapes there are such kernels. */
bool expands_silu_mul(int width);
bool expands_rope_kv_write(int head_dim, int rotary_dim);
/** Modules of a site, and ranks of all of them, that they take: more ranks are faster expanded first. */
constexpr int MAX_EXPANDED_MODULES = 4, MAX_EXPANDED_RANK = 192;

/** Adapters of a product whose kernel takes them along; see `linear_stream`. */
struct StreamedLora {
  const RowTile* tiles; /* one for each slot of the step, of up to MAX_SMALL_ROWS rows */
  int num_tiles;
  const int32_t* row_slot; /* [rows]; below 0 for a row without an adapter */
  const SiteRecord* sites; /* [slots, num_sites] */
  int num_sites, site;
  OutputParts parts;
  /**
   * Through which blocks tell each other A · x, [MAX_SMALL_ROWS, shrunk_stride / 2]: two bfloat16 numbers, already scaled, and
   * the tag of the launch that wrote them in one word. No launch finds its own tag there.
   */
  uint64_t* shrunk;
  int shrunk_stride; /* no site of any slot has more ranks; even */
  const uint32_t* first_tag; /* of the step; its launches have this and the next num_sites - 1 */
};

/**
 * Rows with an adapter get its forms: out = gain · (product + delta) + bias + shift. Where products went aside, every row's is
 * added onto `out`.
 */
struct FormArgs {
  FormTable forms;
  int site;
  const float* product; /* [rows, stride], and `out` is float32; or null, and `out` holds the products */
  const bf16* delta; /* [rows, stride], or null where the products have it already */
  void* out;
  OutType out_type;
  int stride, width, rows;
};
void apply_forms(const FormArgs& args, Queue queue);

/**
 * Products with the rows of the weight that adapters have of their own, written over what the base made of their rows of x:
 * out[row, id] = own[id] · x[row].
 */
struct OwnRowsArgs {
  FormTable forms;
  int site;
  const RowTile* tiles; /* of up to MAX_OWN_TILE_ROWS rows */
  int num_tiles;
  const bf16* x;
  int x_stride; /* that of the rows, too */
  void* out;
  OutType out_type;
  int out_stride;
};
constexpr int MAX_OWN_TILE_ROWS = 64;
void own_rows(const OwnRowsArgs& args, int num_multiprocessors, Queue queue);

/** One delta whose outputs are brought to given lengths: gain = length / |W + scale · B · A|, of rows, or of an embedding's columns. */
struct GainArgs {
  const bf16* weight; /* the base's, [outputs, weight_stride], of an embedding [tokens, weight_stride]; or null */
  const float* exact; /* the same of a matrix in float32, whose own rows are, too; or null */
  int weight_stride;
  FormRecord own; /* whose rows take the place of the base's */
  int num_tokens; /* of an embedding; otherwise 0 */
  const bf16* a; /* the site's; see adapter_layout.h */
  int a_steps;
  DeltaRecord delta;
  float* gain; /* the site's, [outputs]; in the delta's part lengths become gains */
  float* bias; /* the site's, multiplied by the gain, or null */
  uint32_t* bad_output; /* becomes the least output whose row has no length */
};
void form_gains(const GainArgs& args, cudaStream_t stream);

/* ---- experts --------------------------------------------------------------------------------------------------- */

constexpr int MAX_EXPERTS = 1024;

/**
 * Experts of the step's rows. Routed rows are sorted by expert and, within one, by their order in the step, so that rows of an
 * expert are neighbours, and among them rows of a slot.
 */
struct Routed {
  int num_experts, top_k;
  int32_t* choices; /* [rows, top_k]: experts of each row, of the largest logit first; below 0 where a row is none */
  int32_t* places;  /* [rows, top_k]: the routed row of each choice; below 0 where a row is none */
  int32_t* starts;  /* [num_experts + 1]: an expert's routed rows end where the next one's begin */
  int32_t* sources; /* [routed rows]: row of the step */
  int32_t* experts; /* [routed rows] */
  int32_t* slots;   /* [rows * top_k]; below 0 for a row without an adapter, and behind the last routed row */
  RowTile* tiles;   /* [rows * top_k]: the one at i, if it has rows, begins with routed row i; written where there are adapters */
};

/** out[m, n] = sum_k weight[n, k] * x[m, k] with a matrix in float32: a rounded logit may choose another expert. */
struct ExactLinearArgs {
  const bf16* x;
  int x_stride; /* that of the matrix, too */
  const float* weight;
  float* out;
  int out_stride;
  int m, n;
};
void linear_exact(const ExactLinearArgs& args, Queue queue);

/** Rows with an adapter: out = gain · (out + delta) + bias, everything but x, A and B in float32. */
struct ExactLoraArgs {
  const bf16* x;
  int x_stride;
  float* out;
  int out_stride, rows, n;
  const SiteRecord* sites; /* [slots, num_sites] */
  const FormRecord* forms; /* [slots, num_sites] */
  int num_sites, site;
  const int32_t* row_slot; /* [rows]; below 0 for a row without an adapter */
  int max_rank; /* no site of any slot has more ranks */
};
void lora_exact(const ExactLoraArgs& args, Queue queue);

/** Own rows of a matrix in float32, as OwnRowsArgs, and summed as the base's are. */
struct OwnExactRowsArgs {
  FormTable forms;
  int site;
  const RowTile* tiles;
  int num_tiles;
  const bf16* x;
  int x_stride; /* that of the rows, too */
  float* out;
  int out_stride, n;
};
void own_exact_rows(const OwnExactRowsArgs& args, Queue queue);

/** Gives each row its experts and their shares, and sorts rows by expert. */
struct RouteArgs {
  const float* logits; /* [rows, logits_stride] */
  int logits_stride;
  float* routes; /* [rows, routes_stride]: numbers of top_k experts, then their shares */
  int routes_stride;
  bool normalize; /* shares are of the chosen experts alone */
  int rows;
  const int32_t* kv_slots; /* [rows]; below 0 for a row that is none, and is given no expert */
  const int32_t* row_slot; /* [rows]; below 0 for a row without an adapter */
  bool has_adapters;
  Routed routed;
};
void route(const RouteArgs& args, Queue queue);

/** out[i] = weight[expert of i] · x[source of i] for every routed row i. */
struct ExpertLinearArgs {
  const bf16* x;
  int x_stride;
  bool by_source; /* rows of x are the step's; otherwise routed rows */
  const bf16* weight; /* [experts, n, weight_stride] */
  int weight_stride;
  bf16* out;
  int out_stride;
  int n, k; /* k whole strides */
  int rows; /* of the step */
  Routed routed;
};
void linear_experts(const ExpertLinearArgs& args, Queue queue);

/** Own rows of experts' matrices, as OwnRowsArgs: out[i, id] = own[id] · x[source of i] for every routed row i with an adapter. */
struct OwnExpertRowsArgs {
  const FormRecord* forms; /* [slots, num_sites] */
  int num_sites, site; /* the first expert's */
  const bf16* x;
  int x_stride; /* that of the rows, too */
  bool by_source; /* as ExpertLinearArgs */
  bf16* out;
  int out_stride, n;
  Routed routed;
};
void own_expert_rows(const OwnExpertRowsArgs& args, Queue queue);

/** Routed rows with an adapter: out = gain · out + bias. */
struct ExpertFormArgs {
  const FormRecord* forms; /* [slots, num_sites] */
  int num_sites, site; /* the first expert's */
  bf16* out;
  int out_stride, width;
  int rows; /* of the step */
  Routed routed;
};
void apply_expert_forms(const ExpertFormArgs& args, Queue queue);

/** out[row] += sum of share · x[routed row] over the row's experts, in their order. */
struct CombineArgs {
  const bf16* x; /* [routed rows, x_stride] */
  int x_stride;
  const float* routes; /* [rows, routes_stride] */
  int routes_stride;
  float* out;
  int out_stride, width, rows;
  Routed routed;
};
void combine(const CombineArgs& args, Queue queue);

/* ---- sampling -------------------------------------------------------------------------------------------------- */

struct SampleArgs {
  float* logits; /* [num_sampled, stride], changed in place */
  int stride, vocabulary, num_sampled;
  const int32_t* samples; /* SAMPLE records; a row below 0 is skipped, and SAMPLE_ALLOWED_AT is an index of `changes`, below 0 for none */
  int32_t* changes;       /* ADJUSTMENT records, then bits of allowed tokens */
  int32_t* results;       /* RESULT records */
};
void sample(const SampleArgs& args, Queue queue);

/* ---- between host and device ----------------------------------------------------------------------------------- */

/**
 * Copies to or from page-locked host memory by a kernel. The device's copy engines take one copy after the other, and a step would
 * wait for the adapter that is on its way.
 *
 * @param bytes a multiple of 16, as both addresses are
 */
void copy_by_threads(const void* from, void* to, size_t bytes, cudaStream_t stream);

/* ---- loading --------------------------------------------------------------------------------------------------- */

/** Writes rows of numbers as stored into a matrix; `bad_row` becomes the least row that is not finite. */
void convert_matrix(const void* source, Dtype dtype, int rows, int cols, bf16* out, int out_stride, uint32_t* bad_row, cudaStream_t stream);
void convert_matrix(const void* source, Dtype dtype, int rows, int cols, float* out, int out_stride, uint32_t* bad_row, cudaStream_t stream);
void convert_vector(const void* source, Dtype dtype, int length, float* out, uint32_t* bad_row, cudaStream_t stream);
/** Roughly normal numbers of the given deviation, a pure function of seed and index. */
void random_matrix(bf16* out, int64_t rows, int cols, int stride, float deviation, uint64_t seed, cudaStream_t stream);
void random_matrix(float* out, int64_t rows, int cols, int stride, float deviation, uint64_t seed, cudaStream_t stream);
void fill_vector(float* out, int length, float value, cudaStream_t stream);

}  // namespace lorikeet
