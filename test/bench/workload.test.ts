import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { arrivalTimes } from "../../src/bench/workload/arrivals.ts";
import { type DatasetRow, formatDataset, parseDataset } from "../../src/bench/workload/dataset.ts";
import { chooseAdapters, parsePopularity, POPULARITIES, punicaGroups } from "../../src/bench/workload/popularity.ts";
import { realDataset, syntheticDataset } from "../../src/bench/workload/prepare-dataset.ts";
import { Random } from "../../src/bench/workload/random.ts";
import { datasetTrace, namedTrace, WORKLOAD_NAMES, type WorkloadOptions } from "../../src/bench/workload/workloads.ts";
import { mean } from "../../src/bench/report/percentiles.ts";
import { thrownBy } from "../helpers/thrown.ts";

function deviation(values: readonly number[]): number {
  const middle = mean(values);
  return Math.sqrt(mean(values.map((value) => (value - middle) ** 2)));
}
const gapsOf = (times: readonly number[]): number[] => times.map((at, i) => at - (times[i - 1] ?? 0));

describe("draws", () => {
  test("are those of the seed, and of no other", () => {
    const draw = (seed: number): number[] => {
      const random = new Random(seed);
      return Array.from({ length: 100 }, () => random.uniform());
    };
    expect(draw(7)).toEqual(draw(7));
    expect(draw(7)).not.toEqual(draw(8));
    expect(draw(2 ** 32)).not.toEqual(draw(0));
  });

  test("have the moments of their distributions", () => {
    const random = new Random(1);
    const many = (draw: () => number): number[] => Array.from({ length: 50_000 }, draw);
    const uniform = many(() => random.uniform());
    expect(mean(uniform)).toBeCloseTo(0.5, 2);
    expect(deviation(uniform)).toBeCloseTo(Math.sqrt(1 / 12), 2);
    const normal = many(() => random.normal(3, 2));
    expect(mean(normal)).toBeCloseTo(3, 1);
    expect(deviation(normal)).toBeCloseTo(2, 1);
    for (const shape of [0.25, 1, 4]) {
      const gamma = many(() => random.gamma(shape, 2));
      expect(mean(gamma) / (2 * shape)).toBeCloseTo(1, 1);
      expect(deviation(gamma) / (2 * Math.sqrt(shape))).toBeCloseTo(1, 1);
    }
    expect(Math.min(...many(() => random.integer(3, 5)))).toBe(3);
    expect(Math.max(...many(() => random.integer(3, 5)))).toBe(5);
  });
});

describe("arrivals", () => {
  test.each([0, 0.5, 1, 4])("come at the rate, with gaps of cv %p", (cv) => {
    const gaps = gapsOf(arrivalTimes({ rate: 20, cv }, 40_000, new Random(3)));
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(0);
    expect(Math.abs(mean(gaps) / 50 - 1)).toBeLessThan(0.08);
    expect(Math.abs(deviation(gaps) / 50 - cv)).toBeLessThan(0.05 + 0.08 * cv);
  });

  test("come all at once at an infinite rate", () => {
    expect(arrivalTimes({ rate: Infinity, cv: 1 }, 3, new Random(1))).toEqual([0, 0, 0]);
  });
});

describe("popularity", () => {
  const counts = (text: string, numAdapters: number, count: number): number[] => {
    const chosen = chooseAdapters(parsePopularity(text), numAdapters, count, new Random(5));
    return Array.from({ length: numAdapters }, (_, adapter) => chosen.filter((each) => each === adapter).length);
  };

  test("never leaves the adapters, whatever its kind", () => {
    fc.assert(
      fc.property(fc.constantFrom(...POPULARITIES), fc.integer({ min: 1, max: 40 }), fc.integer({ min: 0, max: 200 }), fc.nat(), (kind, numAdapters, count, seed) => {
        const chosen = chooseAdapters({ kind, parameter: 1 }, numAdapters, count, new Random(seed));
        expect(chosen).toHaveLength(count);
        expect(chosen.every((each) => Number.isInteger(each) && each >= 0 && each < numAdapters)).toBe(true);
      }),
    );
  });

  test("power has the shares that S-LoRA's generator has over 200 adapters", () => {
    for (const [alpha, share] of [[0.1, 0.589], [0.3, 0.204], [0.6, 0.042], [1, 0.005]] as const) {
      expect(Math.abs(counts(`power:${alpha}`, 200, 20_000)[0]! / 20_000 - share)).toBeLessThan(0.01);
    }
  });

  test("zipf falls with the exponent", () => {
    const [first, second, third] = counts("zipf:1", 3, 30_000);
    expect(first! / 30_000).toBeCloseTo(6 / 11, 1);
    expect(second! / 30_000).toBeCloseTo(3 / 11, 1);
    expect(third! / 30_000).toBeCloseTo(2 / 11, 1);
  });

  test("Punica's groups are the paper's", () => {
    expect(punicaGroups("punica-skewed", 32)).toEqual([11, 7, 5, 3, 2, 2, 1, 1]);
    expect(punicaGroups("punica-skewed", 1024)[0]).toBe(291);
    expect(punicaGroups("punica-skewed", 1024)).toHaveLength(16);
    expect(punicaGroups("punica-uniform", 32)).toEqual([6, 6, 5, 5, 5, 5]);
    expect(punicaGroups("punica-identical", 32)).toEqual([32]);
    expect(counts("punica-distinct", 32, 32).every((count) => count === 1)).toBe(true);
    expect(counts("round-robin", 3, 8)).toEqual([3, 3, 2]);
  });

  test.each(["", "zip", "zipf:", "zipf:0", "zipf:x", "uniform:2", "power:1:2"])("refuses %p", (text) => {
    expect(thrownBy(() => parsePopularity(text))).toMatchObject({ errorCode: "config_invalid", field: "--popularity", message: expect.stringContaining(`got "${text}"`) });
  });
});

