/** @jsxImportSource preact */
/** What happens now: figures, the last minutes, the memory, and what the actors did. */
import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { ActivityList } from "./activity-list.tsx";
import { formatMs, formatNumber, formatPercent } from "./format.ts";
import type { History, Sample } from "./history.ts";
import { type Line, LineChart } from "./line-chart.tsx";
import type { Latency } from "./live-state.ts";
import { MemoryFigure } from "./memory-figure.tsx";
import type { Activity } from "./use-activity.ts";

interface LiveViewProps {
  readonly history: History;
  readonly theme: string;
  readonly activity: Activity;
}

export function LiveView({ history: { latest, samples }, theme, activity }: LiveViewProps): JSX.Element {
  const last = samples.at(-1)!;
  const { kv } = latest.memory;
  const usedPages = kv.held.reduce((sum, { numPages }) => sum + numPages, 0);
  const times = useMemo(() => samples.map(({ time }) => time), [samples]);
  const line = (label: string, color: string, value: (sample: Sample) => number | null, isFaint = false): Line => ({
    label, color, isFaint, values: samples.map(value),
  });
  const chart = { times, theme };
  return (
    <>
      <h2 class="visually-hidden">Now</h2>
      <dl class="figures">
        <Figure name="Tokens per second" value={formatNumber(last.generatedPerS ?? 0)} />
        <Figure name="Running" value={formatNumber(latest.requests.running)} />
        <Figure name="Waiting" value={formatNumber(latest.requests.waiting)} note={latest.requests.waiting > 0 ? `longest ${formatMs(latest.requests.longestWaitMs)}` : ""} />
        <Figure name="First token" value={ms(latest.firstToken, "p50")} note={note95(latest.firstToken)} />
        <Figure name="Between tokens" value={ms(latest.nextToken, "p50")} note={note95(latest.nextToken)} />
        <Figure name="KV pages in use" value={formatPercent(kv.numPages === 0 ? 0 : usedPages / kv.numPages)} />
      </dl>
      <section aria-labelledby="minutes-title">
        <h2 id="minutes-title">The last three minutes</h2>
        <div class="charts">
          <LineChart
            {...chart} title="Tokens per second" format={formatNumber} summary={`${formatNumber(last.generatedPerS ?? 0)} generated now`}
            lines={[line("generated", "--accent", (each) => each.generatedPerS), line("prompts", "--second", (each) => each.promptPerS)]}
          />
          <LineChart
            {...chart} title="Requests" format={formatNumber} summary={`${latest.requests.running} running, ${latest.requests.waiting} waiting`}
            lines={[line("running", "--accent", (each) => each.running), line("waiting", "--second", (each) => each.waiting)]}
          />
          <LineChart
            {...chart} title="Time to first token" format={formatMs} summary={`median ${ms(latest.firstToken, "p50")}`}
            lines={[line("median", "--accent", (each) => each.firstP50), line("95th percentile", "--accent", (each) => each.firstP95, true)]}
          />
          <LineChart
            {...chart} title="Time between tokens" format={formatMs} summary={`median ${ms(latest.nextToken, "p50")}`}
            lines={[line("median", "--accent", (each) => each.nextP50), line("95th percentile", "--accent", (each) => each.nextP95, true)]}
          />
        </div>
      </section>
      <MemoryFigure memory={latest.memory} />
      <ActivityList activity={activity} hasAdmin={latest.server.hasAdmin} />
    </>
  );
}

function Figure({ name, value, note = "" }: { readonly name: string; readonly value: string; readonly note?: string }): JSX.Element {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}{note !== "" && <small>{note}</small>}</dd>
    </div>
  );
}

const ms = (latency: Latency | null, quantile: keyof Latency): string => (latency === null ? "–" : formatMs(latency[quantile]));
const note95 = (latency: Latency | null): string => (latency === null ? "" : `95 %: ${formatMs(latency.p95)}`);
