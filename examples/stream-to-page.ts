/**
 * A web page that shows an answer while it is written.
 *
 *   bun examples/stream-to-page.ts    listens on PORT, 3000 by default; open it in a browser
 */
import { join } from "node:path";
import { LLM } from "lorikeet";

const llm = new LLM({ model: join(import.meta.dir, "../models/demo") });

const PAGE = `<!doctype html>
<meta charset="utf-8"><title>Lorikeet</title>
<form><input name="prompt" value="Once upon a time" size="40"><button>Go on</button></form>
<p></p>
<script>
  const [form] = document.forms, text = document.querySelector("p");
  let source;
  form.onsubmit = (event) => {
    event.preventDefault();
    source?.close();                       // ends the earlier answer on the server, too
    text.textContent = form.prompt.value;
    source = new EventSource("/stream?prompt=" + encodeURIComponent(form.prompt.value));
    source.onmessage = ({ data }) => { text.textContent += JSON.parse(data); };
    source.addEventListener("end", () => source.close());
  };
</script>`;

async function* events(prompt: string, signal: AbortSignal): AsyncGenerator<string> {
  for await (const { outputs } of llm.generateAsync(prompt, { maxTokens: 200 }, { signal })) {
    if (outputs[0].textDiff !== "") yield `data: ${JSON.stringify(outputs[0].textDiff)}\n\n`;
  }
  yield "event: end\ndata:\n\n";
}

const server = Bun.serve({
  port: Number(process.env["PORT"] ?? 3000),
  routes: {
    "/": new Response(PAGE, { headers: { "content-type": "text/html" } }),
    "/stream": (request) => {
      const prompt = new URL(request.url).searchParams.get("prompt") ?? "";
      if (prompt === "") return new Response("give a prompt", { status: 400 });
      return new Response(events(prompt, request.signal), { headers: { "content-type": "text/event-stream" } });
    },
  },
});

console.log(`listening on ${server.url.href}`);
