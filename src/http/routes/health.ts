/** Liveness, readiness and version. */
import { Elysia } from "elysia";
import type { HttpDependencies } from "../dependencies.ts";

export const healthRoutes = ({ health, runtime, version }: HttpDependencies) =>
  new Elysia()
    // Open to everyone, so it says nothing but whether the process should be replaced.
    .get("/health", () => statusResponse(health.hasFailed ? "failed" : "ok", !health.hasFailed))
    .get("/ready", () => {
      if (health.hasFailed) return statusResponse("failed", false);
      return statusResponse(health.isDraining ? "draining" : "ready", !health.isDraining);
    })
    .get("/version", () => Response.json({ version, backend: runtime.backend.name }));

const statusResponse = (status: string, isGood: boolean): Response =>
  Response.json({ status }, { status: isGood ? 200 : 503 });
