/**
 * Watches streams that are being sent: a quiet one gets a comment now and then so that nothing on the way
 * takes it for dead, and one whose reader stopped reading is given up.
 */
import type { Clock } from "../core/clock.ts";

export interface LiveStreamLimits {
  /** Silence after which a comment is sent. */
  readonly pingAfterMs: number;
  /** Longest time that something waits to be read. */
  readonly stallAfterMs: number;
}

export const defaultLiveStreamLimits: LiveStreamLimits = { pingAfterMs: 5_000, stallAfterMs: 30_000 };

export interface StreamEnds {
  /** Whether the reader has taken all there was, and waits. */
  isHungry(): boolean;
  ping(): void;
  giveUp(): void;
}

export class LiveStream {
  readonly ends: StreamEnds;
  lastWriteMs: number;
  lastHungryMs: number;

  constructor(ends: StreamEnds, nowMs: number) {
    this.ends = ends;
    this.lastWriteMs = nowMs;
    this.lastHungryMs = nowMs;
  }
}

export class LiveStreams {
  readonly #clock: Clock;
  readonly #limits: LiveStreamLimits;
  readonly #streams = new Set<LiveStream>();

  constructor(clock: Clock, limits: LiveStreamLimits = defaultLiveStreamLimits) {
    this.#clock = clock;
    this.#limits = limits;
  }

  get size(): number {
    return this.#streams.size;
  }

  add(ends: StreamEnds): LiveStream {
    const stream = new LiveStream(ends, this.#clock.nowMs());
    this.#streams.add(stream);
    return stream;
  }

  remove(stream: LiveStream): void {
    this.#streams.delete(stream);
  }

  /** The reader came for more, which shows that it took what was sent. */
  hungry(stream: LiveStream): void {
    stream.lastHungryMs = this.#clock.nowMs();
  }

  wrote(stream: LiveStream): void {
    stream.lastWriteMs = this.#clock.nowMs();
  }

  /** To be called about once a second. */
  tick(): void {
    const nowMs = this.#clock.nowMs();
    for (const stream of this.#streams) {
      if (stream.ends.isHungry()) {
        stream.lastHungryMs = nowMs;
        if (nowMs - stream.lastWriteMs < this.#limits.pingAfterMs) continue;
        stream.ends.ping();
        stream.lastWriteMs = nowMs;
      } else if (nowMs - stream.lastHungryMs >= this.#limits.stallAfterMs) {
        this.#streams.delete(stream);
        stream.ends.giveUp();
      }
    }
  }
}