describe("data sets", () => {
  const anyRow: fc.Arbitrary<DatasetRow> = fc.record({
    taskId: fc.nat(),
    prompt: fc.oneof(fc.string({ minLength: 1 }), fc.array(fc.nat(), { minLength: 1, maxLength: 5 })),
    outputTokens: fc.integer({ min: 1, max: 1e6 }),
    lora: fc.option(fc.record({ name: fc.string({ minLength: 1 }), intId: fc.nat(), path: fc.string() }), { nil: null }),
  });

  test("are read as they are written", () => {
    fc.assert(fc.property(fc.array(anyRow, { minLength: 1, maxLength: 5 }), (rows) => expect(parseDataset(formatDataset(rows), "d")).toEqual(rows)));
  });

  test("take trtllm-bench's older name for ids, and nulls", () => {
    const line = '{"task_id":4,"prompt":null,"logits":[1,2],"output_tokens":3,"lora_request":null,"media_paths":null}';
    expect(parseDataset(`\n${line}\n`, "d")).toEqual([{ taskId: 4, prompt: [1, 2], outputTokens: 3, lora: null }]);
  });

  test.each([
    ["", "d has no rows"],
    ["x", "d:1 is not JSON"],
    ["[]", "d:1 must be an object"],
    ['{"output_tokens":1}', "d:1 prompt must be"],
    ['{"prompt":"a","output_tokens":0}', "d:1 output_tokens must be"],
    ['{"prompt":"a","output_tokens":1}\n{"input_ids":[-1],"output_tokens":1}', "d:2 input_ids must be"],
    ['{"prompt":"a","output_tokens":1,"task_id":"x"}', "d:1 task_id must be"],
    ['{"prompt":"a","output_tokens":1,"lora_request":{"lora_int_id":1}}', "d:1 lora_request.lora_name must be"],
    ['{"prompt":"a","output_tokens":1,"lora_request":{"lora_name":"x","lora_int_id":-1}}', "d:1 lora_request.lora_int_id must be"],
    ['{"prompt":"a","output_tokens":1,"turns":["x"]}', "d:1 turns is not served"],
  ])("%p is refused", (text, message) => {
    expect(thrownBy(() => parseDataset(text, "d"))).toMatchObject({ errorCode: "config_invalid", message: expect.stringContaining(message) });
  });

  test("synthetic ones have the lengths and adapters asked for", () => {
    const rows = syntheticDataset(
      {
        numRequests: 2_000, vocabSize: 4096,
        inputs: { kind: "normal", mean: 128, deviation: 10 }, outputs: { kind: "uniform", least: 3, most: 9 },
        adapters: { kind: "range", least: 1, most: 3, popularity: { kind: "uniform", parameter: 1 }, loraDir: "dir/" },
      },
      new Random(420),
    );
    expect(rows).toHaveLength(2_000);
    expect(Math.abs(mean(rows.map(({ prompt }) => prompt.length)) - 128.5)).toBeLessThan(1);
    expect(new Set(rows.map(({ outputTokens }) => outputTokens))).toEqual(new Set([3, 4, 5, 6, 7, 8, 9]));
    expect(new Set(rows.map(({ lora }) => lora!.path))).toEqual(new Set(["dir/1", "dir/2", "dir/3"]));
    expect(rows[5]!.lora).toEqual({ name: `lora_${rows[5]!.lora!.intId}`, intId: rows[5]!.lora!.intId, path: `dir/${rows[5]!.lora!.intId}` });
    const [ids] = rows.map(({ prompt }) => prompt as readonly number[]);
    expect(ids!.every((id) => id >= 256 && id < 4096)).toBe(true);
  });

  const real = {
    records: [{ q: "one two", a: "x" }, { q: "far too many words here", a: "y" }, { q: "three", a: "" }],
    inputKey: "q", promptKey: null, prompt: null, outputKey: "a", outputs: null, numRequests: 10, maxInputTokens: 3,
    encode: (text: string) => text.split(" ").filter((word) => word !== "").map((word) => word.length),
    adapters: { kind: "fixed", id: 2, loraDir: "d" },
  } as const;

  test("real ones keep what is short enough, with a prompt before it", () => {
    const rows = realDataset({ ...real, prompt: "Say:" }, new Random(1));
    expect(rows.map(({ prompt, outputTokens, lora }) => [prompt, outputTokens, lora!.name])).toEqual([[[4, 3, 3], 1, "lora_2"], [[4, 5], 1, "lora_2"]]);
  });

  test("real ones name a field that is not there", () => {
    expect(thrownBy(() => realDataset({ ...real, inputKey: "text" }, new Random(1)))).toMatchObject({ message: 'record 0 of --dataset-name has no text "text"; its fields are q, a' });
    expect(thrownBy(() => realDataset({ ...real, maxInputTokens: 0 }, new Random(1)))).toMatchObject({ message: expect.stringContaining("no record within --max-input-len") });
  });
});

