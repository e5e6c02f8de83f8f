import { expect, test } from "bun:test";
import { extend, type History, MAX_SAMPLES } from "../../src/page/history.ts";
import type { LiveState } from "../../src/page/live-state.ts";

const stateAt = (seconds: number, generated: number, steps = seconds): LiveState =>
  ({
    time: seconds * 1000,
    steps,
    tokens: { prompt: 2 * generated, generated },
    requests: { running: 3, waiting: 1 },
    firstToken: { p50: 10, p95: 20 },
    nextToken: null,
  }) as unknown as LiveState;

const after = (...states: LiveState[]): History => states.reduce<History | null>((history, state) => extend(history, state), null)!;

test("rates are of the time between two states", () => {
  const { samples } = after(stateAt(10, 100), stateAt(12, 150));
  expect(samples.map(({ generatedPerS, promptPerS }) => [generatedPerS, promptPerS])).toEqual([[null, null], [25, 50]]);
  expect(samples[1]).toMatchObject({ time: 12, running: 3, waiting: 1, firstP95: 20, nextP50: null });
});

test("a server that was started anew begins a new history", () => {
  const { samples } = after(stateAt(10, 100), stateAt(11, 150), stateAt(12, 5, 1), stateAt(13, 25, 2));
  expect(samples.map(({ generatedPerS }) => generatedPerS)).toEqual([null, 20]);
});

test("only the latest samples are kept", () => {
  const { samples } = after(...Array.from({ length: MAX_SAMPLES + 20 }, (_, i) => stateAt(i + 1, i)));
  expect([samples.length, samples.at(-1)!.time]).toEqual([MAX_SAMPLES, MAX_SAMPLES + 20]);
});
