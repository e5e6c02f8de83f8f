import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Report } from "../../src/bench/report/report.ts";
import { WORKLOAD_NAMES } from "../../src/bench/workload/workloads.ts";
import { REPOSITORY } from "../helpers/repository.ts";

const folder = mkdtempSync(join(tmpdir(), "lorikeet-standing-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("the standing set runs in its short form, and its reports parse", async () => {
  const child = Bun.spawn([process.execPath, "bench/workloads/standing.ts", "--form", "short", "--json", join(folder, "standing-demo.json")], { cwd: REPOSITORY, stdout: "ignore", stderr: "pipe" });
  const [code, errors] = await Promise.all([child.exited, child.stderr.text()]);
  expect({ code, errors: code === 0 ? "" : errors }).toEqual({ code: 0, errors: "" });
  const { results } = (JSON.parse(readFileSync(join(folder, "standing-demo.json"), "utf8")) as { results: { results: Record<string, Report> } }).results;
  expect(Object.keys(results)).toEqual(expect.arrayContaining(["throughput", "latency", ...WORKLOAD_NAMES]));
  for (const report of Object.values(results)) {
    expect(report.request_info.num_requests).toBeGreaterThan(0);
    expect(report.request_info.num_failed).toBe(0);
    expect(report.performance.system_output_throughput_tok_s).toBeGreaterThan(0);
    expect(report.adapter_cache).not.toBeNull();
  }
  expect(results["base-only"]!.adapters.map(({ name }) => name)).toEqual([null]);
  expect(results["punica-identical"]!.adapters).toHaveLength(1);
  expect(results["churn"]!.adapters).toHaveLength(4);
  expect(readFileSync(join(folder, "standing-demo.svg"), "utf8")).toStartWith("<svg");
}, 60_000);

test("two clients are measured with keys and without, on adapters of their own and on one", async () => {
  const path = join(folder, "fairness.json");
  const child = Bun.spawn([process.execPath, "bench/workloads/fairness.ts", "--requests", "66", "--scale", "0.02", "--json", path], { cwd: REPOSITORY, stdout: "ignore", stderr: "pipe" });
  const [code, errors] = await Promise.all([child.exited, child.stderr.text()]);
  expect({ code, errors: code === 0 ? "" : errors }).toEqual({ code: 0, errors: "" });
  const { results } = (JSON.parse(readFileSync(path, "utf8")) as { results: { results: Record<string, Report> } }).results;
  expect(Object.values(results).map(({ fairness }) => fairness!.adapters)).toEqual([["sql", "pirate"], ["sql", "sql"], ["sql", "sql"]]);
  for (const { fairness, request_info: requests } of Object.values(results)) {
    expect(requests).toMatchObject({ num_requests: 66, num_failed: 0 });
    expect(Math.min(...fairness!.service)).toBeGreaterThan(0);
  }
}, 60_000);

test("rows with a grammar are measured beside rows without", async () => {
  const path = join(folder, "grammar.json");
  const child = Bun.spawn([process.execPath, "bench/serving/grammar.ts", "--rows", "2", "--tokens", "8", "--repeats", "1", "--json", path], { cwd: REPOSITORY, stdout: "ignore", stderr: "pipe" });
  const [code, errors] = await Promise.all([child.exited, child.stderr.text()]);
  expect({ code, errors: code === 0 ? "" : errors }).toEqual({ code: 0, errors: "" });
  const { results } = (JSON.parse(readFileSync(path, "utf8")) as { results: { results: Record<string, { gapMs: Record<string, { median: number }> }> } }).results;
  expect(Object.entries(results).map(([name, { gapMs }]) => [name, Object.keys(gapMs)])).toEqual([
    ["plain alone", ["plain"]], ["plain beside plain", ["plain"]], ["plain beside JSON", ["plain", "JSON"]], ["JSON alone", ["JSON"]],
  ]);
  for (const { gapMs } of Object.values(results)) for (const { median } of Object.values(gapMs)) expect(median).toBeGreaterThan(0);
}, 60_000);
