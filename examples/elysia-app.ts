/**
 * Lorikeet inside an Elysia application that has routes of its own.
 *
 *   bun examples/elysia-app.ts        listens on PORT, 3000 by default
 *   curl localhost:3000/sql -H 'Content-Type: application/json' -d '{"question": "How many users?"}'
 */
import { join } from "node:path";
import { Elysia, t } from "elysia";
import { LLM, LoRARequest, LorikeetError } from "lorikeet";

const MODEL = join(import.meta.dir, "../models/demo");

/** A plugin: `use` it in any application. The model is freed when the application stops. */
const lorikeet = (llm: LLM) =>
  new Elysia({ name: "lorikeet-routes" })
    .onStop(() => llm.shutdown())
    .onError(({ error, status }) => {
      if (error instanceof LorikeetError) return status(error.errorCode === "queue_full" ? 429 : 500, { error: error.message });
    })
    .post(
      "/sql",
      // A client that goes away cancels its request: the signal is the request's own.
      async ({ body, request }) => {
        const messages = [{ role: "user", content: `Write SQL: ${body.question}` }];
        const output = await llm.generate({ messages }, { maxTokens: 64 }, { loraRequest: new LoRARequest("sql", 1), signal: request.signal });
        return { sql: output.text };
      },
      { body: t.Object({ question: t.String({ minLength: 1, maxLength: 500 }) }) },
    )
    .as("global");

const app = new Elysia()
  .get("/", () => "the application's own page")
  .use(lorikeet(new LLM({ model: MODEL, loraConfig: { loraDir: [join(MODEL, "adapters/sql")] } })))
  .listen(Number(process.env["PORT"] ?? 3000));

console.log(`listening on ${app.server?.url.href}`);
