/** Adapters: what there are. */
import { Elysia } from "elysia";
import type { AdapterListing } from "../../runtime/runtime.ts";
import type { HttpDependencies } from "../dependencies.ts";

export const adapterRoutes = ({ runtime, access }: HttpDependencies) =>
  new Elysia().get("/v1/adapters", ({ request }) => {
    const isAdmin = access.isAdmin(request.headers);
    return Response.json({ object: "list", data: runtime.adapters().map((each) => adapterCard(each, isAdmin)) });
  });

const adapterCard = (adapter: AdapterListing, isAdmin: boolean) => ({
  id: adapter.name,
  object: "adapter",
  created: adapter.created,
  state: adapter.state,
  tier: adapter.tier,
  pinned: adapter.isPinned,
  digest: adapter.digest,
  rank: adapter.rank,
  modules: adapter.numModules,
  bytes: adapter.numBytes,
  ...(adapter.download === null ? {} : { downloaded_bytes: adapter.download.numBytes, download_bytes: adapter.download.totalBytes }),
  ...(adapter.invocation === null ? {} : { alora_invocation_tokens: adapter.invocation }),
  active_requests: adapter.numLive,
  requests: adapter.numRequests,
  prompt_tokens: adapter.promptTokens,
  generated_tokens: adapter.generatedTokens,
  loads: adapter.numLoads,
  last_used: adapter.lastUsed,
  last_error: adapter.lastError,
  ...(isAdmin ? { path: adapter.path, origin: adapter.origin } : {}),
});
