/** What the page at `/` shows, twice a second. */
import { Elysia } from "elysia";
import { type Latency, type LiveAdapter, type LiveState, MAX_LIVE_ADAPTERS } from "../../page/live-state.ts";
import type { AdapterListing } from "../../runtime/runtime.ts";
import type { HttpDependencies } from "../dependencies.ts";
import type { RecentValues } from "../metrics/recent.ts";

const LATENCY_WINDOW_MS = 10_000;

export const liveRoutes = (deps: HttpDependencies) =>
  new Elysia().get("/v1/live", () => Response.json(liveState(deps), { headers: { "cache-control": "no-store" } }));

function liveState({ runtime, metrics, clock, version, access }: HttpDependencies): LiveState {
  const stats = runtime.stats();
  const nowMs = clock.nowMs();
  const adapters = runtime.adapters();
  const latency = (values: RecentValues): Latency | null => {
    const quantiles = values.quantiles(nowMs, LATENCY_WINDOW_MS);
    return quantiles === null ? null : { p50: quantiles.p50 * 1000, p95: quantiles.p95 * 1000 };
  };
  return {
    time: Date.now(),
    server: {
      version,
      model: runtime.model.name,
      backend: runtime.backend.description,
      maxContext: runtime.maxContext,
      hasChat: runtime.model.chatTemplate !== null,
      hasAdmin: access.hasAdmin,
    },
    requests: {
      running: stats.runningRequests,
      waiting: stats.waitingRequests,
      longestWaitMs: stats.contention.longestWaitMs,
      ended: sum(stats.finished),
      refused: sum(stats.refused),
    },
    tokens: { prompt: stats.promptTokens, generated: stats.generatedTokens },
    steps: stats.steps,
    firstToken: latency(metrics.recentFirstToken),
    nextToken: latency(metrics.recentNextToken),
    memory: runtime.memory(),
    adapters: adapters.toSorted(byInterest).slice(0, MAX_LIVE_ADAPTERS).map(liveAdapter),
    numAdapters: adapters.length,
  };
}

const sum = (counts: Readonly<Record<string, number>>): number => Object.values(counts).reduce((total, count) => total + count, 0);

const ORDER: Readonly<Record<AdapterListing["state"], number>> = { device: 0, downloading: 1, loading: 1, draining: 1, host: 2, failed: 3, registered: 4 };

const byInterest = (a: AdapterListing, b: AdapterListing): number =>
  ORDER[a.state] - ORDER[b.state] || b.numRequests - a.numRequests || a.name.localeCompare(b.name);

const liveAdapter = (adapter: AdapterListing): LiveAdapter => ({
  name: adapter.name,
  state: adapter.state,
  isPinned: adapter.isPinned,
  rank: adapter.rank,
  numBytes: adapter.numBytes,
  running: adapter.numRunning,
  waiting: adapter.numWaiting,
  requests: adapter.numRequests,
  generatedTokens: adapter.generatedTokens,
  loads: adapter.numLoads,
  lastError: adapter.lastError,
});
