import { describe, expect, test } from "bun:test";
import { openTracing } from "../../src/http/telemetry/tracing.ts";
import { FakeRuntime, saying } from "../helpers/fake-runtime.ts";
import { harness } from "./harness.ts";

interface Span {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentSpanId?: string;
  readonly name: string;
  readonly kind: number;
  readonly startTimeUnixNano: string;
  readonly endTimeUnixNano: string;
  readonly status: { readonly code: number; readonly message?: string };
  readonly attributes: readonly { readonly key: string; readonly value: Readonly<Record<string, unknown>> }[];
}

/** Takes what an OpenTelemetry collector takes on port 4318. */
function standInCollector() {
  const paths: string[] = [];
  const spans: Span[] = [];
  const services: unknown[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: async (request) => {
      paths.push(new URL(request.url).pathname);
      const sent = (await request.json()) as {
        resourceSpans: { resource: { attributes: Span["attributes"] }; scopeSpans: { spans: Span[] }[] }[];
      };
      for (const { resource, scopeSpans } of sent.resourceSpans) {
        services.push(attribute(resource, "service.name"));
        spans.push(...scopeSpans.flatMap((scope) => scope.spans));
      }
      return Response.json({});
    },
  });
  return { url: `http://127.0.0.1:${server.port}`, paths, spans, services, [Symbol.asyncDispose]: () => server.stop(true) };
}

const attribute = ({ attributes }: Pick<Span, "attributes">, key: string): unknown =>
  Object.values(attributes.find((each) => each.key === key)?.value ?? {})[0];
const durationMs = (span: Span): number => Number(BigInt(span.endTimeUnixNano) - BigInt(span.startTimeUnixNano)) / 1e6;

const timed = () =>
  new FakeRuntime({
    script: (sequence) => {
      sequence.timing = { queueMs: 10, adapterMs: 200, prefillMs: 30, decodeMs: 400 };
      saying("One day.")(sequence);
    },
  });

describe("tracing", () => {
  test("sends a request as a span of the client's trace, with a child for each part of its life", async () => {
    await using collector = standInCollector();
    const tracing = (await openTracing({ OTEL_EXPORTER_OTLP_ENDPOINT: `${collector.url}/`, OTEL_SERVICE_NAME: "adapters" }, "9.9.9"))!;
    const { post } = harness(timed(), { onAnswer: tracing.onAnswer });
    const headers = { traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-request-id": "client-7" };
    await post("/v1/completions", { model: "sql", prompt: "a secret prompt" }, { headers });
    await tracing.close();

    expect([collector.paths, collector.services]).toEqual([["/v1/traces"], ["adapters"]]);
    const root = collector.spans.find(({ name }) => name === "POST /v1/completions")!;
    expect([root.traceId, root.parentSpanId, root.kind]).toEqual(["0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 2]);
    expect(attribute(root, "gen_ai.request.model")).toBe("sql");
    expect(attribute(root, "gen_ai.usage.output_tokens")).toBe(8);
    expect(attribute(root, "lorikeet.adapter")).toBe("sql");
    expect(attribute(root, "lorikeet.request_id")).toBe("client-7");
    const children = collector.spans.filter(({ parentSpanId }) => parentSpanId === root.spanId);
    const durations = children.map((span) => [span.name, Math.round(durationMs(span))] as const);
    expect(durations).toEqual([["adapter wait", 200], ["queue", 10], ["prefill", 30], ["decode", 400]]);
    for (const [i, child] of children.entries()) {
      expect(child.startTimeUnixNano).toBe(i === 0 ? root.startTimeUnixNano : children[i - 1]!.endTimeUnixNano);
    }
    expect(JSON.stringify(collector.spans)).not.toMatch(/secret|One day/);
  });

  test("keeps out of a trace that the client does not sample", async () => {
    await using collector = standInCollector();
    const tracing = (await openTracing({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: `${collector.url}/own` }, "9.9.9"))!;
    const { post } = harness(timed(), { onAnswer: tracing.onAnswer });
    const sampled = (flags: string) => ({ headers: { traceparent: `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-${flags}` } });
    await post("/v1/completions", { model: "demo", prompt: "hi" }, sampled("00"));
    await post("/v1/completions", { model: "demo", prompt: "hi" }, sampled("01"));
    await tracing.close();
    expect(collector.paths).toEqual(["/own"]);
    expect(collector.spans.filter(({ name }) => name.startsWith("POST")).length).toBe(1);
  });

  test("sends loads and copies of adapters, and what went wrong", async () => {
    await using collector = standInCollector();
    const tracing = (await openTracing({ OTEL_EXPORTER_OTLP_ENDPOINT: collector.url }, "9.9.9"))!;
    tracing.onTransition({ actor: "adapterLoader", type: "adapter.reading", adapter: "sql" });
    tracing.onTransition({ actor: "adapterLoader", type: "adapter.loaded", adapter: "sql", elapsedMs: 120 });
    tracing.onTransition({ actor: "slotAllocator", type: "slot.filled", adapter: "sql", elapsedMs: 4 });
    const error = { code: "adapter_invalid", message: "no" } as const;
    tracing.onTransition({ actor: "adapterLoader", type: "adapter.failed", adapter: "fr", elapsedMs: 2, error });
    await tracing.close();
    const told = collector.spans.map((span) => [span.name, attribute(span, "lorikeet.adapter"), Math.round(durationMs(span)), span.status.code]);
    expect(told).toEqual([["adapter load", "sql", 120, 0], ["adapter attach", "sql", 4, 0], ["adapter load", "fr", 2, 2]]);
  });

  test("does not hold answers back when nobody listens", async () => {
    const tracing = (await openTracing({ OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:9" }, "9.9.9"))!;
    const { post } = harness(timed(), { onAnswer: tracing.onAnswer });
    expect((await post("/v1/completions", { model: "demo", prompt: "hi" })).status).toBe(200);
  });

  test.each([{}, { OTEL_EXPORTER_OTLP_ENDPOINT: "" }, { OTEL_EXPORTER_OTLP_ENDPOINT: "http://127.0.0.1:4318", OTEL_SDK_DISABLED: "true" }])(
    "is off with %p",
    async (env) => {
      expect(await openTracing(env, "9.9.9")).toBeNull();
    },
  );

  test.each([
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4317" }, "must be the http or https address"],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "http://collector:4317", OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" }, "OTEL_EXPORTER_OTLP_PROTOCOL grpc is not served"],
  ])("refuses %p", async (env, message) => {
    const opening = openTracing(env, "9.9.9");
    expect(opening).rejects.toThrow(message);
    await opening.catch(() => undefined);
  });
});
