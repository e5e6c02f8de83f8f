import { describe, expect, test } from "bun:test";
import type { Finish, GenerationEvent } from "../../src/core/request.ts";
import type { SampledToken, Sampling } from "../../src/core/sampling.ts";
import { TokenStream } from "../../src/core/token-stream.ts";
import { TextOutput } from "../../src/engine/text-output.ts";
import type { Ending } from "../../src/schedule/sequence.ts";
import { letters } from "../helpers/letters.ts";
import { samplingWith } from "../helpers/sampling.ts";

const token = (id: number): SampledToken => ({ id, logprob: 0, rank: 1, top: [] });

const finishWith = (ending: Ending): Finish => ({
  ...ending,
  usage: { promptTokens: 1, completionTokens: 1 },
  timing: { queueMs: 0, adapterMs: 0, prefillMs: 0, decodeMs: 0 },
});

interface Played {
  readonly text: string;
  readonly ids: number[];
  readonly ending: Ending | null;
  readonly events: GenerationEvent[];
}

/** Feeds tokens until one ends the sequence, and collects what a reader that keeps up sees. */
async function play(ids: readonly number[], sampling: Partial<Sampling>, tokenizer = letters) {
  const stream = new TokenStream(() => {});
  const output = new TextOutput({
    sampling: samplingWith(sampling),
    promptTokens: [1],
    tokenizer,
    stream,
  });
  const events: GenerationEvent[] = [];
  const reading = (async () => {
    for await (const event of stream) events.push(event);
  })();
  let ending: Ending | null = null;
  for (const id of ids) {
    ending = output.accept(token(id));
    await Promise.resolve();
    if (ending !== null) break;
  }
  output.finish(finishWith(ending ?? { reason: "cancelled", stopReason: null, error: null }));
  await reading;
  const played: Played = {
    text: events.map(({ text }) => text).join(""),
    ids: events.flatMap(({ tokens }) => tokens.map(({ id }) => id)),
    ending,
    events,
  };
  return played;
}

const bytes = (text: string) => [...new TextEncoder().encode(text)];

describe("TextOutput", () => {
  test("ends at the length, with all text and tokens", async () => {
    const played = await play(bytes("hello"), { maxTokens: 3 });
    expect(played.text).toBe("hel");
    expect(played.ids).toEqual(bytes("hel"));
    expect(played.ending).toEqual({ reason: "length", stopReason: null, error: null });
    expect(played.events.at(-1)?.finish?.reason).toBe("length");
    expect(played.events.filter(({ finish }) => finish !== null)).toHaveLength(1);
  });

  test("ends at the model's end token without a stop reason, and shows no text for it", async () => {
    const ends = new Set([260]);
    const played = await play([...bytes("ab"), 260, 99], { stopTokenIds: ends, eosTokenIds: ends });
    expect(played.text).toBe("ab");
    expect(played.ids).toEqual([...bytes("ab"), 260]);
    expect(played.ending).toEqual({ reason: "stop", stopReason: null, error: null });
  });

  test("ends at a user's stop token and names it", async () => {
    const played = await play(bytes("ab."), { stopTokenIds: new Set([46]) });
    expect(played.text).toBe("ab");
    expect(played.ending?.stopReason).toBe(46);
    const included = await play(bytes("ab."), { stopTokenIds: new Set([46]), includeStop: true });
    expect(included.text).toBe("ab.");
  });

  test("ends at a stop string, which no event shows a part of", async () => {
    const played = await play(bytes("one, twothree"), { stop: ["two"] });
    expect(played.text).toBe("one, ");
    expect(played.ending?.stopReason).toBe("two");
    expect(played.ids).toEqual(bytes("one, two"));
  });

  test("shows text in order when a stop token follows the start of a stop string", async () => {
    const played = await play(bytes("ab tw."), {
      stop: ["two"],
      stopTokenIds: new Set([46]),
      includeStop: true,
    });
    expect(played.text).toBe("ab tw.");
  });

  test("lets go at the end what it held back as the start of a stop string", async () => {
    expect((await play(bytes("a tw"), { stop: ["two"], maxTokens: 4 })).text).toBe("a tw");
    expect((await play(bytes("a tw"), { stop: ["two"] })).text).toBe("a tw");
  });

  test("looks for stop strings only once the minimum is out", async () => {
    const played = await play(bytes("x.y.z.w"), { stop: ["."], minTokens: 3 });
    expect(played.text).toBe("x.y");
    expect(played.ids).toHaveLength(4);
  });

  test("never splits a character, and replaces one that stays broken", async () => {
    const played = await play(bytes("é🦜"), {});
    expect(played.events.map(({ text }) => text).filter((text) => text !== "")).toEqual([
      "é",
      "🦜",
    ]);
    expect((await play(bytes("🦜").slice(0, 2), { maxTokens: 2 })).text).toBe("\ufffd");
  });

  test("gives tokens without text when the model has no tokenizer", async () => {
    const stream = new TokenStream(() => {});
    const output = new TextOutput({
      sampling: samplingWith({ maxTokens: 1 }),
      promptTokens: [1],
      tokenizer: null,
      stream,
    });
    const ending = output.accept(token(7));
    output.finish(finishWith(ending!));
    const events = await Array.fromAsync(stream);
    expect(events.map(({ text, tokens }) => [text, tokens.length])).toEqual([["", 1]]);
  });

  test("is cancelled when its reader leaves too much unread", () => {
    const stream = new TokenStream(() => {}, { maxUnreadTokens: 3, maxUnreadChars: 100 });
    const output = new TextOutput({
      sampling: samplingWith({ maxTokens: 100 }),
      promptTokens: [1],
      tokenizer: letters,
      stream,
    });
    const endings = [65, 66, 67, 68].map((id) => output.accept(token(id))?.reason ?? null);
    expect(endings).toEqual([null, null, null, "cancelled"]);
  });
});
