/**
 * Which adapters there are, decided by whoever has the admin key.
 *
 * Bodies and answers are vLLM's, so that its tools for loading adapters work unchanged.
 */
import { Elysia } from "elysia";
import type { JsonObject } from "../../formats/json.ts";
import type { AdapterToLoad, AdapterToUnload } from "../../runtime/runtime.ts";
import type { HttpDependencies } from "../dependencies.ts";
import { badField } from "../error-response.ts";
import { readJsonBody } from "../json-body.ts";
import { Fields, shown } from "../openai/fields.ts";

export function adapterControlRoutes(deps: HttpDependencies) {
  const { runtime, access, bodyLimits, log } = deps;
  return new Elysia()
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
