/** @jsxImportSource preact */
/** Each adapter's state and use; with the admin key, loading, pinning and unloading. */
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { AdapterRow } from "./adapter-row.tsx";
import { call, type Keys, messageOf } from "./api.ts";
import { plural } from "./format.ts";
import type { LiveState } from "./live-state.ts";
import { LoadForm } from "./load-form.tsx";

interface AdaptersViewProps {
  readonly state: LiveState;
  readonly keys: Keys;
  readonly onKeys: () => void;
}

/** What was last done, and whether it went well. */
interface Outcome {
  readonly text: string;
  readonly isGood: boolean;
}

export function AdaptersView({ state, keys, onKeys }: AdaptersViewProps): JSX.Element {
  const [filter, setFilter] = useState("");
  const [outcome, setOutcome] = useState<Outcome | null>(null);
  const isAdmin = keys.admin !== "" && state.server.hasAdmin;
  const shown = state.adapters.filter(({ name }) => name.toLowerCase().includes(filter.trim().toLowerCase()));

  const act = async (doing: string, done: string, change: () => Promise<unknown>): Promise<void> => {
    setOutcome({ text: `${doing} …`, isGood: true });
    try {
      await change();
      setOutcome({ text: done, isGood: true });
    } catch (thrown) {
      setOutcome({ text: messageOf(thrown), isGood: false });
    }
  };
  const post = (path: string, body: object) => call(keys, { path, body, asAdmin: true });
  const unload = (name: string) =>
    act(`Unloading ${name}`, `${name} is unloaded.`, () => post("/v1/unload_lora_adapter", { lora_name: name }));
  /** Reads the same files under the same name again, to stay from then on. */
  const pin = (name: string) =>
    act(`Pinning ${name}`, `${name} is pinned: it stays in memory.`, async () => {
      const listed = (await (await call(keys, { path: "/v1/adapters", asAdmin: true })).json()) as { data: { id: string; path?: string }[] };
      const path = listed.data.find(({ id }) => id === name)?.path;
      return post("/v1/load_lora_adapter", { lora_name: name, lora_path: path, load_inplace: true, pin: true });
    });
  const load = (name: string, path: string, isPinned: boolean) =>
    act(`Loading ${name}`, `${name} is loaded.`, () => post("/v1/load_lora_adapter", { lora_name: name, lora_path: path, pin: isPinned }));

  return (
    <section aria-labelledby="adapters-title">
      <div class="section-head">
        <h2 id="adapters-title">Adapters</h2>
        <p class="note">{plural(state.numAdapters, "adapter")}{state.numAdapters > state.adapters.length ? `, the ${state.adapters.length} most used are shown` : ""}</p>
        <div class="search">
          <label for="filter">Find</label>
          <input id="filter" type="search" value={filter} placeholder="name" onInput={(event) => setFilter(event.currentTarget.value)} />
        </div>
      </div>
      <p role="status" class={outcome === null ? "visually-hidden" : outcome.isGood ? "outcome" : "outcome bad"}>{outcome?.text}</p>
      <div class="table" role="region" aria-label="Table of adapters" tabIndex={0}>
        <table>
          <thead>
            <tr>
              <th scope="col">Name</th>
              <th scope="col">State</th>
              <th scope="col" class="number">Rank</th>
              <th scope="col" class="number">Size</th>
              <th scope="col" class="number">Now</th>
              <th scope="col" class="number">Requests</th>
              <th scope="col" class="number">Tokens</th>
              {isAdmin && <th scope="col"><span class="visually-hidden">Actions</span></th>}
            </tr>
          </thead>
          <tbody>
            {shown.map((adapter) => (
              <AdapterRow key={`${adapter.name} ${adapter.state === "draining"}`} adapter={adapter} isAdmin={isAdmin} onPin={pin} onUnload={unload} />
            ))}
          </tbody>
        </table>
        {shown.length === 0 && <p class="empty">{state.numAdapters === 0 ? "No adapter is known yet." : "No adapter has such a name."}</p>}
      </div>
      {isAdmin ? (
        <LoadForm onLoad={load} />
      ) : state.server.hasAdmin ? (
        <p class="note">Adapters are loaded, pinned and unloaded with the admin key. <button type="button" onClick={onKeys}>Enter the admin key</button></p>
      ) : (
        <p class="note">The server was started without an admin key (<code>--admin-key</code>), so its adapters cannot be changed from here.</p>
      )}
    </section>
  );
}
