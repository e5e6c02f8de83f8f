import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { chooseBackend } from "../../src/backend/choose-backend.ts";
import type { CudaAddon, CudaDevice, CudaProbe } from "../../src/backend/cuda/addon.ts";
import { PAGE_TOKENS as CUDA_PAGE_TOKENS } from "../../src/backend/cuda/layout.ts";
import { PAGE_TOKENS as WASM_PAGE_TOKENS } from "../../src/backend/wasm/layout.ts";
import { ModelError, NativeError } from "../../src/core/errors.ts";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { readModelConfig } from "../../src/model/model-config.ts";
import { REPOSITORY } from "../helpers/repository.ts";
import { thrownBy } from "../helpers/thrown.ts";
import { expertProgram, MIXTRAL } from "../helpers/expert-programs.ts";
import { TINY, tinyProgram } from "../helpers/tiny-program.ts";

const GIB = 2 ** 30;
const device = (index: number): CudaDevice => ({ index, name: "a device", major: 9, minor: 0, totalBytes: 80 * GIB, freeBytes: 79 * GIB });

/** An addon whose engine must not be opened. */
const addonWith = (probe: Partial<CudaProbe>) => (): CudaAddon =>
  ({ abiVersion: 1, probe: () => ({ devices: [], code: "", reason: "", ...probe }) }) as unknown as CudaAddon;

const withDevice = addonWith({ devices: [device(0), device(1)] });
const withoutDriver = addonWith({ code: "no_driver", reason: "no NVIDIA driver is installed" });
const notBuilt = (): CudaAddon => {
  throw new NativeError("backend_unavailable", "the CUDA addon is not built", { field: "backend" });
};
const broken = (): CudaAddon => {
  throw new TypeError("a bug");
};

/** Which one was taken, by what its memory is like. */
const pageTokens = (chosen: ReturnType<typeof chooseBackend>) => chosen.device.pageTokens;

describe("auto", () => {
  test("takes a device that answers", () => {
    const chosen = chooseBackend("auto", withDevice);
    expect([chosen.reason, pageTokens(chosen)]).toEqual(["a device answers", CUDA_PAGE_TOKENS]);
  });

  test.each([
    ["no NVIDIA driver is installed", withoutDriver],
    ["the CUDA addon is not built", notBuilt],
  ])("takes WebAssembly where there is none, and says why: %s", (reason, load) => {
    const chosen = chooseBackend("auto", load);
    expect([chosen.reason, pageTokens(chosen)]).toEqual([reason, WASM_PAGE_TOKENS]);
  });

  test("hides no bug", () => {
    expect(() => chooseBackend("auto", broken)).toThrow(TypeError);
  });

  test("holds for the addon as it is here", () => {
    const chosen = chooseBackend("auto");
    expect(chosen.reason.length).toBeGreaterThan(0);
    expect([CUDA_PAGE_TOKENS, WASM_PAGE_TOKENS] as number[]).toContain(pageTokens(chosen));
  });
});

describe("a model", () => {
  const plain = tinyProgram(TINY);

  test("with experts is for a device", () => {
    const chosen = chooseBackend("auto", withDevice);
    expect(chosen.forProgram(expertProgram(MIXTRAL))).toBe(chosen);
    expect(chosen.name).toBe("cuda");
  });

  const unserved = [
    ["head_dim must be at most 512 on a CUDA device, got 1024", { ...plain, attention: { ...plain.attention, headDim: 1024 } }],
  ] as const;

  test.each(unserved)("that has no kernels on a device is left to WebAssembly by auto, which says why: %s", (reason, program) => {
    const chosen = chooseBackend("auto", withDevice).forProgram(program);
    expect([chosen.name, chosen.reason, pageTokens(chosen)]).toEqual(["wasm", reason, WASM_PAGE_TOKENS]);
    expect(chosen.forProgram(program)).toBe(chosen);
  });

  test.each(unserved)("is refused before anything is opened where the device was asked for: %s", (reason, program) => {
    const thrown = thrownBy(() => chooseBackend("cuda", withDevice).forProgram(program));
    expect(thrown).toBeInstanceOf(ModelError);
    expect(thrown).toMatchObject({ errorCode: "model_unsupported", message: `${reason}; use --backend wasm` });
  });

  test("that a device serves stays there", () => {
    for (const wanted of ["auto", "cuda"] as const) expect(chooseBackend(wanted, withDevice).forProgram(plain).name).toBe("cuda");
  });
});

