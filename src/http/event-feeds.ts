/** The runtime's transitions as server-sent events, to each who listens at the speed at which it reads. */
import { CapacityError } from "../core/errors.ts";
import type { Runtime, Transition } from "../runtime/runtime.ts";
import type { LiveStreams } from "./live-streams.ts";

export interface EventFeedsInput {
  readonly runtime: Pick<Runtime, "watch">;
  readonly live: LiveStreams;
}

/** Most listeners at once: each is told everything. */
const MAX_FEEDS = 32;
/** Most events that wait for one reader; older ones are dropped, and the reader is told how many. */
const MAX_UNREAD = 1_000;

export class EventFeeds {
  readonly #input: EventFeedsInput;
  readonly #open = new Set<() => void>();

  constructor(input: EventFeedsInput) {
    this.#input = input;
  }

  /**
   * @param onEnd called once, when the reader has gone or the server stops
   * @throws {CapacityError} `queue_full`
   */
  open(onEnd: () => void): ReadableStream<Uint8Array> {
    if (this.#open.size >= MAX_FEEDS) {
      throw new CapacityError("queue_full", `${MAX_FEEDS} listeners are being told of events, which is the most at once; close one`);
    }
    const { runtime, live } = this.#input;
    const encoder = new TextEncoder();
    const unread: string[] = [": listening\n\n"];
    let numDropped = 0;
    let nextId = 1;
    let wake: (() => void) | null = null;
    let controller!: ReadableStreamDefaultController<Uint8Array>;
    let isOver = false;

    const stopWatching = runtime.watch((transition) => {
      if (unread.length >= MAX_UNREAD) {
        unread.shift();
        numDropped++;
      }
      unread.push(eventOf(transition, nextId++));
      wake?.();
    });
    const stream = live.add({
      isHungry: () => wake !== null,
      ping: () => controller.enqueue(encoder.encode(": ping\n\n")),
      giveUp: () => {
        end();
        controller.error(new Error("the reader stopped reading"));
      },
    });
    const end = (): void => {
      if (isOver) return;
      isOver = true;
      stopWatching();
      live.remove(stream);
      this.#open.delete(close);
      wake?.();
      onEnd();
    };
    const close = (): void => {
      end();
      controller.close();
    };
    this.#open.add(close);
    return new ReadableStream<Uint8Array>(
      {
        start: (own) => {
          controller = own;
        },
        pull: async () => {
          live.hungry(stream);
          if (unread.length === 0) await new Promise<void>((resolve) => (wake = resolve));
          wake = null;
          if (isOver) return;
          if (numDropped > 0) unread.unshift(`event: events.dropped\ndata: {"count":${numDropped}}\n\n`);
          numDropped = 0;
          controller.enqueue(encoder.encode(unread.splice(0).join("")));
          live.wrote(stream);
        },
        cancel: end,
      },
      { highWaterMark: 0 },
    );
  }

  /** Ends every feed. */
  close(): void {
    for (const close of this.#open) close();
  }
}

const eventOf = (transition: Transition, id: number): string =>
  `id: ${id}\nevent: ${transition.type}\ndata: ${JSON.stringify({ id, time: new Date().toISOString(), ...transition })}\n\n`;
