import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { deviceBudgets } from "../../src/runtime/device-budgets.ts";
import { type DeviceSizes, largestAdapterBytes, type MemoryWish, sizeMemory } from "../../src/runtime/size-memory.ts";
import { TINY, tinyProgram } from "../helpers/tiny-program.ts";

const program = tinyProgram(TINY);
const MIB = 2 ** 20;
const device: DeviceSizes = {
  pageTokens: 16,
  pageBytes: 64 * 1024,
  weightBytes: 100 * MIB,
  totalBytes: 4096 * MIB,
  defaultKvBytes: 512 * MIB,
  defaultKvShare: 0.5,
  defaultAdapterBytes: 256 * MIB,
  bytesPerAdapterNumber: 4,
};
const wish: MemoryWish = {
  kvTokens: null,
  maxSequences: 8,
  maxContext: null,
  maxRank: 64,
  maxLoras: null,
  maxCpuLoras: null,
  devicePart: null,
  deviceModuleLayers: 0,
  hostModuleLayers: 0,
  hostBytes: 10 * MIB,
};

const ADAPTER_EXTENTS = (256 * MIB) / device.pageBytes;
const contextPages = Math.ceil(program.maxContext / 16);

describe("the pool", () => {
  test("holds all sequences at full length and the default of adapters, when there is room; either may take what the other leaves", () => {
    const { numExtents, numPages, adapterBytes } = sizeMemory(program, wish, device);
    expect(numExtents).toBe(8 * contextPages + ADAPTER_EXTENTS);
    expect(numPages).toBe(numExtents);
    expect(adapterBytes).toBe((numExtents - contextPages) * device.pageBytes);
  });

  test("has half a GiB for pages when more could be filled", () => {
    const { numExtents } = sizeMemory(program, { ...wish, maxSequences: 4096 }, { ...device, pageBytes: MIB });
    expect(numExtents).toBe(512 + 256);
  });

  test("has no more pages at once than the tokens that were asked for, rounded up", () => {
    expect(sizeMemory(program, { ...wish, kvTokens: 33 }, device)).toMatchObject({ numPages: 3, numExtents: 3 + ADAPTER_EXTENTS });
  });

  test("is refused beyond the device", () => {
    expect(() => sizeMemory(program, { ...wish, kvTokens: 2_000_000 }, device)).toThrow("a KV cache of 2000000 tokens needs");
    expect(() => sizeMemory(program, wish, { ...device, weightBytes: 4096 * MIB })).toThrow(`the weights take ${4096 * MIB} bytes, and the device has ${4096 * MIB} for them`);
  });

  test("is refused where tokens and adapters that were asked for do not fit together; a default of adapters gives way", () => {
    const kvTokens = 16 * ((3996 * MIB) / device.pageBytes - 10);
    expect(() => sizeMemory(program, { ...wish, kvTokens, devicePart: 0.1 }, device)).toThrow("and adapters need");
    const sizes = sizeMemory(program, { ...wish, kvTokens }, device);
    expect(sizes.numExtents * device.pageBytes).toBe(3996 * MIB);
  });
});

test("a context longer than the model's is refused", () => {
  const maxContext = program.maxContext + 1;
  expect(() => sizeMemory(program, { ...wish, maxContext }, device)).toThrow(`max_seq_len must be at most the ${program.maxContext} positions of the model, got ${maxContext}`);
});

describe("adapter memory", () => {
  test("is a part of what the weights leave, when asked for as one", () => {
    expect(sizeMemory(program, { ...wish, devicePart: 0.5 }, device).adapterBytes).toBe(1998 * MIB);
  });

  test("holds max_loras and max_cpu_loras adapters of the largest rank", () => {
    const sizes = sizeMemory(program, { ...wish, maxLoras: 3, maxCpuLoras: 5 }, device);
    const largest = largestAdapterBytes(program, 64, 4);
    // On the device each takes whole extents.
    expect(sizes).toMatchObject({ numSlots: 3, adapterBytes: 3 * Math.ceil(largest / device.pageBytes) * device.pageBytes, hostCacheBytes: 5 * largest });
  });

  test("is counted in modules of one layer where that is said, before any other wish", () => {
    const widest = Math.max(...program.sites.map(({ inWidth, outWidth }) => inWidth + outWidth));
    const sizes = sizeMemory(program, { ...wish, maxLoras: 3, maxCpuLoras: 5, deviceModuleLayers: 100, hostModuleLayers: 200 }, device);
    expect(sizes).toMatchObject({ adapterBytes: Math.ceil((100 * widest * 4) / device.pageBytes) * device.pageBytes, hostCacheBytes: 200 * widest * 4 });
  });

  test("never takes the device beyond its end, nor the pages of the longest sequence, and is all in use where nobody said otherwise", () => {
    const count = (max: number) => fc.option(fc.integer({ min: 1, max }), { nil: null });
    fc.assert(
      fc.property(count(1000), count(2000), fc.integer({ min: 1, max: 4096 }), fc.nat(3000), fc.integer({ min: 1024, max: MIB }), (maxLoras, kvTokens, maxSequences, weightMib, pageBytes) => {
        const weightBytes = weightMib * MIB;
        const sizes = sizeMemory(program, { ...wish, maxLoras, kvTokens, maxSequences }, { ...device, pageBytes, weightBytes });
        expect(weightBytes + sizes.numExtents * pageBytes).toBeLessThanOrEqual(4096 * MIB);
        expect(sizes.numPages).toBeLessThanOrEqual(sizes.numExtents);
        // A small device may have less than one context.
        const longest = Math.min(contextPages, sizes.numPages, sizes.numExtents - sizes.adapterBytes / pageBytes);
        expect(longest).toBeGreaterThan(0);
        const budgets = deviceBudgets({ ...sizes, extentBytes: pageBytes, pageTokens: 16 }, program.maxContext, sizes.adapterBytes);
        expect(budgets).toEqual({ adapterBytes: sizes.adapterBytes, maxContext: Math.min(program.maxContext, longest * 16) });
      }),
    );
  });
});

describe("budgets of a pool", () => {
  const pool = { numExtents: 100, extentBytes: 10, numPages: 100, pageTokens: 4 };
  test.each([
    ["adapters get what the longest sequence leaves", pool, 100, null, { adapterBytes: 750, maxContext: 100 }],
    ["a limit of adapters counts whole extents", pool, 100, 301, { adapterBytes: 310, maxContext: 100 }],
    ["sequences end where adapters may begin", pool, 1000, 500, { adapterBytes: 500, maxContext: 200 }],
    ["sequences end with the most pages", { ...pool, numPages: 20 }, 1000, null, { adapterBytes: 800, maxContext: 80 }],
    ["no adapter is served where the longest sequence takes all", pool, 400, null, { adapterBytes: 0, maxContext: 400 }],
    ["a limit beyond the pool is the pool", pool, 100, 5000, { adapterBytes: 1000, maxContext: 0 }],
  ])("%s", (_, info, maxContext, adapterBytes, budgets) => {
    expect(deviceBudgets(info, maxContext, adapterBytes)).toEqual(budgets);
  });
});
