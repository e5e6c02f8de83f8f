/** Prometheus metrics, by vLLM's names where it has one, so that LoRA-aware routers work unchanged. */
import { Elysia } from "elysia";
import type { HttpDependencies } from "../dependencies.ts";
import { writeAdapters } from "../metrics/adapter-families.ts";
import { Exposition, EXPOSITION_TYPE } from "../metrics/exposition.ts";
import { writeEngine, writeRequests } from "../metrics/request-families.ts";

export const metricsRoutes = (deps: HttpDependencies) =>
  new Elysia().get(
    "/metrics",
    () => new Response(metricsText(deps), { headers: { "content-type": EXPOSITION_TYPE } }),
  );

function metricsText(deps: HttpDependencies): string {
  const out = new Exposition({ model_name: deps.baseNames[0], engine: "0" });
  writeRequests(out, deps);
  writeEngine(out, deps);
  writeAdapters(out, deps);
  deps.clientMetrics.write(out);
  return out.text();
}
