/**
 * OpenTelemetry spans over OTLP, where the environment names a collector.
 *
 * A request is one span with a child for each part of its life, written when it is over, from times that the
 * scheduler kept anyway: nothing is measured twice, and without a collector none of the packages is loaded.
 *
 * @source OpenTelemetry semantic conventions for HTTP and generative AI; W3C Trace Context
 */
import type { Attributes, Context, Tracer } from "@opentelemetry/api";
import { ConfigError } from "../../core/errors.ts";
import type { Finish } from "../../core/request.ts";
import type { Transition } from "../../runtime/runtime.ts";
import type { AnswerListener, AnswerRecord } from "./answer-record.ts";

export interface Tracing {
  readonly onAnswer: AnswerListener;
  /** Loads and copies of adapters become spans of their own. */
  readonly onTransition: (transition: Transition) => void;
  /** Sends what is left. */
  close(): Promise<void>;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * @returns `null` where the environment names no collector, or `OTEL_SDK_DISABLED` is true
 * @throws {ConfigError} `config_invalid` for a collector that cannot be reached this way
 */
export async function openTracing(env: Environment, version: string): Promise<Tracing | null> {
  const url = collectorOf(env);
  if (url === null) return null;
  const { context, trace, SpanKind, SpanStatusCode, ROOT_CONTEXT } = await import("@opentelemetry/api");
  const { W3CTraceContextPropagator } = await import("@opentelemetry/core");
  const { OTLPTraceExporter } = await import("@opentelemetry/exporter-trace-otlp-http");
  const { defaultResource, detectResources, envDetector, resourceFromAttributes } = await import("@opentelemetry/resources");
  const { BatchSpanProcessor, TracerProvider } = await import("@opentelemetry/sdk-trace");
  const own = resourceFromAttributes({ "service.name": env["OTEL_SERVICE_NAME"] ?? "lorikeet", "service.version": version });
  const provider = new TracerProvider({
    resource: defaultResource().merge(own).merge(detectResources({ detectors: [envDetector] })),
    spanProcessors: [new BatchSpanProcessor({ exporter: new OTLPTraceExporter({ url }) })],
  });
  const tracer = provider.getTracer("lorikeet", version);
  const propagator = new W3CTraceContextPropagator();
  const getter = { get: (headers: Headers, key: string) => headers.get(key) ?? undefined, keys: (headers: Headers) => [...headers.keys()] };

  const onAnswer = (record: AnswerRecord): void => {
    const parent = propagator.extract(ROOT_CONTEXT, record.headers, getter);
    const { startUnixMs: startTime, durationMs, error } = record;
    const span = tracer.startSpan(`POST ${record.route}`, { kind: SpanKind.SERVER, startTime, attributes: attributesOf(record) }, parent);
    if (error !== null) span.setStatus({ code: SpanStatusCode.ERROR, message: error });
    const inside = trace.setSpan(parent, span);
    record.finishes.forEach((finish, choice) => {
      if (finish !== null) writePhases(tracer, inside, finish, startTime, { "lorikeet.choice": choice });
    });
    span.end(startTime + durationMs);
  };
  const onTransition = ({ type, adapter, elapsedMs, error }: Transition): void => {
    const name = ADAPTER_SPANS[type];
    if (name === undefined || adapter === undefined || elapsedMs === undefined) return;
    const endMs = Date.now();
    const span = tracer.startSpan(name, { startTime: endMs - elapsedMs, attributes: { "lorikeet.adapter": adapter } }, context.active());
    if (error !== undefined) span.setStatus({ code: SpanStatusCode.ERROR, message: error.code });
    span.end(endMs);
  };
  return { onAnswer, onTransition, close: () => provider.shutdown() };
}

/** What has an end with a duration, by the transition that tells it. */
const ADAPTER_SPANS: { readonly [T in Transition["type"]]?: string } = {
  "adapter.fetched": "adapter download",
  "adapter.loaded": "adapter load",
  "adapter.failed": "adapter load",
  "slot.filled": "adapter attach",
};

/** Phases follow one another without gaps. */
function writePhases(tracer: Tracer, parent: Context, { timing }: Finish, startMs: number, attributes: Attributes): void {
  const phases = [
    ["adapter wait", timing.adapterMs],
    ["queue", timing.queueMs],
    ["prefill", timing.prefillMs],
    ["decode", timing.decodeMs],
  ] as const;
  let atMs = startMs;
  for (const [name, durationMs] of phases) {
    tracer.startSpan(name, { startTime: atMs, attributes }, parent).end(atMs + durationMs);
    atMs += durationMs;
  }
}

const attributesOf = ({ requestId, route, model, adapter, isStream, usage, finishes, error }: AnswerRecord): Attributes => ({
  "http.request.method": "POST",
  "http.route": route,
  "gen_ai.operation.name": route.includes("chat") ? "chat" : "text_completion",
  "gen_ai.request.model": model,
  "gen_ai.request.stream": isStream,
  "gen_ai.response.finish_reasons": finishes.map((finish) => finish?.reason ?? "error"),
  "gen_ai.usage.input_tokens": usage.promptTokens,
  "gen_ai.usage.output_tokens": usage.completionTokens,
  "lorikeet.request_id": requestId,
  ...(adapter === null ? {} : { "lorikeet.adapter": adapter }),
  ...(error === null ? {} : { "error.type": error }),
});

function collectorOf(env: Environment): string | null {
  const traces = env["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] ?? "";
  const all = env["OTEL_EXPORTER_OTLP_ENDPOINT"] ?? "";
  if ((traces === "" && all === "") || env["OTEL_SDK_DISABLED"]?.toLowerCase() === "true") return null;
  const [field, given] = traces === "" ? ["OTEL_EXPORTER_OTLP_ENDPOINT", all] : ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", traces];
  const protocol = env["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] ?? env["OTEL_EXPORTER_OTLP_PROTOCOL"] ?? "http/json";
  if (!protocol.startsWith("http/")) {
    throw new ConfigError("config_invalid", `OTEL_EXPORTER_OTLP_PROTOCOL ${protocol} is not served; set http/json and the collector's HTTP port, usually 4318`, {
      field: "OTEL_EXPORTER_OTLP_PROTOCOL",
    });
  }
  if (!URL.canParse(given) || !/^https?:$/.test(new URL(given).protocol)) {
    throw new ConfigError("config_invalid", `${field} must be the http or https address of a collector, got ${JSON.stringify(given.slice(0, 100))}`, { field });
  }
  return traces === "" ? `${all.replace(/\/+$/, "")}/v1/traces` : traces;
}
