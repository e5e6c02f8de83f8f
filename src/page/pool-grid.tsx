/** @jsxImportSource preact */
/** The memory that pages and adapters share: a square for each page, a disc for each extent of an adapter, in the colour of who holds it. */
import type { JSX } from "preact";
import { hueOf } from "./color.ts";
import type { MemoryState } from "./live-state.ts";

/** Fewer on a phone, so that a square can still be seen. */
const columnsOf = (width: number): number => (width < 600 ? 32 : 64);
/** A square and the gap after it. */
const PITCH = 10;
const SIDE = 8.6;

export function PoolGrid({ pool, kv, device }: Pick<MemoryState, "pool" | "kv" | "device">): JSX.Element {
  const { holders } = pool.cells;
  const { held } = kv;
  const columns = columnsOf(window.innerWidth);
  const rows = Math.ceil(holders.length / columns);
  const shapes = (holder: number | null, shape: (x: number, y: number) => string): string =>
    holders.map((each, i) => (each === holder ? shape((i % columns) * PITCH, Math.floor(i / columns) * PITCH) : "")).join("");
  const squares = (holder: number | null): string => shapes(holder, (x, y) => `M${x} ${y}h${SIDE}v${SIDE}h-${SIDE}z`);
  const discs = (holder: number): string => shapes(holder, (x, y) => `M${x} ${y + SIDE / 2}a${SIDE / 2} ${SIDE / 2} 0 1 1 0 0.01z`);
  return (
    <svg class="pages" viewBox={`0 0 ${columns * PITCH} ${Math.max(1, rows) * PITCH}`} aria-hidden="true">
      <path class="free" d={squares(null)} />
      <path class="kept" d={squares(held.length)} />
      {held.map(({ adapter }, holder) => (
        <path key={adapter ?? ""} class="held" d={squares(holder)} style={adapter === null ? {} : { "--hue": String(hueOf(adapter)) }} data-base={adapter === null ? "" : undefined} />
      ))}
      {device.held.map(({ adapter, isUsed }, i) => (
        <path key={`${adapter}-${i}`} class={isUsed ? "seated" : "seated idle"} d={discs(held.length + 1 + i)} style={{ "--hue": String(hueOf(adapter)) }} />
      ))}
    </svg>
  );
}
