/**
 * Adapters: what there are, and, with the admin key, which there are.
 *
 * Bodies and answers of the two POST routes are vLLM's, so that its tools for loading adapters work unchanged.
 */
import { Elysia } from "elysia";
import type { JsonObject } from "../../formats/json.ts";
import type { AdapterListing, AdapterToLoad, AdapterToUnload } from "../../runtime/runtime.ts";
import type { HttpDependencies } from "../dependencies.ts";
import { badField } from "../error-response.ts";
import { readJsonBody } from "../json-body.ts";
import { Fields, shown } from "../openai/fields.ts";

export function adapterRoutes(deps: HttpDependencies) {
  const { runtime, access, bodyLimits, log } = deps;
  return new Elysia()
    .get("/v1/adapters", ({ request }) => {
      const isAdmin = access.isAdmin(request.headers);
      return Response.json({ object: "list", data: runtime.adapters().map((each) => adapterCard(each, isAdmin)) });
    })
    .post(
      "/v1/load_lora_adapter",
      async ({ request }) => {
        access.checkAdmin(request.headers);
        const onEnd = deps.keepOpen(request);
        try {
          const asked = readLoad(await readJsonBody(request, bodyLimits));
          const { name, digest } = await runtime.loadAdapter(asked);
          log.info({ adapter: name, digest, pin: asked.pin, replace: asked.replace }, "adapter loaded by request");
          return new Response(`Success: LoRA adapter '${name}' added successfully.`);
        } finally {
          onEnd();
        }
      },
      { parse: "none" },
    )
    .post(
      "/v1/unload_lora_adapter",
      async ({ request }) => {
        access.checkAdmin(request.headers);
        const { name, digest } = await runtime.unloadAdapter(readUnload(await readJsonBody(request, bodyLimits)));
        log.info({ adapter: name, digest }, "adapter unloaded by request");
        return new Response(`Success: LoRA adapter '${name}' removed successfully.`);
      },
      { parse: "none" },
    );
}

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
  ...(adapter.invocation === null ? {} : { alora_invocation_tokens: adapter.invocation }),
  active_requests: adapter.numLive,
  requests: adapter.numRequests,
  prompt_tokens: adapter.promptTokens,
  generated_tokens: adapter.generatedTokens,
  loads: adapter.numLoads,
  last_used: adapter.lastUsed,
  last_error: adapter.lastError,
  ...(isAdmin ? { path: adapter.path } : {}),
});

function readLoad(body: JsonObject): AdapterToLoad {
  const fields = new Fields(body);
  fields.refuseUnknown(["lora_name", "lora_path", "lora_int_id", "lora_ckpt_source", "load_inplace", "pin"]);
  const path = fields.required("lora_path", fields.string("lora_path"));
  if (path === "") throw badField("lora_path", "must not be empty");
  const source = fields.string("lora_ckpt_source");
  if (source !== undefined && source !== "hf" && source !== "nemo") {
    throw badField("lora_ckpt_source", `must be "hf" or "nemo", got ${shown(source)}`);
  }
  return {
    ...readReference(fields),
    path,
    ...(source === undefined ? {} : { source }),
    pin: fields.boolean("pin") ?? false,
    replace: fields.boolean("load_inplace") ?? false,
  };
}

function readUnload(body: JsonObject): AdapterToUnload {
  const fields = new Fields(body);
  fields.refuseUnknown(["lora_name", "lora_int_id"]);
  return readReference(fields);
}

function readReference(fields: Fields): AdapterToUnload {
  const name = fields.required("lora_name", fields.string("lora_name"));
  const intId = fields.integer("lora_int_id", 0, Number.MAX_SAFE_INTEGER);
  return { name, ...(intId === undefined ? {} : { intId }) };
}
