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
