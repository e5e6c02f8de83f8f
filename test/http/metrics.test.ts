import { describe, expect, test } from "bun:test";
import { ClientMetrics } from "../../src/http/metrics/client-metrics.ts";
import { Exposition } from "../../src/http/metrics/exposition.ts";
import { Histogram } from "../../src/http/metrics/histogram.ts";
import { RequestMetrics } from "../../src/http/metrics/request-metrics.ts";
import { FakeRuntime, saying } from "../helpers/fake-runtime.ts";
import { harness, ManualClock } from "./harness.ts";

describe("/metrics", () => {
  test("has vLLM's names with their values", async () => {
    const { post, fetch } = harness(new FakeRuntime({ script: saying("One day.") }));
    await post("/v1/completions", { model: "sql", prompt: "hi" });
    const response = await fetch("/metrics");
    expect(response.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
    const lines = (await response.text()).split("\n");
    for (const line of [
      'vllm:num_requests_running{model_name="demo",engine="0"} 0',
      'vllm:num_requests_waiting{model_name="demo",engine="0"} 0',
      'vllm:kv_cache_usage_perc{model_name="demo",engine="0"} 0.25',
      'vllm:gpu_cache_usage_perc{model_name="demo",engine="0"} 0.25',
      'vllm:prompt_tokens_total{model_name="demo",engine="0"} 3',
      'vllm:generation_tokens_total{model_name="demo",engine="0"} 8',
      'vllm:request_success_total{model_name="demo",engine="0",finished_reason="stop"} 1',
      'vllm:time_to_first_token_seconds_count{model_name="demo",engine="0"} 1',
      'vllm:inter_token_latency_seconds_count{model_name="demo",engine="0"} 4',
      'vllm:e2e_request_latency_seconds_count{model_name="demo",engine="0"} 1',
      'lorikeet_steps_total{model_name="demo",engine="0"} 3',
      'lorikeet_adapters{model_name="demo",engine="0",state="registered"} 2',
      'lorikeet_adapter_requests_total{model_name="demo",engine="0",adapter="sql"} 1',
    ]) {
      expect(lines).toContain(line);
    }
  });

  test("tells clients apart by the names of their keys: sequences, tokens, and what was refused", async () => {
    const script = saying("One day.");
    const { post, fetch } = harness(new FakeRuntime({ script, maxRequests: 4 }), { apiKeys: [{ name: "ann", key: "a" }, { name: "bob", key: "b" }], adminKeys: ["root"] });
    const as = (key: string) => ({ headers: { authorization: `Bearer ${key}` } });
    await post("/v1/completions", { model: "sql", prompt: ["hi", "you"], n: 2 }, as("a"));
    await (await post("/v1/completions", { model: "sql", prompt: "hi", stream: true }, as("b"))).text();
    expect((await post("/v1/completions", { model: "sql", prompt: ["1", "2", "3", "4", "5"] }, as("b"))).status).toBe(429);
    const lines = (await (await fetch("/metrics", as("root"))).text()).split("\n").filter((line) => line.startsWith("lorikeet_client"));
    const common = 'model_name="demo",engine="0"';
    expect(lines).toEqual([
      `lorikeet_client_requests_total{${common},client="ann"} 4`,
      `lorikeet_client_requests_total{${common},client="bob"} 1`,
      `lorikeet_client_prompt_tokens_total{${common},client="ann"} 7`,
      `lorikeet_client_prompt_tokens_total{${common},client="bob"} 3`,
      `lorikeet_client_generation_tokens_total{${common},client="ann"} 32`,
      `lorikeet_client_generation_tokens_total{${common},client="bob"} 8`,
      `lorikeet_client_refused_total{${common},client="bob",code="queue_full"} 1`,
    ]);
  });

  test("counts the clients beyond the hundred busiest together, and nobody's requests not at all", () => {
    const metrics = new ClientMetrics();
    const usage = { promptTokens: 2, completionTokens: 3 };
    for (let i = 0; i < 103; i++) metrics.see({ client: `c${i}`, usage, finishes: [null] });
    metrics.see({ client: "c102", usage, finishes: [null] });
    metrics.see({ client: "", usage, finishes: [null] });
    for (const client of ["c98", "c101", "c102"]) metrics.refuse(client, "queue_full");
    const out = new Exposition();
    metrics.write(out);
    const lines = out.text().split("\n");
    const requests = lines.filter((line) => line.startsWith("lorikeet_client_requests_total{"));
    expect(requests).toHaveLength(101);
    expect(requests[0]).toBe('lorikeet_client_requests_total{client="c102"} 2');
    expect(requests.at(-1)).toBe('lorikeet_client_requests_total{client="(others)"} 3');
    expect(lines.filter((line) => line.startsWith("lorikeet_client_refused_total{"))).toEqual([
      'lorikeet_client_refused_total{client="c102",code="queue_full"} 1',
      'lorikeet_client_refused_total{client="c98",code="queue_full"} 1',
      'lorikeet_client_refused_total{client="(others)",code="queue_full"} 1',
    ]);
  });

  test("names the adapters that run and wait now, as LoRA-aware routers read them", async () => {
    const runtime = new FakeRuntime({ script: () => undefined });
    const { post, fetch } = harness(runtime, { headersAfterMs: 1, clock: new ManualClock() });
    const info = async () => (await (await fetch("/metrics")).text()).split("\n").find((line) => line.startsWith("vllm:lora_requests_info{"));
    const labels = (running: string, waiting: string) =>
      `vllm:lora_requests_info{max_lora="4",running_lora_adapters="${running}",waiting_lora_adapters="${waiting}"} 1700000000`;
    const response = await post("/v1/completions", { model: "sql", prompt: "hi", stream: true });
    expect(await info()).toBe(labels("", "sql"));
    runtime.sequences[0]!.say("One ");
    const reader = response.body!.getReader();
    await reader.read();
    await reader.read();
    expect(await info()).toBe(labels("sql", ""));
    await reader.cancel();
    expect(await info()).toBe(labels("", ""));
  });

  test("says which adapters are resident and what moving them took, by the names that routers read", async () => {
    const runtime = new FakeRuntime({ adapters: ["sql", "fr", "cold"], states: { sql: "device", fr: "host" }, ranks: { sql: 16 } });
    const { fetch } = harness(runtime);
    const loader = { actor: "adapterLoader", adapter: "sql" } as const;
    runtime.tell({ ...loader, type: "adapter.loaded", elapsedMs: 400 });
    runtime.tell({ ...loader, type: "adapter.failed", elapsedMs: 1, error: { code: "adapter_invalid", message: "no" } });
    const allocator = { actor: "slotAllocator", adapter: "sql" } as const;
    runtime.tell({ ...allocator, type: "slot.filled", elapsedMs: 4 });
    runtime.tell({ ...allocator, type: "slot.granted", elapsedMs: 410 });
    runtime.tell({ ...allocator, type: "slot.evicted" });
    runtime.tell({ actor: "hostCache", type: "image.dropped", adapter: "fr" });
    const lines = (await (await fetch("/metrics")).text()).split("\n");
    const common = 'model_name="demo",engine="0"';
    expect(lines.filter((line) => line.startsWith("vllm:lora_adapter_loaded{"))).toEqual([
      `vllm:lora_adapter_loaded{${common},adapter_name="sql",level="gpu",pinned="false",rank="16"} 1`,
      `vllm:lora_adapter_loaded{${common},adapter_name="fr",level="cpu",pinned="false"} 1`,
    ]);
    for (const line of [
      `vllm:num_gpu_loaded_lora_adapters{${common}} 1`,
      `vllm:num_cpu_loaded_lora_adapters{${common}} 2`,
      `vllm:max_gpu_lora_adapters{${common}} 4`,
      `vllm:lora_adapter_load_seconds_sum{${common},transition="load"} 0.4`,
      `vllm:lora_adapter_load_seconds_sum{${common},transition="activate"} 0.004`,
      `lorikeet_adapter_swap_seconds_sum{${common}} 0.41`,
      `lorikeet_adapter_load_failures_total{${common},code="adapter_invalid"} 1`,
      `lorikeet_adapter_evictions_total{${common},tier="device"} 1`,
      `lorikeet_adapter_evictions_total{${common},tier="host"} 1`,
      `lorikeet_adapter_tier_bytes{${common},tier="device"} 100`,
      `lorikeet_adapter_tier_max_bytes{${common},tier="host"} 1024`,
      `lorikeet_longest_wait_seconds{${common}} 0`,
    ]) {
      expect(lines).toContain(line);
    }
  });

  test("is Prometheus' text format: each family once, its kind first, every sample of its name", async () => {
    const { post, fetch } = harness();
    await post("/v1/completions", { model: "sql", prompt: "hi" });
    const text = await (await fetch("/metrics")).text();
    const families = text.split(/^(?=# HELP )/m);
    const names = families.map((family) => {
      const [, name = "", kind = ""] = /^# HELP (\S+) .+\n# TYPE \1 (gauge|counter|histogram)\n/.exec(family) ?? [];
      const samples = family.trimEnd().split("\n").slice(2);
      const suffix = kind === "histogram" ? "(?:_bucket|_sum|_count)" : "";
      const form = new RegExp(`^${name}${suffix}(?:\\{[a-z_]+="[^"\n]*"(?:,[a-z_]+="[^"\n]*")*\\})? -?[0-9.e+-]+$`);
      expect(samples.filter((sample) => !form.test(sample))).toEqual([]);
      return name;
    });
    expect(new Set(names).size).toBe(names.length);
    expect(names.length).toBeGreaterThan(40);
  });

  test("keeps its labels bounded however many adapters there are", async () => {
    const adapters = Array.from({ length: 1_000 }, (_, i) => `a${i}`);
    const { fetch } = harness(new FakeRuntime({ adapters }));
    const lines = (await (await fetch("/metrics")).text()).split("\n");
    const labelled = lines.filter((line) => line.startsWith("lorikeet_adapter_requests_total{"));
    expect(labelled.length).toBe(101);
    expect(labelled.at(-1)).toContain('adapter="(others)"');
  });

  test("tells at most a thousand resident adapters, those on the device first", async () => {
    const adapters = Array.from({ length: 3_000 }, (_, i) => `a${i}`);
    const states = Object.fromEntries(adapters.map((name, i) => [name, i < 2_000 ? "host" : "device"] as const));
    const { fetch } = harness(new FakeRuntime({ adapters, states }));
    const resident = (await (await fetch("/metrics")).text()).split("\n").filter((line) => line.startsWith("vllm:lora_adapter_loaded{"));
    expect([resident.length, resident.every((line) => line.includes('level="gpu"'))]).toEqual([1_000, true]);
  });
});

describe("a histogram", () => {
  test("counts each value in every bucket that holds it", () => {
    const histogram = new Histogram([0.1, 1]);
    for (const value of [0.05, 0.1, 0.5, 7]) histogram.observe(value);
    expect([histogram.cumulative(), histogram.count, histogram.sum]).toEqual([[2, 3], 4, 7.65]);
  });

  test("takes a value several times", () => {
    const histogram = new Histogram([1]);
    histogram.observe(0.5, 4);
    expect([histogram.cumulative(), histogram.count, histogram.sum]).toEqual([[4], 4, 2]);
  });
});

describe("a tracked sequence", () => {
  test("times its first token, and shares the time since among those that come together", () => {
    const clock = new ManualClock();
    const metrics = new RequestMetrics(clock);
    const sequence = metrics.track();
    const token = { id: 1, logprob: 0, rank: 1, top: [] };
    clock.ms = 250;
    sequence.see({ text: "a", tokens: [token], finish: null });
    clock.ms = 550;
    sequence.see({ text: "bcd", tokens: [token, token, token], finish: null });
    expect(metrics.firstToken.sum).toBeCloseTo(0.25);
    expect([metrics.nextToken.count, metrics.nextToken.sum]).toEqual([3, expect.closeTo(0.3)]);
  });
});

describe("the text format", () => {
  test("escapes labels", () => {
    const out = new Exposition();
    out.gauge("x", "help", [{ labels: { name: 'a"b\\c\nd' }, value: 1 }]);
    expect(out.text()).toBe('# HELP x help\n# TYPE x gauge\nx{name="a\\"b\\\\c\\nd"} 1\n');
  });

  test("ends a histogram with +Inf, sum and count", () => {
    const out = new Exposition({ m: "d" });
    const histogram = new Histogram([1]);
    histogram.observe(2);
    out.histogram("t", "help", histogram);
    expect(out.text().split("\n").slice(2, -1)).toEqual(['t_bucket{m="d",le="1"} 0', 't_bucket{m="d",le="+Inf"} 1', 't_sum{m="d"} 2', 't_count{m="d"} 1']);
  });
});