describe("cuda", () => {
  test("is taken where a device answers", () => {
    const chosen = chooseBackend("cuda", withDevice);
    expect([chosen.reason, pageTokens(chosen)]).toEqual(["as asked", CUDA_PAGE_TOKENS]);
  });

  test.each([
    ["no NVIDIA driver is installed; use --backend wasm, or auto", withoutDriver],
    ["the CUDA addon is not built; use --backend wasm, or auto", notBuilt],
  ])("is refused where there is none: %s", (message, load) => {
    const thrown = thrownBy(() => chooseBackend("cuda", load));
    expect(thrown).toBeInstanceOf(NativeError);
    expect(thrown).toMatchObject({ errorCode: "backend_unavailable", field: "backend", message });
  });
});

describe("wasm", () => {
  test("never looks for a device", () => {
    const chosen = chooseBackend("wasm", broken);
    expect([chosen.reason, pageTokens(chosen)]).toEqual(["as asked", WASM_PAGE_TOKENS]);
  });
});

test("a step is as large as suits who computes it, where nobody said how large", () => {
  const llama = buildDecoderProgram(readModelConfig(join(REPOSITORY, "bench/shapes/llama-3.1-8b")));
  const sizes = ({ device: memory }: ReturnType<typeof chooseBackend>) => [memory.defaultSequences, memory.defaultRows(llama, "bfloat16")];
  const onDeviceOf = (gib: number) => sizes(chooseBackend("cuda", addonWith({ devices: [{ ...device(0), freeBytes: gib * GIB }] })));
  expect(sizes(chooseBackend("wasm"))).toEqual([64, 512]);
  expect([80, 40, 24, 20, 17, 8].map(onDeviceOf)).toEqual([[256, 8192], [256, 8192], [256, 4096], [256, 2048], [256, 512], [256, 512]]);
});

describe("memory of a device", () => {
  const program = tinyProgram(TINY);

  test("is what is free, less what steps take", () => {
    const { device: memory } = chooseBackend("cuda", withDevice);
    const small = memory.totalBytes(program, 256, 64);
    expect(small).toBeLessThan(79 * GIB);
    expect(small).toBeGreaterThan(70 * GIB);
    expect(memory.totalBytes(program, 65536, 64)).toBeLessThan(small);
  });

  test("has rows of experts in it, one for each that a row is given", () => {
    const { device: memory } = chooseBackend("cuda", withDevice);
    const takenWith = (topK: number): number => {
      const experts = expertProgram({ ...MIXTRAL, num_local_experts: 8, num_experts_per_tok: topK });
      return memory.totalBytes(experts, 512, 64) - memory.totalBytes(experts, 1024, 64);
    };
    const widths = expertProgram(MIXTRAL).buffers.reduce((sum, { width, rows }) => sum + (rows === "routed" ? width : 0), 0);
    expect(takenWith(8) - takenWith(2)).toBeGreaterThan(512 * 6 * widths * 2);
  });

  test("is never below nothing", () => {
    const tiny = addonWith({ devices: [{ ...device(0), freeBytes: 1000 }] });
    expect(chooseBackend("cuda", tiny).device.totalBytes(program, 8192, 256)).toBe(0);
  });

  test("holds keys and values of every layer in bfloat16", () => {
    const { device: memory } = chooseBackend("cuda", withDevice);
    const { layers, kvHeads, headDim } = TINY;
    expect(memory.pageBytes(program)).toBe(layers * 2 * kvHeads * headDim * CUDA_PAGE_TOKENS * 2);
  });
});
