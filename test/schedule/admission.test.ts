import { describe, expect, test } from "bun:test";
import { checkContext, checkQueueRoom } from "../../src/schedule/admission.ts";
import { limitsWith, stepOnce, submit, tableWith } from "../helpers/schedule.ts";

describe("admission", () => {
  test("takes what fits the context to the last token", () => {
    const limits = limitsWith({ maxContext: 100 });
    expect(() => checkContext(limits, 50, 50)).not.toThrow();
    expect(() => checkContext(limits, 99, 1)).not.toThrow();
  });

  test("refuses what could never be held, with the numbers", () => {
    const limits = limitsWith({ maxContext: 100 });
    expect(() => checkContext(limits, 50, 51)).toThrow(
      "the prompt has 50 tokens and maxTokens asks for up to 51 more, but at most 100 fit together; " +
        "ask for 50 or fewer",
    );
    expect(() => checkContext(limits, 100, 1)).toThrow(
      "the prompt has 100 tokens, but at most 100 fit with at least one token of output; " +
        "shorten it to 99 tokens or fewer",
    );
    expect(() => checkContext(limits, 100, 1)).toThrow(
      expect.objectContaining({ errorCode: "context_length_exceeded" }),
    );
  });

  test("refuses one request more than may wait, and takes it once another runs", () => {
    const table = tableWith({ maxWaitingRequests: 2, maxSequences: 1 });
    submit(table);
    submit(table);
    expect(() => checkQueueRoom(table, 1)).toThrow(
      expect.objectContaining({ errorCode: "queue_full" }),
    );
    stepOnce(table);
    expect(() => checkQueueRoom(table, 1)).not.toThrow();
  });

  test("bounds the prompt tokens that wait, but lets a long prompt wait alone", () => {
    const table = tableWith({ maxWaitingTokens: 10 });
    expect(() => checkQueueRoom(table, 50)).not.toThrow();
    submit(table, { prompt: 8 });
    expect(() => checkQueueRoom(table, 2)).not.toThrow();
    expect(() => checkQueueRoom(table, 3)).toThrow(
      expect.objectContaining({ errorCode: "queue_full" }),
    );
  });
});
