import { describe, expect, test } from "bun:test";
import type { Finish } from "../../src/core/request.ts";
import { TokenStream } from "../../src/core/token-stream.ts";

const token = (id: number) => ({ id, logprob: 0, rank: 1, top: [] });
const finish: Finish = {
  reason: "stop",
  stopReason: null,
  error: null,
  usage: { promptTokens: 1, completionTokens: 2 },
  timing: { queueMs: 0, adapterMs: 0, prefillMs: 0, decodeMs: 0 },
};

describe("TokenStream", () => {
  test("gives a waiting reader each piece as it comes, and ends after the finish", async () => {
    const stream = new TokenStream(() => {});
    const reader = stream[Symbol.asyncIterator]();
    const first = reader.next();
    stream.push("a", [token(1)]);
    expect((await first).value).toEqual({ text: "a", tokens: [token(1)], finish: null });
    const last = reader.next();
    stream.end("b", [token(2)], finish);
    expect((await last).value).toEqual({ text: "b", tokens: [token(2)], finish });
    expect(await reader.next()).toEqual({ done: true, value: undefined });
  });

  test("merges everything that a slow reader missed into one event", async () => {
    const stream = new TokenStream(() => {});
    stream.push("a", [token(1)]);
    stream.push("b", [token(2)]);
    stream.end("c", [], finish);
    stream.push("after the end", [token(9)]);
    stream.end("twice", [], finish);
    expect(await Array.fromAsync(stream)).toEqual([
      { text: "abc", tokens: [token(1), token(2)], finish },
    ]);
  });

  test("says when the unread part is over a cap, in tokens with their alternatives or in text", async () => {
    const limits = { maxUnreadTokens: 4, maxUnreadChars: 5 };
    const byTokens = new TokenStream(() => {}, limits);
    const wide = { ...token(1), top: [{ id: 1, logprob: 0 }] };
    expect(byTokens.push("", [wide])).toBe(true);
    expect(byTokens.push("", [wide])).toBe(true);
    expect(byTokens.push("", [token(1)])).toBe(false);

    const byText = new TokenStream(() => {}, limits);
    expect(byText.push("12345", [])).toBe(true);
    expect(byText.push("6", [])).toBe(false);
    await byText[Symbol.asyncIterator]().next();
    expect(byText.push("1", [])).toBe(true);
  });

  test("wakes a waiting reader when it is told to, with all that came until then, and at once with the finish", async () => {
    const wakes: (() => void)[] = [];
    const stream = new TokenStream(() => {}, undefined, (wake) => wakes.push(wake));
    const reader = stream[Symbol.asyncIterator]();
    const first = reader.next();
    stream.push("a", [token(1)]);
    stream.push("b", [token(2)]);
    expect(wakes).toHaveLength(1);
    expect(await Promise.race([first, Promise.resolve("waits")])).toBe("waits");
    wakes.pop()!();
    expect((await first).value).toEqual({ text: "ab", tokens: [token(1), token(2)], finish: null });
    const last = reader.next();
    stream.push("c", [token(3)]);
    stream.end("d", [], finish);
    expect((await last).value).toEqual({ text: "cd", tokens: [token(3)], finish });
    wakes.pop()!();
    expect(await reader.next()).toEqual({ done: true, value: undefined });
  });

  test("a wake that comes after its reader has gone, or read by itself, does nothing", async () => {
    const wakes: (() => void)[] = [];
    const stream = new TokenStream(() => {}, undefined, (wake) => wakes.push(wake));
    const reader = stream[Symbol.asyncIterator]();
    const first = reader.next();
    stream.push("a", [token(1)]);
    await reader.return!();
    expect(await first).toEqual({ done: true, value: undefined });
    for (const wake of wakes) wake();
    expect(await reader.next()).toEqual({ done: true, value: undefined });
  });

  test("tells once that its reader left, and keeps nothing from then on", async () => {
    let numLeft = 0;
    const stream = new TokenStream(() => void numLeft++);
    stream.push("a", [token(1)]);
    for await (const event of stream) {
      expect(event.text).toBe("a");
      break;
    }
    expect(stream.push("b", [token(2)])).toBe(true);
    stream.end("c", [], finish);
    expect(numLeft).toBe(1);
  });

  test("a reader that leaves after the finish abandons nothing", async () => {
    let numLeft = 0;
    const stream = new TokenStream(() => void numLeft++);
    stream.end("", [], finish);
    for await (const event of stream) {
      expect(event.finish).toBe(finish);
      break;
    }
    expect(numLeft).toBe(0);
  });

  test("has one reader, which reads one event at a time", async () => {
    const stream = new TokenStream(() => {});
    const reader = stream[Symbol.asyncIterator]();
    expect(() => stream[Symbol.asyncIterator]()).toThrow("one reader only");
    void reader.next();
    await expect(reader.next()).rejects.toThrow("one event at a time");
  });
});
