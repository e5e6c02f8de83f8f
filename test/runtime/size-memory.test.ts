import { describe, expect, test } from "bun:test";
import fc from "fast-check";
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

describe("KV pages", () => {
  test("are as many as all sequences at full length can fill, when there is room", () => {
    const { numPages } = sizeMemory(program, wish, device);
    expect(numPages).toBe(8 * Math.ceil(program.maxContext / 16));
  });

  test("stay within half a GiB when more could be filled", () => {
    const { numPages } = sizeMemory(program, { ...wish, maxSequences: 4096 }, { ...device, pageBytes: MIB });
    expect(numPages).toBe(512);
  });

  test("hold the tokens that were asked for, rounded up to pages", () => {
    expect(sizeMemory(program, { ...wish, kvTokens: 33 }, device).numPages).toBe(3);
  });

  test("are refused beyond the device", () => {
    expect(() => sizeMemory(program, { ...wish, kvTokens: 2_000_000 }, device)).toThrow("a KV cache of 2000000 tokens needs");
    expect(() => sizeMemory(program, wish, { ...device, weightBytes: 4096 * MIB })).toThrow(`the weights take ${4096 * MIB} bytes, and the device has ${4096 * MIB} for them`);
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
    expect(sizes).toMatchObject({ numSlots: 3, adapterBytes: 3 * largest, hostCacheBytes: 5 * largest });
  });

  test("is counted in modules of one layer where that is said, before any other wish", () => {
    const widest = Math.max(...program.sites.map(({ inWidth, outWidth }) => inWidth + outWidth));
    const sizes = sizeMemory(program, { ...wish, maxLoras: 3, maxCpuLoras: 5, deviceModuleLayers: 100, hostModuleLayers: 200 }, device);
    expect(sizes).toMatchObject({ adapterBytes: 100 * widest * 4, hostCacheBytes: 200 * widest * 4 });
  });

  test("never takes the device beyond its end", () => {
    const count = (max: number) => fc.option(fc.integer({ min: 1, max }), { nil: null });
    fc.assert(
      fc.property(count(1000), fc.integer({ min: 1, max: 4096 }), fc.nat(3000), fc.integer({ min: 1024, max: MIB }), (maxLoras, maxSequences, weightMib, pageBytes) => {
        const weightBytes = weightMib * MIB;
        const sizes = sizeMemory(program, { ...wish, maxLoras, maxSequences }, { ...device, pageBytes, weightBytes });
        expect(weightBytes + sizes.adapterBytes + sizes.numPages * pageBytes).toBeLessThanOrEqual(4096 * MIB);
      }),
    );
  });
});
