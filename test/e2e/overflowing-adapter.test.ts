/** An adapter whose numbers are finite and whose products are not: it ends its own requests, and touches no others. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import type { AdapterId } from "../../src/core/ids.ts";
import { type Opened, openRuntime } from "../../src/runtime/open-runtime.ts";
import { changedAdapter, fixtureAdapter } from "../helpers/adapter-files.ts";
import { collect, requestWith } from "../helpers/runtime.ts";
import { samplingWith } from "../helpers/sampling.ts";

const huge = changedAdapter("attn_r8", {
  tensors: (tensors) => {
    for (const { bytes } of tensors.values()) new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4).fill(3e38);
  },
});

let opened: Opened;
let overflowing: AdapterId;
let healthy: AdapterId;
beforeAll(async () => {
  const loraConfig = { loraDir: [`huge=${huge}`, `good=${fixtureAdapter("rslora")}`] };
  opened = await openRuntime(resolveConfig(givenOptions({ model: fixtureAdapter("base_llama"), backend: "wasm", threads: 2, dtype: "float32", loraConfig })).config);
  overflowing = await opened.runtime.resolveAdapter({ name: "huge" });
  healthy = await opened.runtime.resolveAdapter({ name: "good" });
});
afterAll(() => opened.runtime.close(0));

const sampling = samplingWith({ maxTokens: 12, logprobs: 5 });
const ask = (prompt: readonly number[], adapter: AdapterId | null) => collect(opened.runtime.generate(requestWith(prompt, { adapter, sampling })));
/** Tokens and log-probabilities, which are compared to the bit. */
const answers = (list: readonly Awaited<ReturnType<typeof ask>>[]) => list.map(({ events }) => events.flatMap(({ tokens }) => tokens));

describe("an adapter that overflows", () => {
  const prompts = Array.from({ length: 16 }, (_, i) => [i + 1, (i * 7) % 30, 5, 9]);
  const neighbours = () => prompts.map((prompt, i) => ask(prompt, i % 2 === 0 ? healthy : null));

  test("is loaded, since its numbers are finite, and ends its own requests with an error", async () => {
    const { finish } = await ask([1, 2, 3], overflowing);
    expect(finish).toMatchObject({ reason: "error", error: { errorCode: "non_finite_logits" } });
  });

  test("its neighbours' answers are the same to the bit", async () => {
    const alone = answers(await Promise.all(neighbours()));
    const [beside, bad] = await Promise.all([Promise.all(neighbours()), Promise.all(prompts.map((prompt) => ask(prompt, overflowing)))]);
    expect(bad.map(({ finish }) => finish.error?.errorCode)).toEqual(prompts.map(() => "non_finite_logits"));
    expect(answers(beside)).toEqual(alone);
    // Pages that held what was not finite serve others.
    expect(answers(await Promise.all(neighbours()))).toEqual(alone);
    expect(opened.runtime.failure).toBeNull();
    expect(opened.runtime.stats()).toMatchObject({ runningRequests: 0, usedPages: 0 });
  });

  test("it is shut out then, and its neighbours are not", async () => {
    expect(() => opened.runtime.generate(requestWith([1, 2, 3], { adapter: overflowing }))).toThrow("adapter huge is served no longer");
    expect(opened.runtime.adapters()).toMatchObject([{ name: "huge", state: "failed", lastError: expect.stringContaining("not a finite number") }, { name: "good", state: "device" }]);
    expect((await ask([1, 2, 3], healthy)).finish.reason).toBe("length");
  });
});
