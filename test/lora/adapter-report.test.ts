import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { describeReport, reportOn } from "../../src/lora/adapter-report.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { routerSites } from "../../src/model/program.ts";
import { changedAdapter, fixtureAdapter, fixtureProgram } from "../helpers/adapter-files.ts";
import { expertProgram, MIXTRAL } from "../helpers/expert-programs.ts";
import { randomAdapter } from "../helpers/tiny-program.ts";

const llama = fixtureProgram("base_llama");
const reportOf = async (path: string) => (await readAdapter(path, llama)).report;

describe("a load report", () => {
  test("says which modules are changed, by how much, and in which numbers", async () => {
    expect(await reportOf(fixtureAdapter("patterns"))).toEqual({
      format: "peft",
      numModules: 14,
      modules: [
        { name: "q_proj", numModules: 2, minRank: 8, maxRank: 8, minScale: 4, maxScale: 4 },
        { name: "k_proj", numModules: 2, minRank: 4, maxRank: 4, minScale: 2, maxScale: 2 },
        { name: "v_proj", numModules: 2, minRank: 4, maxRank: 4, minScale: 2, maxScale: 2 },
        { name: "o_proj", numModules: 2, minRank: 4, maxRank: 4, minScale: 2, maxScale: 2 },
        { name: "gate_proj", numModules: 2, minRank: 4, maxRank: 4, minScale: 2, maxScale: 2 },
        { name: "up_proj", numModules: 2, minRank: 4, maxRank: 4, minScale: 0.25, maxScale: 2 },
        { name: "down_proj", numModules: 2, minRank: 2, maxRank: 4, minScale: 2, maxScale: 4 },
      ],
      minRank: 2,
      maxRank: 8,
      scaleRule: "alpha/rank",
      dtypes: ["F32"],
      numBytes: 16_256,
      warnings: [],
    });
  });

  test("names every format of numbers, once", async () => {
    const directory = changedAdapter("attn_r8", {
      tensors: (tensors) => {
        const [first] = tensors.values();
        first!.bytes = new Uint8Array(first!.bytes.length / 2);
        first!.dtype = "BF16";
      },
    });
    expect((await reportOf(directory)).dtypes).toEqual(["BF16", "F32"]);
  });

  test("tells what a device rounds, and nothing where it keeps all", async () => {
    const adapter = await readAdapter(fixtureAdapter("attn_r8"), llama);
    const device = { keeps: ["BF16"] as const, roundsTo: "bfloat16" };
    expect(reportOn(adapter, llama, device).warnings).toEqual(["matrices in F32 are rounded to bfloat16 on this device"]);
    expect(reportOn(adapter, llama, { ...device, keeps: ["F32"] })).toEqual(adapter.report);
  });

  test("tells of no rounding where only routers and vectors have more digits", () => {
    const program = expertProgram({ num_hidden_layers: 1, ...MIXTRAL });
    const device = { keeps: ["BF16"] as const, roundsTo: "bfloat16" };
    const exact = randomAdapter(program, 1, { ranks: [2], dtype: "F32", form: "modules_to_save", replaced: 1 });
    const plain = randomAdapter(program, 2, { ranks: [2], dtype: "BF16" });
    const routers = routerSites(program);
    const [small, large] = [true, false].map((isSmall) => exact.replacements!.filter(({ site, values }) => isSmall === (routers.has(site) || values.cols === 1)));
    expect([small!.length, routers.size]).toEqual([4, 1]);
    const report = { ...plain.report, dtypes: ["BF16", "F32"] as const };
    expect(reportOn({ ...plain, report, replacements: small! }, program, device)).toEqual(report);
    expect(reportOn({ ...plain, report, replacements: large! }, program, device).warnings).toEqual(["matrices in F32 are rounded to bfloat16 on this device"]);
  });

  test("reads well", async () => {
    expect(describeReport(await reportOf(join(fixtureAdapter("nemo"), "megatron_alpha.nemo")))).toEqual([
      ["format", "NeMo"],
      ["modules", "2: qkv_proj in 2"],
      ["rank", "4"],
      ["scale", "2 (alpha/rank)"],
      ["numbers", "BF16, 1536 bytes"],
    ]);
    const unknown = changedAdapter("attn_r8", { config: (config) => void (config["sparkle"] = 3) });
    expect(describeReport(await reportOf(unknown))).toEqual([
      ["format", "PEFT"],
      ["modules", "6: q_proj in 2, k_proj in 2, v_proj in 2"],
      ["rank", "8"],
      ["scale", "2 (alpha/rank)"],
      ["numbers", expect.stringMatching(/^F32, \d+ bytes$/)],
      ["note", 'adapter_config.json has the unknown field "sparkle", which was ignored'],
    ]);
  });
});
