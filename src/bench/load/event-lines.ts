/** The `data:` lines of a stream of server-sent events, however its bytes are cut. */
export async function* eventLines(body: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body) {
    const text = rest + decoder.decode(bytes, { stream: true });
    let from = 0;
    for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n", from)) {
      const line = text.charCodeAt(end - 1) === 13 && end > from ? text.slice(from, end - 1) : text.slice(from, end);
      from = end + 1;
      if (line.startsWith("data:")) yield line.slice(line[5] === " " ? 6 : 5);
    }
    rest = text.slice(from);
    if (rest.length > MAX_LINE_CHARS) throw new Error(`an event of the answer is longer than ${MAX_LINE_CHARS} characters`);
  }
}

const MAX_LINE_CHARS = 16 << 20;
