/**
 * Kernels of adapters' forms, one by one, against sums in double precision; on a machine with a device only. Small, so that
 * compute-sanitizer can watch them.
 */
#include <cuda_bf16.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "../../step_layout.h"
#include "../engine/adapters.h"
#include "../engine/device.h"
#include "../kernels/kernels.h"

using namespace lorikeet;

namespace {

const bool has_no_device = probe_devices().devices.empty();
constexpr int MULTIPROCESSORS = 4; /* as many blocks as share the work */

template <typename T> DeviceMemory on_device(const std::vector<T>& values) {
  DeviceMemory memory(std::max<size_t>(1, values.size()) * sizeof(T), "a test");
  check(cudaMemcpy(memory.as<void>(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "a test");
  return memory;
}
template <typename T> std::vector<T> on_host(const DeviceMemory& memory, size_t count) {
  check(cudaGetLastError(), "a launch");
  check(cudaDeviceSynchronize(), "a kernel");
  std::vector<T> values(count);
  check(cudaMemcpy(values.data(), memory.as<void>(), count * sizeof(T), cudaMemcpyDeviceToHost), "a test");
  return values;
}

float rounded(float value) { return __bfloat162float(__float2bfloat16(value)); }

/** Numbers that bfloat16 holds. */
std::vector<float> numbers(std::mt19937& random, size_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = rounded(static_cast<float>(random() % 2001) / 1000 - 1);
  return values;
}

/** [rows, width] with its device's stride, zeros between. */
std::vector<bf16> padded_rows(const std::vector<float>& values, int rows, int width) {
  std::vector<bf16> out(static_cast<size_t>(rows) * aligned_width(width), __float2bfloat16(0.0f));
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < width; i++) out[static_cast<size_t>(row) * aligned_width(width) + i] = __float2bfloat16(values[static_cast<size_t>(row) * width + i]);
  return out;
}

SourceMatrix matrix(int rows, int cols, const std::vector<float>& values) { return {Dtype::f32, rows, cols, values.data()}; }

/** An adapter on the device, and what it was made from. */
struct Adapter {
  std::vector<SourceDelta> deltas;
  std::vector<SourceReplacement> replacements;
  std::vector<std::vector<float>> kept; /* what the two point to */
};

struct Attached {
  DeviceMemory bytes, sites, forms;
  std::vector<SiteRecord> records;
  std::vector<FormRecord> form_records;
};

/** Each adapter in the slot of its number. */
std::vector<DeviceMemory> attach(const std::vector<Adapter>& adapters, const std::vector<SiteSpec>& specs, Attached& to) {
  std::vector<DeviceMemory> images;
  for (const Adapter& adapter : adapters) {
    const AdapterLayout layout(adapter.deltas, specs, adapter.replacements);
    std::vector<uint8_t> bytes(layout.bytes());
    layout.write(adapter.deltas, bytes.data(), adapter.replacements);
    images.push_back(on_device(bytes));
    const std::vector<SiteRecord> records = layout.records_at(images.back().as<uint8_t>());
    const std::vector<FormRecord> forms = layout.forms_at(images.back().as<uint8_t>());
    to.records.insert(to.records.end(), records.begin(), records.end());
    to.form_records.insert(to.form_records.end(), forms.begin(), forms.end());
  }
  to.sites = on_device(to.records);
  to.forms = on_device(to.form_records);
  return images;
}

/** Rows of random slots, neighbours where they share one, and their tiles. */
struct Rows {
  std::vector<int32_t> slots;
  std::vector<RowTile> tiles;
  DeviceMemory device_slots, device_tiles;

  Rows(std::mt19937& random, int num_slots, int tile_rows) {
    for (int slot = -1; slot < num_slots; slot++) {
      const int first = static_cast<int>(slots.size()), count = static_cast<int>(random() % (2 * tile_rows));
      slots.insert(slots.end(), count, slot);
      for (int row = 0; slot >= 0 && row < count; row += tile_rows) tiles.push_back({slot, first + row, std::min(tile_rows, count - row), 0});
    }
    if (slots.empty()) slots.push_back(-1);
    tiles.push_back({-1, 0, 0, 0});
    device_slots = on_device(slots);
    device_tiles = on_device(tiles);
  }
  int count() const { return static_cast<int>(slots.size()); }
};

struct Out {
  OutType type;
  int rows, width;
  std::vector<float> before;
  DeviceMemory memory;

  Out(std::mt19937& random, OutType type, int rows, int width) : type(type), rows(rows), width(width), before(numbers(random, static_cast<size_t>(rows) * width)) {
    if (type == OutType::bf16) {
      memory = on_device(padded_rows(before, rows, width));
    } else {
      std::vector<float> floats(static_cast<size_t>(rows) * aligned_width(width));
      for (int row = 0; row < rows; row++) std::copy_n(before.data() + static_cast<size_t>(row) * width, width, floats.data() + static_cast<size_t>(row) * aligned_width(width));
      memory = on_device(floats);
    }
  }
  std::vector<float> after() const {
    const size_t count = static_cast<size_t>(rows) * aligned_width(width);
    std::vector<float> floats;
    if (type == OutType::f32) floats = on_host<float>(memory, count);
    else for (const bf16 value : on_host<bf16>(memory, count)) floats.push_back(__bfloat162float(value));
    std::vector<float> values;
    for (int row = 0; row < rows; row++) values.insert(values.end(), floats.begin() + static_cast<size_t>(row) * aligned_width(width), floats.begin() + static_cast<size_t>(row) * aligned_width(width) + width);
    return values;
  }
  /** Of a sum of so many products of numbers below 1. */
  double bound(double value, int terms) const { return (type == OutType::bf16 ? std::fabs(value) / 128 : 0.0) + 1e-5 * (terms + 1); }
};

Queue queue() { return {nullptr, false}; }

}  // namespace

TEST_SUITE_BEGIN("kernels" * doctest::skip(has_no_device));

TEST_CASE("products with own rows are written over the outputs that they take, and over no other") {
  std::mt19937 random(1);
  for (int run = 0; run < 40; run++) {
    const int k = 1 + random() % 200, n = 1 + random() % 400;
    const std::vector<SiteSpec> sites = {{k, {0, n}, SITE_KIND_HEAD}};
    std::vector<Adapter> adapters(3);
    std::vector<std::vector<int32_t>> ids(3);
    for (int slot = 0; slot < 3; slot++) {
      for (int id = 0; id < n; id++) if (slot == 0 || (slot == 1 && random() % 5 == 0)) ids[slot].push_back(id);
      adapters[slot].kept.push_back(numbers(random, ids[slot].size() * k));
      if (!ids[slot].empty()) adapters[slot].replacements.push_back({0, false, false, ids[slot][0], ids[slot], matrix(static_cast<int>(ids[slot].size()), k, adapters[slot].kept[0]), {}});
    }
    Attached attached;
    const std::vector<DeviceMemory> images = attach(adapters, sites, attached);
    const Rows rows(random, 3, run % 2 == 0 ? 64 : 16);
    const std::vector<float> x = numbers(random, static_cast<size_t>(rows.count()) * k);
    const DeviceMemory device_x = on_device(padded_rows(x, rows.count(), k));
    const Out out(random, run % 4 < 2 ? OutType::f32 : OutType::bf16, rows.count(), n);
    own_rows({.forms = {attached.forms.as<FormRecord>(), 1, rows.device_slots.as<int32_t>()}, .site = 0, .tiles = rows.device_tiles.as<RowTile>(), .num_tiles = static_cast<int>(rows.tiles.size()),
              .x = device_x.as<bf16>(), .x_stride = aligned_width(k), .out = out.memory.as<void>(), .out_type = out.type, .out_stride = aligned_width(n)},
             MULTIPROCESSORS, queue());
    std::vector<float> wanted = out.before;
    for (int row = 0; row < rows.count(); row++) {
      if (rows.slots[row] < 0) continue;
      const std::vector<int32_t>& own = ids[rows.slots[row]];
      for (size_t i = 0; i < own.size(); i++) {
        double sum = 0.0;
        for (int column = 0; column < k; column++) sum += static_cast<double>(adapters[rows.slots[row]].kept[0][i * k + column]) * x[static_cast<size_t>(row) * k + column];
        wanted[static_cast<size_t>(row) * n + own[i]] = static_cast<float>(sum);
      }
    }
    const std::vector<float> got = out.after();
    for (size_t i = 0; i < got.size(); i++) REQUIRE(std::fabs(got[i] - wanted[i]) <= out.bound(wanted[i], k));
  }
}

TEST_CASE("own rows of a router are multiplied in float32, where the adapter has them") {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> any(-1.0f, 1.0f);
  for (int run = 0; run < 30; run++) {
    const int k = 1 + random() % 300, n = 1 + random() % 140;
    const std::vector<SiteSpec> sites = {{k, {0, n}, SITE_KIND_ROUTER}};
    std::vector<Adapter> adapters(3);
    for (int slot = 0; slot < 2; slot++) {
      /* Whole, and its first rows. */
      const int count = slot == 0 ? n : 1 + random() % n;
      adapters[slot].kept.emplace_back(static_cast<size_t>(count) * k);
      for (float& value : adapters[slot].kept[0]) value = any(random);
      adapters[slot].replacements.push_back({0, false, false, 0, {}, matrix(count, k, adapters[slot].kept[0]), {}});
    }
    Attached attached;
    const std::vector<DeviceMemory> images = attach(adapters, sites, attached);
    const Rows rows(random, 3, run % 2 == 0 ? 64 : 16);
    const std::vector<float> x = numbers(random, static_cast<size_t>(rows.count()) * k);
    const DeviceMemory device_x = on_device(padded_rows(x, rows.count(), k));
    const Out out(random, OutType::f32, rows.count(), n);
    own_exact_rows({.forms = {attached.forms.as<FormRecord>(), 1, rows.device_slots.as<int32_t>()}, .site = 0, .tiles = rows.device_tiles.as<RowTile>(), .num_tiles = static_cast<int>(rows.tiles.size()),
                    .x = device_x.as<bf16>(), .x_stride = aligned_width(k), .out = out.memory.as<float>(), .out_stride = aligned_width(n), .n = n},
                   queue());
    const std::vector<float> got = out.after();
    for (int row = 0; row < rows.count(); row++) {
      const std::vector<float> none, &own = rows.slots[row] < 0 || rows.slots[row] == 2 ? none : adapters[rows.slots[row]].kept[0];
      for (int i = 0; i < n; i++) {
        const size_t at = static_cast<size_t>(row) * n + i;
        double wanted = out.before[at];
        if (static_cast<size_t>(i) * k < own.size()) {
          wanted = 0.0;
          for (int column = 0; column < k; column++) wanted += static_cast<double>(own[static_cast<size_t>(i) * k + column]) * x[static_cast<size_t>(row) * k + column];
        }
        /* Rounded to bfloat16 it would be a thousand times that. */
        REQUIRE(std::fabs(got[at] - wanted) <= 1e-6 * k);
      }
    }
  }
}

TEST_CASE("own rows of experts are multiplied with the rows that each was given, whatever lies between") {
  std::mt19937 random(6);
  for (int run = 0; run < 30; run++) {
    const int k = 1 + random() % 200, n = 2 * (1 + random() % 120), experts = 1 + random() % 9, num_rows = 1 + random() % 50;
    const bool by_source = run % 2 == 0;
    /* Site 0 is another. */
    std::vector<SiteSpec> sites = {{k, {0, n}}};
    for (int expert = 0; expert < experts; expert++) sites.push_back({k, {0, n / 2, n}, SITE_KIND_EXPERT, expert});
    std::vector<Adapter> adapters(3);
    const auto first_of = [&](int slot) { return slot == 0 ? 0 : n / 2; };
    for (int slot = 0; slot < 2; slot++)
      for (int expert = 0; expert < experts; expert++) {
        const int rows = n - first_of(slot);
        adapters[slot].kept.push_back(numbers(random, static_cast<size_t>(rows) * k));
        if (slot == 1 && expert % 2 == 1) continue;
        adapters[slot].replacements.push_back({1 + expert, false, false, first_of(slot), {}, matrix(rows, k, adapters[slot].kept.back()), {}});
      }
    Attached attached;
    const std::vector<DeviceMemory> images = attach(adapters, sites, attached);
    std::vector<int32_t> starts, slots, expert_of, sources;
    for (int expert = 0; expert < experts; expert++) {
      starts.push_back(static_cast<int>(slots.size()));
      /* Rows of the base come between, too. */
      for (const int slot : {-1, 0, -1, 1, 2, -1}) {
        const int count = random() % 3 == 0 ? random() % 150 : random() % 4;
        slots.insert(slots.end(), count, slot);
        expert_of.insert(expert_of.end(), count, expert);
      }
    }
    starts.push_back(static_cast<int>(slots.size()));
    const int routed = static_cast<int>(slots.size());
    slots.insert(slots.end(), 5, -1), expert_of.insert(expert_of.end(), 5, 0);
    for (size_t i = 0; i < slots.size(); i++) sources.push_back(static_cast<int32_t>(random() % num_rows));
    const DeviceMemory device_starts = on_device(starts), device_slots = on_device(slots), device_experts = on_device(expert_of), device_sources = on_device(sources);
    const int x_rows = by_source ? num_rows : std::max(1, routed);
    const std::vector<float> x = numbers(random, static_cast<size_t>(x_rows) * k);
    const DeviceMemory device_x = on_device(padded_rows(x, x_rows, k));
    const Out out(random, OutType::bf16, static_cast<int>(slots.size()), n);
    own_expert_rows({.forms = attached.forms.as<FormRecord>(), .num_sites = static_cast<int>(sites.size()), .site = 1, .x = device_x.as<bf16>(), .x_stride = aligned_width(k), .by_source = by_source,
                     .out = out.memory.as<bf16>(), .out_stride = aligned_width(n), .n = n,
                     .routed = {.num_experts = experts, .top_k = 1, .choices = nullptr, .places = nullptr, .starts = device_starts.as<int32_t>(), .sources = device_sources.as<int32_t>(),
                                .experts = device_experts.as<int32_t>(), .slots = device_slots.as<int32_t>(), .tiles = nullptr}},
                    queue());
    const std::vector<float> got = out.after();
    for (size_t row = 0; row < slots.size(); row++) {
      const int slot = slots[row], expert = expert_of[row], first = slot < 0 ? n : first_of(slot);
      const bool is_own = slot == 0 || (slot == 1 && expert % 2 == 0);
      for (int i = 0; i < n; i++) {
        double wanted = out.before[row * n + i];
        if (is_own && i >= first) {
          wanted = 0.0;
          for (int column = 0; column < k; column++) wanted += static_cast<double>(adapters[slot].kept[expert][static_cast<size_t>(i - first) * k + column]) * x[static_cast<size_t>(by_source ? sources[row] : row) * k + column];
        }
        REQUIRE(std::fabs(got[row * n + i] - wanted) <= out.bound(wanted, k));
      }
    }
  }
}

TEST_CASE("deltas are added to outputs that are there, of either type, in tiles of either size") {
  std::mt19937 random(2);
  for (int run = 0; run < 24; run++) {
    const int k = 1 + random() % 200, n = 1 + random() % 400, split = random() % n;
    const bool large = run % 2 == 0;
    const std::vector<SiteSpec> sites = {{k, {0, split, n}, SITE_KIND_HEAD}};
    std::vector<Adapter> adapters(3);
    for (int slot = 0; slot < 2; slot++) {
      const int rank = 1 + random() % (slot == 0 ? 20 : 100), offset = slot == 0 ? 0 : split, width = n - offset;
      adapters[slot].kept = {numbers(random, static_cast<size_t>(rank) * k), numbers(random, static_cast<size_t>(width) * rank)};
      adapters[slot].deltas.push_back({0, offset, width, rank, 0.25f, matrix(rank, k, adapters[slot].kept[0]), matrix(width, rank, adapters[slot].kept[1])});
    }
    Attached attached;
    const std::vector<DeviceMemory> images = attach(adapters, sites, attached);
    const Rows rows(random, 3, large ? LARGE_TILE_ROWS : SMALL_TILE_ROWS);
    const std::vector<float> x = numbers(random, static_cast<size_t>(rows.count()) * k);
    const DeviceMemory device_x = on_device(padded_rows(x, rows.count(), k)), shrunk(static_cast<size_t>(MAX_SPLITS) * rows.count() * 128 * sizeof(float), "a test");
    const Out out(random, run % 4 < 2 ? OutType::f32 : OutType::bf16, rows.count(), n);
    const LoraArgs args = {.tiles = rows.device_tiles.as<RowTile>(), .num_tiles = static_cast<int>(rows.tiles.size()), .tiles_are_made = false, .large = large, .row_slot = rows.device_slots.as<int32_t>(),
                           .sites = attached.sites.as<SiteRecord>(), .num_sites = 1, .site = 0, .sources = nullptr, .shrunk = shrunk.as<float>(), .shrunk_rows = rows.count(), .shrunk_stride = 128,
                           .splits = 1 + static_cast<int>(random() % MAX_SPLITS), .max_rank = 128};
    lora_shrink(args, device_x.as<bf16>(), aligned_width(k), queue());
    lora_expand(args, ExpandMode::add, out.memory.as<void>(), out.type, aligned_width(n), n, queue());
    const std::vector<float> got = out.after();
    for (int row = 0; row < rows.count(); row++) {
      const int slot = rows.slots[row];
      const SourceDelta* const delta = slot < 0 || adapters[slot].deltas.empty() ? nullptr : &adapters[slot].deltas[0];
      std::vector<double> ranks(delta == nullptr ? 0 : delta->rank);
      for (size_t r = 0; r < ranks.size(); r++)
        for (int column = 0; column < k; column++) ranks[r] += static_cast<double>(adapters[slot].kept[0][r * k + column]) * x[static_cast<size_t>(row) * k + column];
      for (int i = 0; i < n; i++) {
        const size_t at = static_cast<size_t>(row) * n + i;
        double sum = 0.0, size = 0.0;
        for (size_t r = 0; delta != nullptr && i >= delta->offset && r < ranks.size(); r++) {
          const double term = delta->scale * ranks[r] * adapters[slot].kept[1][(i - delta->offset) * ranks.size() + r];
          sum += term, size += std::fabs(term);
        }
        /* A · x is bfloat16 between the two. */
        REQUIRE(std::fabs(got[at] - (out.before[at] + sum)) <= out.bound(std::fabs(out.before[at]) + std::fabs(sum), k) + size / 128);
      }
    }
  }
}

TEST_CASE("an embedding's rows are the adapter's own, with what it adds, and gains of columns") {
  std::mt19937 random(3);
  for (int run = 0; run < 20; run++) {
    const int vocabulary = 2 + random() % 300, width = 1 + random() % 150, rank = 1 + random() % 20;
    const std::vector<SiteSpec> sites = {{vocabulary, {0, width}, SITE_KIND_EMBEDDING}};
    const std::vector<float> table = numbers(random, static_cast<size_t>(vocabulary) * width);
    std::vector<Adapter> adapters(3);
    std::set<int32_t> listed;
    for (int slot = 0; slot < 3; slot++) {
      Adapter& adapter = adapters[slot];
      adapter.kept = {numbers(random, static_cast<size_t>(rank) * vocabulary), numbers(random, static_cast<size_t>(width) * rank), std::vector<float>(width, 3.0f), numbers(random, static_cast<size_t>(vocabulary) * width)};
      if (slot != 1) adapter.deltas.push_back({0, 0, width, rank, 0.5f, matrix(rank, vocabulary, adapter.kept[0]), matrix(width, rank, adapter.kept[1]), nullptr, slot == 2 ? adapter.kept[2].data() : nullptr});
      if (slot == 0) continue;
      std::vector<int32_t> ids;
      for (int id = 0; id < vocabulary; id++) if (slot == 1 || random() % 4 == 0) ids.push_back(id);
      if (ids.empty()) continue;
      if (slot == 2) listed.insert(ids.begin(), ids.end());
      std::vector<float>& own = adapter.kept[3];
      own.resize(ids.size() * width);
      adapter.replacements.push_back({0, false, false, ids[0], ids, matrix(static_cast<int>(ids.size()), width, own), {}});
    }
    Attached attached;
    const std::vector<DeviceMemory> images = attach(adapters, sites, attached);
    const DeviceMemory device_table = on_device(padded_rows(table, vocabulary, width)), bad = on_device(std::vector<uint32_t>{~0u});
    form_gains({.weight = device_table.as<bf16>(), .exact = nullptr, .weight_stride = aligned_width(width), .own = attached.form_records[2], .num_tokens = vocabulary, .a = attached.records[2].a,
                .a_steps = a_steps(vocabulary), .delta = attached.records[2].deltas[0], .gain = const_cast<float*>(attached.form_records[2].gain), .bias = nullptr, .bad_output = bad.as<uint32_t>()},
               nullptr);
    CHECK(on_host<uint32_t>(bad, 1)[0] == ~0u);
    /* A row of the table as an adapter has it. */
    const auto changed = [&](int slot, int token) {
      std::vector<double> row(table.begin() + static_cast<size_t>(token) * width, table.begin() + static_cast<size_t>(token + 1) * width);
      if (slot < 0) return row;
      const Adapter& adapter = adapters[slot];
      for (const SourceReplacement& each : adapter.replacements) {
        const auto found = std::find(each.rows.begin(), each.rows.end(), token);
        if (found != each.rows.end()) std::copy_n(adapter.kept[3].begin() + (found - each.rows.begin()) * width, width, row.begin());
      }
      for (int i = 0; i < width && !adapter.deltas.empty(); i++)
        for (int r = 0; r < rank; r++) row[i] += 0.5 * adapter.kept[0][static_cast<size_t>(r) * vocabulary + token] * adapter.kept[1][static_cast<size_t>(i) * rank + r];
      return row;
    };
    std::vector<double> squares(width);
    for (int token = 0; token < vocabulary; token++) {
      const std::vector<double> row = changed(2, token);
      for (int i = 0; i < width; i++) squares[i] += row[i] * row[i];
    }
    const Rows rows(random, 3, 16);
    std::vector<int32_t> tokens(rows.count());
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % vocabulary);
    /* Every other row names what a sample of the step before picked. */
    std::vector<int32_t> named = tokens, results(tokens.size() * RESULT_WORDS, -1);
    for (size_t row = 0; row < tokens.size(); row += 2) {
      const size_t sample = tokens.size() - 1 - row;
      named[row] = ~static_cast<int32_t>(sample);
      results[sample * RESULT_WORDS + RESULT_TOKEN] = tokens[row];
    }
    const DeviceMemory device_tokens = on_device(named), device_results = on_device(results);
    const Out out(random, OutType::f32, rows.count(), width);
    embed({.table = device_table.as<bf16>(), .vocabulary = vocabulary, .table_stride = aligned_width(width), .tokens = device_tokens.as<int32_t>(), .results = device_results.as<int32_t>(), .out = out.memory.as<float>(), .out_stride = aligned_width(width),
           .width = width, .rows = rows.count(), .forms = {attached.forms.as<FormRecord>(), 1, rows.device_slots.as<int32_t>()}, .sites = attached.sites.as<SiteRecord>(), .site = 0},
          queue());
    const std::vector<float> got = out.after();
    for (int row = 0; row < rows.count(); row++) {
      const std::vector<double> wanted = changed(rows.slots[row], tokens[row]);
      for (int i = 0; i < width; i++) {
        const double gain = rows.slots[row] == 2 ? 3.0 / std::sqrt(squares[i]) : 1.0;
        REQUIRE(std::fabs(got[static_cast<size_t>(row) * width + i] - gain * wanted[i]) <= 1e-4 * (1 + std::fabs(gain)));
      }
    }
  }
}