describe("named workloads", () => {
  const options: WorkloadOptions = {
    seed: 420, numAdapters: 20, vocabSize: 4096, lengthScale: 1, rate: null, cv: null, popularity: null, durationS: null, numRequests: null,
  };

  test.each(WORKLOAD_NAMES)("%s: the same seed sends the same requests at the same times", (name) => {
    expect(namedTrace(name, options)).toEqual(namedTrace(name, options));
    expect(namedTrace(name, { ...options, seed: 421 })).not.toEqual(namedTrace(name, options));
  });

  test("a rate or more adapters leave the lengths as they are", () => {
    const lengths = (more: Partial<WorkloadOptions>) => namedTrace("s-lora-s1", { ...options, numRequests: 50, ...more }).map(({ prompt, outputTokens }) => [prompt, outputTokens]);
    expect(lengths({ rate: 9, cv: 4 })).toEqual(lengths({}));
    expect(lengths({ numAdapters: 3 })).toEqual(lengths({}));
  });

  test("S-LoRA's has its rate, duration and lengths", () => {
    const rows = namedTrace("s-lora-s2", options);
    expect(rows).toHaveLength(3_000);
    const lengths = rows.flatMap(({ prompt, outputTokens }) => [prompt.length, outputTokens]);
    expect([Math.min(...lengths), Math.max(...lengths)]).toEqual([8, 511]);
    expect(Math.abs(rows.at(-1)!.atMs / 300_000 - 1)).toBeLessThan(0.1);
    expect(new Set(rows.map(({ adapter }) => adapter)).size).toBe(20);
  });

  test("without adapters S-LoRA's asks for the base, and so does base-only with them", () => {
    for (const trace of [namedTrace("s-lora-s1", { ...options, numAdapters: 0 }), namedTrace("base-only", options)]) {
      expect(trace.every(({ adapter }) => adapter === null)).toBe(true);
    }
  });

  test("fairness has one client at ten times the rate of the other", () => {
    const rows = namedTrace("fairness", { ...options, durationS: 3_000 });
    const hog = rows.filter(({ adapter }) => adapter === 0).length;
    expect(Math.abs(hog / (rows.length - hog) - 10)).toBeLessThan(1);
    expect(thrownBy(() => namedTrace("fairness", { ...options, numAdapters: 1 }))).toMatchObject({ message: expect.stringContaining("fairness needs 2 adapters, one for each client, and there is 1") });
  });

  test("Punica's fit 2,048 positions", () => {
    const rows = namedTrace("punica-skewed", options);
    expect(rows).toHaveLength(1024);
    expect(Math.max(...rows.map(({ prompt, outputTokens }) => prompt.length + outputTokens))).toBeLessThanOrEqual(2048);
    expect(rows.every(({ atMs }) => atMs === 0)).toBe(true);
  });

  test("a data set is sent again from its start when more is asked for", () => {
    const rows = parseDataset('{"prompt":"a","output_tokens":1,"lora_request":{"lora_name":"z","lora_int_id":9}}\n{"prompt":"b","output_tokens":2}', "d");
    const trace = datasetTrace(rows, { seed: 1, rate: null, cv: null, numRequests: 3 });
    expect(trace.map(({ prompt, adapter }) => [prompt, adapter])).toEqual([["a", 0], ["b", null], ["a", 0]]);
  });
});
