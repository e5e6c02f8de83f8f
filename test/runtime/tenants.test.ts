import { expect, test } from "bun:test";
import { collect, openBench, requestWith } from "../helpers/runtime.ts";
import { thrownBy } from "../helpers/thrown.ts";

const quota = { maxRequests: null, requestsPerMinute: null, tokensPerMinute: null };

test("a tenant beyond its quota is refused before anything is kept, counted, and let in again later", async () => {
  let nowMs = 0;
  const { runtime } = openBench({
    clock: { nowMs: () => nowMs, unixSeconds: () => 0 },
    options: { tenants: [{ name: "a", weight: 1, quota: { ...quota, tokensPerMinute: 60 } }] },
  });
  const request = requestWith([1, 2, 3], { tenant: "a", maxTokens: 100 });
  await collect(runtime.generate(request));
  expect(thrownBy(() => runtime.generate(request))).toMatchObject({ errorCode: "rate_limit_exceeded", details: { retryAfterS: 44 } });
  expect(runtime.stats()).toMatchObject({ waitingRequests: 0, runningRequests: 0, refused: { rate_limit_exceeded: 1 } });
  await collect(runtime.generate(requestWith([1], { tenant: "b" })));
  nowMs = 44_000;
  await collect(runtime.generate(request));
  await runtime.close();
});

test("what was cancelled before it ran is not counted", async () => {
  const { runtime } = openBench({ options: { tenants: [{ name: "a", weight: 1, quota: { ...quota, maxRequests: 1, requestsPerMinute: 1 } }] } });
  for (let i = 0; i < 20; i++) runtime.generate(requestWith([1], { tenant: "a" })).cancel();
  const { finish } = await collect(runtime.generate(requestWith([1], { tenant: "a" })));
  expect(finish.reason).toBe("length");
  expect(thrownBy(() => runtime.generate(requestWith([1], { tenant: "a" })))).toMatchObject({ errorCode: "rate_limit_exceeded" });
  await runtime.close();
});

test("weights decide how much of the backend each tenant gets while both wait", async () => {
  const { runtime } = openBench(
    { options: { tenants: [{ name: "great", weight: 3, quota }] } },
    { maxSequences: 4 },
  );
  const order: string[] = [];
  const ask = async (tenant: string) => {
    await collect(runtime.generate(requestWith([1, 2, 3], { tenant, maxTokens: 6 })));
    order.push(tenant);
  };
  // The small one is first in the queue with everything it has.
  await Promise.all(Array.from({ length: 80 }, (_, i) => ask(i < 40 ? "small" : "great")));
  const half = order.slice(0, 40).filter((tenant) => tenant === "great").length;
  // 30 of 40, and at most the four places' worth away from it.
  expect(half).toBeGreaterThanOrEqual(26);
  expect(half).toBeLessThanOrEqual(34);
  await runtime.close();
});
