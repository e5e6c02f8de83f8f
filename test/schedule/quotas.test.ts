import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { CapacityError } from "../../src/core/errors.ts";
import { checkQuota, closeRequest, createQuotas, openRequest, type Quota } from "../../src/schedule/quotas.ts";

const quotaWith = (changes: Partial<Quota>): Quota => ({ maxRequests: null, requestsPerMinute: null, tokensPerMinute: null, ...changes });
const quotasWith = (changes: Partial<Quota>) => createQuotas(new Map([["a", quotaWith(changes)]]), 0);

function refusal(quotas: ReturnType<typeof quotasWith>, nowMs: number): CapacityError | undefined {
  try {
    checkQuota(quotas, "a", nowMs);
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(CapacityError);
    return thrown as CapacityError;
  }
  return undefined;
}

describe("a quota", () => {
  test("of requests at once counts those that wait or run", () => {
    const quotas = quotasWith({ maxRequests: 2 });
    for (let i = 0; i < 2; i++) {
      checkQuota(quotas, "a", 0);
      openRequest(quotas, "a", 5);
    }
    expect(refusal(quotas, 0)).toMatchObject({
      errorCode: "rate_limit_exceeded",
      message: "the API key a has used up its quota of 2 requests at once; try again in 1 s",
      details: { tenant: "a", limit: 2, retryAfterS: 1 },
    });
    closeRequest(quotas, "a", { promptTokens: 5, completionTokens: 1 }, true, 0);
    expect(refusal(quotas, 0)).toBeUndefined();
  });

  test("of requests a minute lets a minute's worth in at once, and then says when the next may come", () => {
    const quotas = quotasWith({ requestsPerMinute: 6 });
    for (let i = 0; i < 6; i++) {
      expect(refusal(quotas, 0)).toBeUndefined();
      openRequest(quotas, "a", 1);
    }
    expect(refusal(quotas, 0)?.details).toMatchObject({ limit: 6, retryAfterS: 10 });
    expect(refusal(quotas, 3_000)?.details).toMatchObject({ retryAfterS: 7 });
    expect(refusal(quotas, 9_999)?.details).toMatchObject({ retryAfterS: 1 });
    expect(refusal(quotas, 10_000)).toBeUndefined();
  });

  test("of tokens a minute takes a prompt of any length, and what it came to is waited for afterwards", () => {
    const quotas = quotasWith({ tokensPerMinute: 60 });
    openRequest(quotas, "a", 100);
    closeRequest(quotas, "a", { promptTokens: 100, completionTokens: 20 }, true, 0);
    // 60 - 120 tokens, at one a second until there is one again.
    expect(refusal(quotas, 0)?.message).toBe("the API key a has used up its quota of 60 tokens per minute; try again in 61 s");
    expect(refusal(quotas, 60_000)?.details).toMatchObject({ retryAfterS: 1 });
    expect(refusal(quotas, 61_000)).toBeUndefined();
  });

  test("is paid back for what never ran", () => {
    const quotas = quotasWith({ requestsPerMinute: 1, tokensPerMinute: 10, maxRequests: 1 });
    openRequest(quotas, "a", 500);
    expect(refusal(quotas, 0)).toBeDefined();
    closeRequest(quotas, "a", { promptTokens: 500, completionTokens: 0 }, false, 0);
    expect(refusal(quotas, 0)).toBeUndefined();
  });

  test("is one tenant's own, and nobody else has any", () => {
    const quotas = quotasWith({ requestsPerMinute: 1 });
    openRequest(quotas, "a", 1);
    for (let i = 0; i < 100; i++) {
      checkQuota(quotas, "b", 0);
      openRequest(quotas, "b", 1_000_000);
    }
    expect(refusal(quotas, 0)).toBeDefined();
  });

  test("keeps to its rates over any time, and whoever waits as long as told is let in", () => {
    const request = fc.record({ afterMs: fc.nat(20_000), prompt: fc.integer({ min: 1, max: 300 }), output: fc.nat(300), lastsMs: fc.nat(30_000) });
    fc.assert(
      fc.property(fc.array(request, { maxLength: 120 }), fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 2000 }), fc.boolean(), (asked, requestsPerMinute, tokensPerMinute, isPatient) => {
        const quotas = quotasWith({ requestsPerMinute, tokensPerMinute });
        const open: { readonly endsMs: number; readonly prompt: number; readonly output: number }[] = [];
        let nowMs = 0;
        let numRequests = 0;
        let numTokens = 0;
        let running = 0;
        const moveTo = (ms: number) => {
          open.sort((a, b) => a.endsMs - b.endsMs);
          while (open.length > 0 && open[0]!.endsMs <= ms) {
            const { endsMs, prompt, output } = open.shift()!;
            closeRequest(quotas, "a", { promptTokens: prompt, completionTokens: output }, true, endsMs);
            running -= output;
          }
          nowMs = ms;
        };
        for (const { afterMs, prompt, output, lastsMs } of asked) {
          moveTo(nowMs + afterMs);
          let refused = refusal(quotas, nowMs);
          // Others of the same tenant may end meanwhile and have to be paid first.
          for (let i = 0; refused !== undefined && isPatient && i < 200; i++) {
            moveTo(nowMs + (refused.details["retryAfterS"] as number) * 1000);
            refused = refusal(quotas, nowMs);
          }
          if (isPatient) expect(refused).toBeUndefined();
          if (refused !== undefined) continue;
          openRequest(quotas, "a", prompt);
          numRequests++;
          // The last one, and what runs, may go beyond the rate.
          expect(numTokens).toBeLessThanOrEqual(tokensPerMinute * (1 + nowMs / 60_000) + running + 1e-6);
          numTokens += prompt + output;
          running += output;
          open.push({ endsMs: nowMs + lastsMs, prompt, output });
          expect(numRequests).toBeLessThanOrEqual(requestsPerMinute * (1 + nowMs / 60_000) + 1e-6);
        }
      }),
      { numRuns: 200 },
    );
  });
});
