/** Time as a dependency, so that simulations own it. */
export interface Clock {
  /** Monotonic milliseconds; only differences mean anything. */
  nowMs(): number;
  /** Wall-clock seconds since 1970, for `created` fields. */
  unixSeconds(): number;
}

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  unixSeconds: () => Math.floor(Date.now() / 1000),
};
