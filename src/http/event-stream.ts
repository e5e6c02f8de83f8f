/** An answer as server-sent events. */
import type { Answer } from "./answer.ts";
import { errorBody } from "./error-response.ts";
import type { LiveStreams } from "./live-streams.ts";
import type { ChoiceEvent } from "./merged-events.ts";
import { usageOf } from "./openai/answer-format.ts";

export interface EventStreamOptions {
  readonly includeUsage: boolean;
  readonly continuousUsage: boolean;
  readonly live: LiveStreams;
  /** Longest wait for a first event before the headers leave without it. */
  readonly headersAfterMs: number;
  /** Further headers, asked for when they leave. */
  readonly headers: () => Readonly<Record<string, string>>;
  /** Called once, with the last byte or the failure. */
  readonly onEnd: () => void;
}

/**
 * The headers wait a moment for the first event, so that a failure to start, such as an adapter that does
 * not load, still has a status of its own.
 *
 * @throws {LorikeetError} when a generation failed before the headers left
 */
export async function sendEvents(answer: Answer, options: EventStreamOptions): Promise<Response> {
  const first = answer.next();
  first.catch(() => undefined);
  const isQuick = await settlesWithin(first, options.headersAfterMs).catch((thrown: unknown) => {
    options.onEnd();
    throw thrown;
  });
  const opening = answer.generations
    .flatMap((_, choice) => answer.format.opening(choice))
    .map((chunk) => dataLine(chunk, options, answer))
    .join("");
  // Bun holds the headers back until there is a first byte.
  const start = opening === "" && !isQuick ? PING : opening;
  return new Response(eventBody(answer, start, first, options), {
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache",
      // Proxies such as nginx would otherwise hold the events back.
      "x-accel-buffering": "no",
      ...options.headers(),
    },
  });
}

function eventBody(
  answer: Answer,
  opening: string,
  first: Promise<readonly ChoiceEvent[]>,
  { live, ...options }: EventStreamOptions,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let next: Promise<readonly ChoiceEvent[]> | null = first;
  let text = opening;
  let isPulling = false;
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  const stream = live.add({
    // Bytes put in with nobody waiting make the desired size negative.
    isHungry: () => isPulling && (controller.desiredSize ?? 0) >= 0,
    ping: () => controller.enqueue(encoder.encode(PING)),
    giveUp: () => {
      answer.cancel();
      controller.error(new Error("the reader stopped reading"));
    },
  });

  const pull = async (): Promise<void> => {
    live.hungry(stream);
    isPulling = true;
    try {
      let isLast = false;
      while (text === "" && !isLast) {
        const events = await (next ?? answer.next());
        next = null;
        isLast = events.length === 0;
        for (const { choice, event } of events) {
          for (const chunk of answer.format.pieces(choice, event)) text += dataLine(chunk, options, answer);
        }
      }
      if (isLast) {
        if (options.includeUsage) text += line(answer.format.usageChunk(answer.usage));
        text += "data: [DONE]\n\n";
      }
      write(isLast);
    } catch (thrown) {
      // A stream that just stopped would look complete: the error takes the place of [DONE].
      text = line(errorBody(thrown));
      write(true);
    }
    isPulling = false;
  };

  const write = (isLast: boolean): void => {
    if (isLast) {
      live.remove(stream);
      options.onEnd();
    }
    controller.enqueue(encoder.encode(text));
    text = "";
    live.wrote(stream);
    if (isLast) controller.close();
  };

  return new ReadableStream<Uint8Array>(
    {
      start: (own) => {
        controller = own;
      },
      pull,
      cancel: () => {
        live.remove(stream);
        answer.cancel();
      },
    },
    { highWaterMark: 0 },
  );
}

const PING = ": ping\n\n";

const line = (chunk: object): string => `data: ${JSON.stringify(chunk)}\n\n`;

type UsageOptions = Pick<EventStreamOptions, "includeUsage" | "continuousUsage">;

/** With a usage chunk at the end, all others carry `usage: null`, as OpenAI's do. */
function dataLine(chunk: object, { includeUsage, continuousUsage }: UsageOptions, answer: Answer): string {
  if (continuousUsage) return line({ ...chunk, usage: usageOf(answer.usage) });
  return line(includeUsage ? { ...chunk, usage: null } : chunk);
}

/** @returns whether the promise was fulfilled in time @throws what it is rejected with in time */
async function settlesWithin(promise: Promise<unknown>, ms: number): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<false>();
  const timer = setTimeout(resolve, ms, false);
  return Promise.race([promise.then(() => true), late]).finally(() => clearTimeout(timer));
}
