/** @jsxImportSource preact */
/** The memory to scale: who holds which of the KV pages, and which part of the device and of the host. */
import type { JSX } from "preact";
import { hueOf } from "./color.ts";
import { formatBytes, formatPercent, plural } from "./format.ts";
import type { MemoryState, Tier } from "./live-state.ts";
import { PoolGrid } from "./pool-grid.tsx";

interface Region {
  readonly key: string;
  readonly name: string;
  /** How much of the bar, 0 to 1. */
  readonly part: number;
  readonly hue: number | null;
  readonly isUsed: boolean;
  readonly told: string;
}

interface BarProps {
  readonly title: string;
  readonly note: string;
  readonly regions: readonly Region[];
  /** In place of the bar. */
  readonly picture?: JSX.Element;
}

export function MemoryFigure({ memory }: { readonly memory: MemoryState }): JSX.Element {
  const { pool, kv, device, host, weightBytes } = memory;
  const usedPages = kv.held.reduce((sum, { numPages }) => sum + numPages, 0);
  return (
    <section aria-labelledby="memory-title" class="memory">
      <h2 id="memory-title">Memory</h2>
      <Bar
        title="KV pages"
        note={`${usedPages} of up to ${plural(kv.numPages, "page")} of ${kv.pageTokens} tokens; pages (squares) and adapters (discs) share ${formatBytes(pool.numBytes)}`}
        regions={pageRegions(kv)}
        picture={<PoolGrid {...memory} />}
      />
      <Bar title="Adapters on the device" note={noteOf(device)} regions={regionsOf(device)} />
      <Bar title="Adapters on the host" note={noteOf(host)} regions={regionsOf(host)} />
      <p class="note">The base model's weights take {formatBytes(weightBytes)} beside these. Paler regions are not in use and may make room.</p>
    </section>
  );
}

function Bar({ title, note, regions, picture }: BarProps): JSX.Element {
  const held = regions.reduce((sum, { part }) => sum + part, 0);
  const shown = regions.slice(0, MAX_NAMED);
  return (
    <figure class="bar">
      <figcaption>
        <span class="bar-title">{title}</span>
        <span class="bar-percent">{formatPercent(held)}</span>
        <span class="note">{note}</span>
      </figcaption>
      {picture ?? <Track regions={regions} />}
      <ul class="holders">
        {shown.map(({ key, name, hue, isUsed, told }) => (
          <li key={key}>
            <i class={isUsed ? "region" : "region idle"} style={hue === null ? {} : { "--hue": String(hue) }} data-base={hue === null ? "" : undefined} />
            {name} <span>{told}{isUsed ? "" : ", idle"}</span>
          </li>
        ))}
        {regions.length > shown.length && <li>and {regions.length - shown.length} more</li>}
        {regions.length === 0 && <li class="empty">empty</li>}
      </ul>
    </figure>
  );
}

function Track({ regions }: Pick<BarProps, "regions">): JSX.Element {
  return (
    <div class="track" aria-hidden="true">
      {regions.map(({ key, name, part, hue, isUsed, told }) => (
        <span
          key={key}
          class={isUsed ? "region" : "region idle"}
          title={`${name}: ${told}`}
          style={{
            width: `${part * 100}%`,
            ...(hue === null ? {} : { "--hue": String(hue) }),
          }}
          data-base={hue === null ? "" : undefined}
        />
      ))}
    </div>
  );
}

const MAX_NAMED = 12;

/** Those of sequences, then what is kept of earlier ones. */
function pageRegions({ held, numIdle, numPages }: MemoryState["kv"]): Region[] {
  const region = (key: string, name: string, count: number, hue: number | null, isUsed: boolean): Region => ({
    key, name, part: count / numPages, hue, isUsed, told: plural(count, "page"),
  });
  const regions = held.map(({ adapter, numPages: count }, i) => region(`${adapter ?? ""}-${i}`, adapter ?? "base", count, adapter === null ? null : hueOf(adapter), true));
  return numIdle === 0 ? regions : [...regions, region("(kept)", "kept prefixes", numIdle, null, false)];
}

const heldBytes = ({ held }: Tier): number => held.reduce((sum, { numBytes }) => sum + numBytes, 0);

const noteOf = (tier: Tier): string => `${plural(tier.held.length, "adapter")}, ${formatBytes(heldBytes(tier))} of ${formatBytes(tier.maxBytes)}`;

/** The latest used first, which is the last to go. */
const regionsOf = ({ held, maxBytes }: Tier): Region[] =>
  held
    .map(({ adapter, numBytes, isUsed }, i) => ({
      key: `${adapter}-${i}`,
      name: adapter,
      part: maxBytes === 0 ? 0 : numBytes / maxBytes,
      hue: hueOf(adapter),
      isUsed,
      told: formatBytes(numBytes),
    }))
    .toReversed();
