/** @jsxImportSource preact */
import type { JSX } from "preact";
import { hueOf } from "./color.ts";
import { formatBytes, formatNumber } from "./format.ts";
import type { LiveAdapter } from "./live-state.ts";

interface AdapterRowProps {
  readonly adapter: LiveAdapter;
  readonly isAdmin: boolean;
  readonly onPin: (name: string) => void;
  readonly onUnload: (name: string) => void;
}

const STATES: Readonly<Record<string, string>> = {
  device: "on the device",
  host: "on the host",
  downloading: "being downloaded",
  loading: "loading",
  registered: "not loaded yet",
  failed: "failed",
  draining: "draining",
};

export function AdapterRow({ adapter, isAdmin, onPin, onUnload }: AdapterRowProps): JSX.Element {
  const { name, state, isPinned, rank, numBytes, running, waiting, requests, generatedTokens, lastError } = adapter;
  return (
    <tr data-adapter={name} data-state={state}>
      <th scope="row"><i class="swatch" style={{ "--hue": String(hueOf(name)) }} />{name}</th>
      <td data-label="State">
        <span class={`state ${state}`}>{STATES[state] ?? state}{isPinned ? ", pinned" : ""}</span>
        {lastError !== null && <small class="error">{lastError}</small>}
      </td>
      <td data-label="Rank" class="number">{rank ?? "–"}</td>
      <td data-label="Size" class="number">{numBytes === null ? "–" : formatBytes(numBytes)}</td>
      <td data-label="Now" class="number">{running + waiting === 0 ? "–" : `${running} running${waiting === 0 ? "" : `, ${waiting} waiting`}`}</td>
      <td data-label="Requests" class="number">{formatNumber(requests)}</td>
      <td data-label="Tokens" class="number">{formatNumber(generatedTokens)}</td>
      {isAdmin && (
        <td class="row-actions">
          {!isPinned && state !== "draining" && <button type="button" aria-label={`Pin ${name}`} onClick={() => onPin(name)}>Pin</button>}
          {state !== "draining" && <button type="button" aria-label={`Unload ${name}`} onClick={() => onUnload(name)}>Unload</button>}
        </td>
      )}
    </tr>
  );
}
