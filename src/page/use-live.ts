/** The server's state, asked for twice a second while somebody looks. */
import { useEffect, useState } from "preact/hooks";
import { call, CallError, type Keys, messageOf } from "./api.ts";
import { extend, type History } from "./history.ts";
import type { LiveState } from "./live-state.ts";

const PERIOD_MS = 500;

export interface Live {
  /** `null` until the first answer. */
  readonly history: History | null;
  /** Why there is no newer state; `null` while all is well. */
  readonly problem: { readonly needsKey: boolean; readonly message: string } | null;
}

export function useLive(keys: Keys): Live {
  const [live, setLive] = useState<Live>({ history: null, problem: null });
  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const poll = async (): Promise<void> => {
      if (!document.hidden) {
        try {
          const state = (await (await call(keys, { path: "/v1/live", signal: abort.signal })).json()) as LiveState;
          setLive(({ history }) => ({ history: extend(history, state), problem: null }));
        } catch (thrown) {
          if (abort.signal.aborted) return;
          const needsKey = thrown instanceof CallError && thrown.status === 401;
          setLive(({ history }) => ({ history, problem: { needsKey, message: messageOf(thrown) } }));
        }
      }
      if (!abort.signal.aborted) timer = setTimeout(() => void poll(), PERIOD_MS);
    };
    void poll();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [keys]);
  return live;
}
