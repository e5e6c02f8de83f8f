import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { LorikeetError } from "../../src/core/errors.ts";
import {
  httpDefaults,
  libraryDefaults,
  resolveChoices,
  resolveSampling,
  samplingOfChoice,
  type SamplingContext,
  type SamplingParams,
} from "../../src/engine/sampling-params.ts";

const context: SamplingContext = {
  defaults: libraryDefaults,
  vocabSize: 1000,
  maxContext: 100,
  promptLength: 10,
  eosTokenIds: [1, 4],
  hasTokenizer: true,
  randomSeed: () => 42n,
};
const resolve = (params: SamplingParams, changes: Partial<SamplingContext> = {}) =>
  resolveSampling(params, { ...context, ...changes });

describe("resolveSampling", () => {
  test("fills in every default of the library", () => {
    expect(resolve({})).toEqual({
      temperature: 0,
      topK: 0,
      topP: 1,
      minP: 0,
      seed: 42n,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      logitBias: new Map(),
      maxTokens: 32,
      minTokens: 0,
      stopTokenIds: new Set([1, 4]),
      eosTokenIds: new Set([1, 4]),
      stop: [],
      includeStop: false,
      skipSpecialTokens: true,
      logprobs: null,
    });
  });

  test("over HTTP samples at temperature 1 and goes on to the end of the context", () => {
    const sampling = resolve({}, { defaults: httpDefaults });
    expect(sampling.temperature).toBe(1);
    expect(sampling.maxTokens).toBe(90);
  });

  test.each([
    [{}, 0],
    [{ temperature: 0 }, 0],
    [{ temperature: 0, topP: 0.5 }, 0],
    [{ temperature: 1e-9 }, 0],
    [{ topK: 1, temperature: 2 }, 0],
    [{ topP: 0, temperature: 2 }, 0],
    [{ minP: 0.5 }, 0],
    [{ topP: 0.9 }, 1],
    [{ topK: 50 }, 1],
    [{ temperature: 0.7 }, 0.7],
    [{ temperature: null, topK: null, topP: null }, 0],
  ] satisfies [SamplingParams, number][])("%j has temperature %p", (params, temperature) => {
    const sampling = resolve(params);
    expect(sampling.temperature).toBe(temperature);
    if (temperature === 0) expect([sampling.topK, sampling.topP, sampling.minP]).toEqual([0, 1, 0]);
  });

  test("keeps what was asked", () => {
    const sampling = resolve({
      temperature: 0.5,
      topK: 20,
      topP: 0.9,
      minP: 0.1,
      seed: -1,
      repetitionPenalty: 1.1,
      presencePenalty: -2,
      frequencyPenalty: 2,
      stop: "###",
      stopTokenIds: [7],
      maxTokens: 5,
      minTokens: 2,
      logprobs: 20,
      logitBias: { 3: -100, "999": 1.5 },
      includeStopStrInOutput: true,
      skipSpecialTokens: false,
    });
    expect(sampling).toEqual({
      temperature: 0.5,
      topK: 20,
      topP: 0.9,
      minP: 0.1,
      seed: 2n ** 64n - 1n,
      repetitionPenalty: 1.1,
      presencePenalty: -2,
      frequencyPenalty: 2,
      stop: ["###"],
      stopTokenIds: new Set([1, 4, 7]),
      eosTokenIds: new Set([1, 4]),
      maxTokens: 5,
      minTokens: 2,
      logprobs: 20,
      logitBias: new Map([
        [3, -100],
        [999, 1.5],
      ]),
      includeStop: true,
      skipSpecialTokens: false,
    });
  });

  test("ignores the model's end tokens when asked, but not the user's", () => {
    const sampling = resolve({ ignoreEos: true, stopTokenIds: [4] });
    expect(sampling.stopTokenIds).toEqual(new Set([4]));
    expect(sampling.eosTokenIds).toEqual(new Set());
  });

  test("shortens the output to the context, and refuses a prompt that fills it", () => {
    expect(resolve({ maxTokens: 5000, minTokens: 4000 })).toMatchObject({
      maxTokens: 90,
      minTokens: 90,
    });
    expect(() => resolve({}, { promptLength: 100 })).toThrow(
      expect.objectContaining({ errorCode: "context_length_exceeded", field: "prompt" }),
    );
  });

  const refused: [string, unknown, string][] = [
    ["temperature", -0.1, "temperature -0.1 must be a number between 0 and 1000000"],
    ["temperature", Number.NaN, "temperature NaN must be"],
    ["temperature", "1", "temperature 1 must be a number"],
    ["topP", 1.5, "topP 1.5 must be a number between 0 and 1"],
    ["topP", -1, "topP -1"],
    ["topK", -1, "topK -1 must be a whole number"],
    ["topK", 2.5, "topK 2.5"],
    ["minP", 2, "minP 2"],
    ["seed", 1.5, "seed 1.5 must be a whole number"],
    ["seed", "7", "seed 7"],
    ["repetitionPenalty", 0, "repetitionPenalty 0"],
    ["repetitionPenalty", Infinity, "repetitionPenalty Infinity"],
    ["presencePenalty", 2.1, "presencePenalty 2.1"],
    ["frequencyPenalty", -3, "frequencyPenalty -3"],
    ["stop", ["a", "b", "c", "d", "e"], "stop 5 strings may hold at most 4"],
    ["stop", "", "stop a string of 0 characters each needs 1 to 128"],
    ["stop", "x".repeat(129), "stop a string of 129 characters"],
    ["stop", [7], "stop 7 must be a string or a list of strings"],
    ["stop", { a: 1 }, "stop (a object) must be a string or a list"],
    ["stop", "\ud800", "whole characters"],
    ["stopTokenIds", [1000], "stopTokenIds 1000 is not a token id: those run from 0 to 999"],
    ["stopTokenIds", [-1], "stopTokenIds -1"],
    ["stopTokenIds", 5, "stopTokenIds 5 must be a list"],
    ["stopTokenIds", Array(65).fill(1), "stopTokenIds 65 ids may hold at most 64"],
    ["maxTokens", 0, "maxTokens 0 must be a whole number of at least 1"],
    ["maxTokens", 1e300, "maxTokens"],
    ["minTokens", -1, "minTokens -1"],
    ["minTokens", 33, "minTokens 33 must be at most maxTokens (32)"],
    ["n", 0, "n 0 must be a whole number from 1 to 8"],
    ["n", 9, "n 9"],
    ["bestOf", 1, "bestOf 1 is not supported; leave it out and use n"],
    ["logprobs", 21, "logprobs 21 must be a whole number from 0 to 20"],
    ["logprobs", true, "logprobs true"],
    ["logitBias", { "-1": 1 }, "logitBias -1 is not a token id"],
    ["logitBias", { "1e2": 1 }, "logitBias 1e2 is not a token id"],
    ["logitBias", { 1000: 1 }, "logitBias 1000 is not a token id"],
    ["logitBias", { 1: Infinity }, "logitBias Infinity must be a finite number for token 1"],
    ["logitBias", { 1: 1e39 }, "must be a finite number for token 1"],
    ["logitBias", { 1: "2" }, "logitBias 2 must be a finite number"],
    ["logitBias", [1], "logitBias (a list) must be an object"],
    [
      "logitBias",
      Object.fromEntries(Array.from({ length: 301 }, (_, id) => [id, 1])),
      "logitBias 301 tokens may hold at most 300",
    ],
    ["ignoreEos", "yes", "ignoreEos yes"],
    ["skipSpecialTokens", 1, "skipSpecialTokens 1 must be true or false"],
    ["includeStopStrInOutput", 0, "includeStopStrInOutput 0 must be true or false"],
  ];
  test.each(refused)("refuses %s %j with a sentence that names both", (field, value, message) => {
    const params = { [field]: value } as SamplingParams;
    expect(() => resolve(params)).toThrow(
      expect.objectContaining({
        errorCode: "invalid_request",
        field,
        message: expect.stringContaining(message),
      }),
    );
  });

  test("refuses an unknown field and names the nearest", () => {
    expect(() => resolve({ top_p: 0.5 } as SamplingParams)).toThrow(
      "top_p is not a sampling parameter; did you mean topP?",
    );
    expect(() => resolve({ maxNewTokens: 5 } as SamplingParams)).toThrow("did you mean maxTokens?");
    expect(() => resolve([] as SamplingParams)).toThrow("must be an object");
  });

  test("spells fields as the caller did", () => {
    const fieldName = (field: string) => field.replaceAll(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
    expect(() => resolve({ topP: 5 }, { fieldName })).toThrow(
      expect.objectContaining({ field: "top_p", message: expect.stringMatching(/^top_p 5 must/) }),
    );
  });

  test("refuses stop strings where there is no text to find them in", () => {
    expect(() => resolve({ stop: "a" }, { hasTokenizer: false })).toThrow(
      "needs a model with a tokenizer",
    );
  });

  test("refuses a minimum that would forbid the whole vocabulary", () => {
    const params = { minTokens: 1, stopTokenIds: [0, 1, 2] };
    expect(() => resolve(params, { vocabSize: 3, eosTokenIds: [] })).toThrow("leaves no token");
  });

  test("anything at all is either resolved within every range or refused with a typed error", () => {
    const anything = fc.record(
      {
        temperature: fc.anything(),
        topK: fc.anything(),
        topP: fc.oneof(fc.double(), fc.anything()),
        minP: fc.double(),
        seed: fc.anything(),
        stop: fc.anything(),
        stopTokenIds: fc.anything(),
        maxTokens: fc.oneof(fc.integer(), fc.anything()),
        minTokens: fc.oneof(fc.nat(40), fc.anything()),
        logprobs: fc.oneof(fc.nat(30), fc.anything()),
        logitBias: fc.anything(),
        n: fc.anything(),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(anything, (params) => {
        try {
          const sampling = resolve(params as SamplingParams);
          expect(sampling.temperature).toBeGreaterThanOrEqual(0);
          expect(sampling.topP).toBeGreaterThan(0);
          expect(sampling.topP).toBeLessThanOrEqual(1);
          expect(sampling.minTokens).toBeLessThanOrEqual(sampling.maxTokens);
          expect(sampling.maxTokens).toBeLessThanOrEqual(90);
        } catch (error) {
          expect(error).toBeInstanceOf(LorikeetError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

test("choices differ in nothing but the seed", () => {
  expect(resolveChoices({})).toBe(1);
  expect(resolveChoices({ n: 8 })).toBe(8);
  const sampling = resolve({ seed: 2n ** 64n - 1n, temperature: 1 });
  expect(samplingOfChoice(sampling, 0)).toBe(sampling);
  expect(samplingOfChoice(sampling, 2)).toEqual({ ...sampling, seed: 1n });
});
