/** The base model and its adapters, as OpenAI lists models. */
import { Elysia } from "elysia";
import { didYouMean } from "../../core/nearest.ts";
import { RequestError } from "../../core/errors.ts";
import type { AdapterListing } from "../../runtime/runtime.ts";
import type { HttpDependencies } from "../dependencies.ts";

export function modelRoutes({ runtime, baseNames, created }: HttpDependencies) {
  const base = baseNames[0];
  const baseCard = (id: string) => ({
    id,
    object: "model",
    created,
    owned_by: "lorikeet",
    root: base,
    parent: null,
    max_model_len: runtime.maxContext,
  });
  const adapterCard = ({ name, created: registered, state, rank, digest, lastError }: AdapterListing) => ({
    id: name,
    object: "model",
    created: registered,
    owned_by: "lorikeet",
    root: base,
    parent: base,
    max_model_len: runtime.maxContext,
    adapter: { state, rank, digest, error: lastError },
  });
  const cards = () => [...baseNames.map(baseCard), ...runtime.adapters().filter(({ state }) => state !== "draining").map(adapterCard)];

  return new Elysia()
    .get("/v1/models", () => Response.json({ object: "list", data: cards() }))
    .get("/v1/models/*", ({ params }) => {
      const wanted = decoded(params["*"]);
      const listed = cards();
      const card = listed.find(({ id }) => id === wanted || `${base}:${id}` === wanted);
      if (card !== undefined) return Response.json({ ...card, id: wanted });
      const hint = didYouMean(wanted, listed.map(({ id }) => id));
      throw new RequestError(
        "model_not_found",
        `the model ${JSON.stringify(wanted.slice(0, 100))} is not served here${hint}; GET /v1/models lists those that are`,
        { field: "model" },
      );
    });
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}
