/** @jsxImportSource preact */
import type { JSX } from "preact";
import { hueOf } from "./color.ts";
import { formatMs, formatNumber } from "./format.ts";
import type { AnswerEnd } from "./stream-answer.ts";

export interface ColumnState {
  readonly model: string;
  readonly isBase: boolean;
  readonly text: string;
  readonly end: AnswerEnd | null;
  readonly error: string | null;
}

export const isOver = ({ end, error }: ColumnState): boolean => end !== null || error !== null;

export function AnswerColumn({ column }: { readonly column: ColumnState }): JSX.Element {
  const { model, isBase, text, end, error } = column;
  return (
    <article class="answer" aria-label={`Answer of ${model}`} aria-busy={!isOver(column)}>
      <h3>{!isBase && <i class="swatch" style={{ "--hue": String(hueOf(model)) }} />}{model}</h3>
      <p class="text">{text}{!isOver(column) && <span class="caret" aria-hidden="true" />}</p>
      {error !== null && <p class="error">{error}</p>}
      {end !== null && <Timing end={end} />}
    </article>
  );
}

function Timing({ end: { finish, numTokens, timeline } }: { readonly end: AnswerEnd }): JSX.Element {
  if (timeline === null) return <p class="note">{formatNumber(numTokens)} tokens, {finish}</p>;
  const parts = [
    ["adapter", timeline.adapter_ms],
    ["queue", timeline.queue_ms],
    ["prefill", timeline.prefill_ms],
    ["decode", timeline.decode_ms],
  ] as const;
  const perSecond = timeline.decode_ms > 0 && numTokens > 1 ? `, ${formatNumber(((numTokens - 1) * 1000) / timeline.decode_ms)} per second` : "";
  return (
    <footer>
      <div class="phases" aria-hidden="true">
        {parts.map(([name, ms]) => <span key={name} class={name} style={{ flexGrow: ms }} title={`${name}: ${formatMs(ms)}`} />)}
      </div>
      <p class="note">{formatNumber(numTokens)} tokens{perSecond}, {finish}</p>
      <p class="note">{parts.map(([name, ms]) => `${name} ${formatMs(ms)}`).join(" · ")}</p>
    </footer>
  );
}
