/** What the actors do, told by the server as it happens to whoever has the admin key. */
import { useEffect, useState } from "preact/hooks";
import { call, type Keys, messageOf } from "./api.ts";
import { readEvents } from "./sse.ts";

export interface Told {
  readonly id: number;
  readonly time: string;
  readonly type: string;
  readonly actor: string;
  readonly adapter?: string;
  readonly state?: string;
  readonly reason?: string;
  readonly elapsedMs?: number;
  readonly error?: { readonly message: string };
}

export interface Activity {
  /** Whether the server tells: it has an admin key, and it was given here. */
  readonly isOpen: boolean;
  /** The latest first. */
  readonly told: readonly Told[];
  readonly problem: string | null;
}

const MAX_TOLD = 60;
const RETRY_MS = 3_000;

export function useActivity(keys: Keys, hasAdmin: boolean): Activity {
  const [told, setTold] = useState<readonly Told[]>([]);
  const [problem, setProblem] = useState<string | null>(null);
  const isOpen = keys.admin !== "" && hasAdmin;
  useEffect(() => {
    if (!isOpen) return undefined;
    const abort = new AbortController();
    void follow(keys, abort.signal, {
      onEvent: (event) => setTold((before) => [event, ...before].slice(0, MAX_TOLD)),
      onProblem: setProblem,
    });
    return () => abort.abort();
  }, [keys, isOpen]);
  return { isOpen, told, problem };
}

interface Listener {
  readonly onEvent: (event: Told) => void;
  readonly onProblem: (problem: string | null) => void;
}

async function follow(keys: Keys, signal: AbortSignal, { onEvent, onProblem }: Listener): Promise<void> {
  while (!signal.aborted) {
    try {
      const response = await call(keys, { path: "/v1/events", asAdmin: true, signal });
      onProblem(null);
      for await (const { type, data } of readEvents(response.body!)) {
        if (type !== "events.dropped") onEvent(JSON.parse(data) as Told);
      }
    } catch (thrown) {
      if (!signal.aborted) onProblem(messageOf(thrown));
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}
