import { expect, test } from "bun:test";
import fc from "fast-check";
import { readEvents } from "../../src/page/sse.ts";

const streamOf = (bytes: Uint8Array, cuts: readonly number[]) =>
  new ReadableStream<Uint8Array>({
    start: (controller) => {
      const at = [...new Set([0, ...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length])].toSorted((a, b) => a - b);
      at.slice(1).forEach((end, i) => controller.enqueue(bytes.subarray(at[i], end)));
      controller.close();
    },
  });

test("events are read whole wherever the stream is cut, also within a character", async () => {
  const text = ': ping\n\ndata: {"a":"é 🦜"}\n\nid: 1\nevent: adapter.loaded\ndata: {}\n\ndata: [DONE]\n\ndata: cut off';
  const bytes = new TextEncoder().encode(text);
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat()), async (cuts) => {
      expect(await Array.fromAsync(readEvents(streamOf(bytes, cuts)))).toEqual([
        { type: "message", data: '{"a":"é 🦜"}' },
        { type: "adapter.loaded", data: "{}" },
        { type: "message", data: "[DONE]" },
      ]);
    }),
  );
});
