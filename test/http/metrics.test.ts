import { describe, expect, test } from "bun:test";
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
      'vllm:num_requests_running{model_name="demo"} 0',
      'vllm:num_requests_waiting{model_name="demo"} 0',
      'vllm:kv_cache_usage_perc{model_name="demo"} 0.25',
      'vllm:gpu_cache_usage_perc{model_name="demo"} 0.25',
      'vllm:prompt_tokens_total{model_name="demo"} 3',
      'vllm:generation_tokens_total{model_name="demo"} 8',
      'vllm:request_success_total{model_name="demo",finished_reason="stop"} 1',
      'vllm:time_to_first_token_seconds_count{model_name="demo"} 1',
      'vllm:inter_token_latency_seconds_count{model_name="demo"} 4',
      'vllm:e2e_request_latency_seconds_count{model_name="demo"} 1',
      'lorikeet_steps_total{model_name="demo"} 3',
      'lorikeet_adapters{model_name="demo",state="registered"} 2',
      'lorikeet_adapter_requests_total{model_name="demo",adapter="sql"} 1',
    ]) {
      expect(lines).toContain(line);
    }
  });

  test("names the adapters that run and wait now, as LoRA-aware routers read them", async () => {
    const runtime = new FakeRuntime({ script: () => undefined });
    const { post, fetch } = harness(runtime, { headersAfterMs: 1, clock: new ManualClock() });
    const info = async () => (await (await fetch("/metrics")).text()).split("\n").find((line) => line.startsWith("vllm:lora_requests_info{"));
    const labels = (running: string, waiting: string) =>
      `vllm:lora_requests_info{model_name="demo",max_lora="4",running_lora_adapters="${running}",waiting_lora_adapters="${waiting}"} 1700000000`;
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

  test("keeps its labels bounded however many adapters there are", async () => {
    const adapters = Array.from({ length: 1_000 }, (_, i) => `a${i}`);
    const { fetch } = harness(new FakeRuntime({ adapters }));
    const lines = (await (await fetch("/metrics")).text()).split("\n");
    const labelled = lines.filter((line) => line.startsWith("lorikeet_adapter_requests_total{"));
    expect(labelled.length).toBe(101);
    expect(labelled.at(-1)).toContain('adapter="(others)"');
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
    const sequence = metrics.track("sql");
    const token = { id: 1, logprob: 0, rank: 1, top: [] };
    clock.ms = 250;
    sequence.see({ text: "a", tokens: [token], finish: null });
    clock.ms = 550;
    sequence.see({ text: "bcd", tokens: [token, token, token], finish: null });
    sequence.end();
    expect(metrics.firstToken.sum).toBeCloseTo(0.25);
    expect([metrics.nextToken.count, metrics.nextToken.sum]).toEqual([3, expect.closeTo(0.3)]);
    expect([metrics.running.size, metrics.waiting.size]).toEqual([0, 0]);
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
