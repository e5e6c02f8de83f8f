/** @jsxImportSource preact */
/** The pool of KV pages, a square for each page or group of them, in the colour of who holds it. */
import type { JSX } from "preact";
import { hueOf } from "./color.ts";
import type { MemoryState } from "./live-state.ts";

/** Fewer on a phone, so that a square can still be seen. */
const columnsOf = (width: number): number => (width < 600 ? 32 : 64);
/** A square and the gap after it. */
const PITCH = 10;
const SIDE = 8.6;

export function PageGrid({ cells: { holders }, held }: Pick<MemoryState["kv"], "cells" | "held">): JSX.Element {
  const columns = columnsOf(window.innerWidth);
  const rows = Math.ceil(holders.length / columns);
  const squares = (holder: number | null): string =>
    holders.map((each, i) => (each === holder ? `M${(i % columns) * PITCH} ${Math.floor(i / columns) * PITCH}h${SIDE}v${SIDE}h-${SIDE}z` : "")).join("");
  return (
    <svg class="pages" viewBox={`0 0 ${columns * PITCH} ${Math.max(1, rows) * PITCH}`} aria-hidden="true">
      <path class="free" d={squares(null)} />
      <path class="kept" d={squares(held.length)} />
      {held.map(({ adapter }, holder) => (
        <path key={adapter ?? ""} class="held" d={squares(holder)} style={adapter === null ? {} : { "--hue": String(hueOf(adapter)) }} data-base={adapter === null ? "" : undefined} />
      ))}
    </svg>
  );
}
