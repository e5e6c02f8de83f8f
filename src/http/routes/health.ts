/** Liveness, readiness and version. */
import { Elysia } from "elysia";
import type { HttpDependencies } from "../dependencies.ts";
import { retryAfterS } from "../error-response.ts";

export const healthRoutes = ({ health, runtime, version }: HttpDependencies) =>
  new Elysia()
    // Open to everyone, so it says nothing but whether the process should be replaced.
    .get("/health", () => statusResponse(health.hasFailed ? "failed" : "ok", !health.hasFailed))
    .get("/ready", () => {
      if (health.hasFailed) return statusResponse("failed", false);
      if (health.isDraining) return statusResponse("draining", false, { "retry-after": String(retryAfterS("shutting_down")) });
      return statusResponse("ready", true);
    })
    .get("/version", () => Response.json({ version, backend: runtime.backend.name }));

const statusResponse = (status: string, isGood: boolean, headers: Readonly<Record<string, string>> = {}): Response =>
  Response.json({ status }, { status: isGood ? 200 : 503, headers });
