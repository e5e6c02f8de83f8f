/** @jsxImportSource preact */
/** The pool of KV pages, a square for each page or group of them, in the colour of who holds it. */
import type { JSX } from "preact";
import { hueOf } from "./color.ts";
import type { MemoryState } from "./live-state.ts";

const COLUMNS = 64;
/** A square and the gap after it. */
const PITCH = 10;
const SIDE = 8.6;

export function PageGrid({ cells: { holders }, held }: Pick<MemoryState["kv"], "cells" | "held">): JSX.Element {
  const rows = Math.ceil(holders.length / COLUMNS);
  const squares = (holder: number | null): string =>
    holders.map((each, i) => (each === holder ? `M${(i % COLUMNS) * PITCH} ${Math.floor(i / COLUMNS) * PITCH}h${SIDE}v${SIDE}h-${SIDE}z` : "")).join("");
  return (
    <svg class="pages" viewBox={`0 0 ${COLUMNS * PITCH} ${Math.max(1, rows) * PITCH}`} aria-hidden="true">
      <path class="free" d={squares(null)} />
      {held.map(({ adapter }, holder) => (
        <path key={adapter ?? ""} class="held" d={squares(holder)} style={adapter === null ? {} : { "--hue": String(hueOf(adapter)) }} data-base={adapter === null ? "" : undefined} />
      ))}
    </svg>
  );
}