TEST_CASE("gains, biases and shifts of outputs, in place and from aside, and norms of an adapter's own") {
  std::mt19937 random(4);
  for (int run = 0; run < 18; run++) {
    const int width = 4 * (1 + random() % 80) + (run % 2), k = 8;
    const std::vector<SiteSpec> sites = {{k, {0, width}}, {width, {0, width}, SITE_KIND_NORM}};
    std::vector<Adapter> adapters(2);
    Adapter& formed = adapters[1];
    formed.kept = {numbers(random, k), numbers(random, width), numbers(random, width), numbers(random, width), numbers(random, width), numbers(random, width)};
    formed.deltas.push_back({0, 0, width, 1, 2.0f, matrix(1, k, formed.kept[0]), matrix(width, 1, formed.kept[1]), formed.kept[2].data(), formed.kept[3].data()});
    formed.replacements.push_back({0, true, false, 0, {}, matrix(width, 1, formed.kept[4]), numbers(random, width)});
    formed.replacements.push_back({1, false, false, 0, {}, matrix(width, 1, formed.kept[5]), {}});
    Attached attached;
    const std::vector<DeviceMemory> images = attach(adapters, sites, attached);
    const Rows rows(random, 2, 16);
    const FormTable table = {attached.forms.as<FormRecord>(), 2, rows.device_slots.as<int32_t>()};
    const bool aside = run % 3 == 0;
    const Out out(random, run % 3 == 1 ? OutType::bf16 : OutType::f32, rows.count(), width), product(random, OutType::f32, rows.count(), width), delta(random, OutType::bf16, rows.count(), width);
    apply_forms({.forms = table, .site = 0, .product = aside ? product.memory.as<float>() : nullptr, .delta = run % 2 == 0 ? delta.memory.as<bf16>() : nullptr, .out = out.memory.as<void>(), .out_type = out.type,
                 .stride = aligned_width(width), .width = width, .rows = rows.count()},
                queue());
    const std::vector<float> got = out.after();
    for (size_t i = 0; i < got.size(); i++) {
      const int slot = rows.slots[i / width], column = static_cast<int>(i % width);
      double value = aside ? product.before[i] : out.before[i];
      if (slot >= 0 && run % 2 == 0) value += delta.before[i];
      if (slot == 1) value = value * formed.kept[3][column] + 2.0 * formed.kept[2][column] + formed.kept[4][column] - formed.replacements[0].base[column];
      if (aside) value += out.before[i];
      REQUIRE(std::fabs(got[i] - value) <= out.bound(value, 1));
    }

    std::vector<int32_t> order(rows.count());
    for (int row = 0; row < rows.count(); row++) order[row] = rows.count() - 1 - row;
    const std::vector<float> base = numbers(random, width);
    const DeviceMemory device_order = on_device(order), device_base = on_device(base);
    const Out normed(random, OutType::bf16, rows.count(), width);
    rms_norm({.hidden = product.memory.as<float>(), .hidden_stride = aligned_width(width), .row_index = device_order.as<int32_t>(), .weight = device_base.as<float>(), .eps = 1e-5f, .out = normed.memory.as<bf16>(),
              .out_stride = aligned_width(width), .width = width, .rows = rows.count(), .pending = {}, .forms = table, .site = 1},
             queue());
    const std::vector<float> norms = normed.after();
    for (int i = 0; i < rows.count(); i++) {
      const int row = order[i];
      double squares = 0.0;
      for (int column = 0; column < width; column++) squares += std::pow(product.before[static_cast<size_t>(row) * width + column], 2);
      for (int column = 0; column < width; column++) {
        const double value = product.before[static_cast<size_t>(row) * width + column] / std::sqrt(squares / width + 1e-5) * (rows.slots[row] == 1 ? formed.kept[5] : base)[column];
        REQUIRE(std::fabs(norms[static_cast<size_t>(i) * width + column] - value) <= normed.bound(value, 1));
      }
    }
  }
}

TEST_SUITE_END();
