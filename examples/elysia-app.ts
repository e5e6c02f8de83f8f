/**
 * Lorikeet inside an Elysia application: OpenAI's routes under a prefix, beside routes of the application's own.
 *
 *   bun examples/elysia-app.ts        listens on PORT, 3000 by default
 *   curl localhost:3000/sql -H 'Content-Type: application/json' -d '{"question": "How many users have age at least 12?"}'
 *   curl localhost:3000/llm/v1/models
 */
import { join } from "node:path";
import { Elysia, t } from "elysia";
import { LLM, LoRARequest, LorikeetError } from "lorikeet";
import { lorikeet } from "lorikeet/http";

const MODEL = join(import.meta.dir, "../models/demo");
const llm = new LLM({ model: MODEL, loraConfig: { loraDir: [join(MODEL, "adapters")] } });

const app = new Elysia()
  .get("/", () => "the application's own page")
  .post(
    "/sql",
    // A client that goes away cancels its request: the signal is the request's own.
    async ({ body, request, status }) => {
      const messages = [{ role: "user", content: `Write SQL: ${body.question}` }];
      try {
        const output = await llm.generate({ messages }, { maxTokens: 64 }, { loraRequest: new LoRARequest("sql", 1), signal: request.signal });
        return { sql: output.text };
      } catch (error) {
        if (error instanceof LorikeetError && error.errorCode === "queue_full") return status(429, { error: error.message });
        throw error;
      }
    },
    { body: t.Object({ question: t.String({ minLength: 1, maxLength: 500 }) }) },
  )
  // The same model, for OpenAI's clients: their base URL is http://localhost:3000/llm/v1.
  .use(lorikeet(llm, { prefix: "/llm" }))
  .onStop(() => llm.shutdown())
  .listen(Number(process.env["PORT"] ?? 3000));

console.log(`listening on ${app.server?.url.href}`);
