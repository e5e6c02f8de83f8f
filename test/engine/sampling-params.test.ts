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
    ["temperature", -0.1, "temperature must be a number from 0 to 1000000, got -0.1"],
    ["temperature", Number.NaN, "got NaN"],
    ["temperature", "hot", 'temperature must be a number from 0 to 1000000, got "hot"'],
    ["topP", 1.5, "topP must be a number from 0 to 1, got 1.5"],
    ["topP", -1, "got -1"],
    ["topK", -1, "topK must be a whole number from 0 to 2147483647, got -1"],
    ["topK", 2.5, "got 2.5"],
    ["minP", 2, "minP must be a number from 0 to 1, got 2"],
    ["seed", 1.5, "seed must be a whole number, got 1.5"],
    ["seed", "7", 'seed must be a whole number, got "7"'],
    ["repetitionPenalty", 0, "repetitionPenalty must be a number from 0.01 to 100, got 0"],
    ["repetitionPenalty", Infinity, "got Infinity"],
    ["presencePenalty", 2.1, "presencePenalty must be a number from -2 to 2, got 2.1"],
    ["frequencyPenalty", -3, "frequencyPenalty must be a number from -2 to 2, got -3"],
    ["stop", ["a", "b", "c", "d", "e"], "stop must be at most 4 strings, got 5"],
    ["stop", "", 'stop must be strings of 1 to 128 characters, got ""'],
    ["stop", "x".repeat(129), `got "${"x".repeat(40)}"...`],
    ["stop", [7], "stop must be a string or a list of strings of whole characters, got 7"],
    ["stop", { a: 1 }, "stop must be a string or a list of strings, got an object"],
    ["stop", "\ud800", "whole characters"],
    ["stopTokenIds", [1000], "stopTokenIds must be token ids from 0 to 999, got 1000"],
    ["stopTokenIds", [-1], "got -1"],
    ["stopTokenIds", 5, "stopTokenIds must be a list of token ids, got 5"],
    ["stopTokenIds", Array(65).fill(1), "stopTokenIds must be at most 64 token ids, got 65"],
    ["maxTokens", 0, "maxTokens must be a whole number of at least 1, got 0"],
    ["maxTokens", 1e300, "maxTokens"],
    ["minTokens", -1, "minTokens must be a whole number of at least 0, got -1"],
    ["minTokens", 33, "minTokens must be at most maxTokens (32), got 33"],
    ["n", 0, "n must be a whole number from 1 to 8, got 0"],
    ["n", 9, "got 9"],
    ["bestOf", 9, "bestOf must be a whole number from 1 to 8, got 9"],
    ["bestOf", 2, "bestOf must be left out with greedy sampling"],
    ["logprobs", 21, "logprobs must be a whole number from 0 to 20, got 21"],
    ["logprobs", true, "got true"],
    ["logitBias", { "-1": 1 }, 'logitBias must be token ids from 0 to 999, got "-1"'],
    ["logitBias", { "1e2": 1 }, 'got "1e2"'],
    ["logitBias", { 1000: 1 }, "got 1000"],
    ["logitBias", { 1: Infinity }, "logitBias must be a finite number for token 1, got Infinity"],
    ["logitBias", { 1: 1e39 }, "must be a finite number for token 1"],
    ["logitBias", { 1: "2" }, 'got "2"'],
    ["logitBias", [1], "logitBias must be an object from token id to number, got a list"],
    [
      "logitBias",
      Object.fromEntries(Array.from({ length: 301 }, (_, id) => [id, 1])),
      "logitBias must be for at most 300 tokens, got 301",
    ],
    ["ignoreEos", "yes", 'ignoreEos must be true or false, got "yes"'],
    ["skipSpecialTokens", 1, "skipSpecialTokens must be true or false, got 1"],
    ["includeStopStrInOutput", 0, "includeStopStrInOutput must be true or false, got 0"],
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
      "top_p is not a sampling parameter (did you mean topP?)",
    );
    expect(() => resolve({ maxNewTokens: 5 } as SamplingParams)).toThrow("did you mean maxTokens?");
    expect(() => resolve([] as SamplingParams)).toThrow("must be an object");
  });

  test("spells fields as the caller did", () => {
    const fieldName = (field: string) => field.replaceAll(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
    expect(() => resolve({ topP: 5 }, { fieldName })).toThrow(
      expect.objectContaining({ field: "top_p", message: expect.stringMatching(/^top_p must be .*, got 5$/) }),
    );
  });

  test("refuses stop strings where there is no text to find them in", () => {
    expect(() => resolve({ stop: "a" }, { hasTokenizer: false })).toThrow(
      "needs a model with a tokenizer",
    );
  });

  test("refuses a minimum that would forbid the whole vocabulary", () => {
    const params = { minTokens: 1, stopTokenIds: [0, 1, 2] };
    expect(() => resolve(params, { vocabSize: 3, eosTokenIds: [] })).toThrow("minTokens must be 0 where every token is a stop token, got 1");
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
  expect(resolveChoices({})).toEqual({ numWanted: 1, numGenerated: 1 });
  expect(resolveChoices({ n: 8 })).toEqual({ numWanted: 8, numGenerated: 8 });
  expect(resolveChoices({ n: 2, bestOf: 5 })).toEqual({ numWanted: 2, numGenerated: 5 });
  expect(() => resolveChoices({ n: 3, bestOf: 2 })).toThrow("bestOf must be at least n (3), got 2");
  const sampling = resolve({ seed: 2n ** 64n - 1n, temperature: 1 });
  expect(samplingOfChoice(sampling, 0)).toBe(sampling);
  expect(samplingOfChoice(sampling, 2)).toEqual({ ...sampling, seed: 1n });
});
