/** What the server's actors do, as it happens, for whoever has the admin key. */
import { Elysia } from "elysia";
import type { HttpDependencies } from "../dependencies.ts";

export const eventRoutes = ({ access, feeds, keepOpen }: HttpDependencies) =>
  new Elysia().get("/v1/events", ({ request }) => {
    access.checkAdmin(request.headers);
    const events = feeds.open(keepOpen(request));
    return new Response(events, {
      headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no" },
    });
  });
