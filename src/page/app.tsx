/** @jsxImportSource preact */
/** The page's frame: what is served, three views, and the keys. */
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { AdaptersView } from "./adapters-view.tsx";
import { type Keys, storedKeys, storeKeys } from "./api.ts";
import { KeysDialog } from "./keys-dialog.tsx";
import { LiveView } from "./live-view.tsx";
import { PlaygroundView } from "./playground-view.tsx";
import { applyTheme, storedTheme, THEMES, type Theme } from "./theme.ts";
import { useActivity } from "./use-activity.ts";
import { type Live, useLive } from "./use-live.ts";

const VIEWS = [
  { hash: "#live", title: "Live" },
  { hash: "#adapters", title: "Adapters" },
  { hash: "#playground", title: "Playground" },
] as const;
type Hash = (typeof VIEWS)[number]["hash"];

const hashNow = (): Hash => VIEWS.find(({ hash }) => hash === location.hash)?.hash ?? "#live";

export function App(): JSX.Element {
  const [keys, setKeys] = useState(storedKeys);
  const [areKeysOpen, setKeysOpen] = useState(false);
  const [theme, setTheme] = useState(storedTheme);
  const [hash, setHash] = useState(hashNow);
  const live = useLive(keys);
  const server = live.history?.latest.server;
  const activity = useActivity(keys, server?.hasAdmin ?? false);
  useEffect(() => {
    const follow = () => setHash(hashNow());
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);

  const keep = (given: Keys): void => {
    storeKeys(given);
    setKeys(given);
    setKeysOpen(false);
  };
  const change = (next: Theme): void => {
    applyTheme(next);
    setTheme(next);
  };
  const openKeys = () => setKeysOpen(true);
  return (
    <>
      <a class="skip" href="#main" onClick={focusMain}>Skip to the content</a>
      <header>
        <div class="masthead">
          <h1>Lorikeet</h1>
          <p class="served">
            {server === undefined ? "connecting" : <><strong>{server.model}</strong> <span>{server.backend}</span></>}
          </p>
          <div class="tools">
            <label class="visually-hidden" for="theme">Colours</label>
            <select id="theme" value={theme} onChange={(event) => change(event.currentTarget.value as Theme)}>
              {THEMES.map((each) => <option key={each} value={each}>{each}</option>)}
            </select>
            <button type="button" onClick={openKeys}>Keys</button>
          </div>
        </div>
        <nav aria-label="Views">
          {VIEWS.map((view) => (
            <a key={view.hash} href={view.hash} aria-current={view.hash === hash ? "page" : undefined}>{view.title}</a>
          ))}
        </nav>
      </header>
      <Problem live={live} onKeys={openKeys} />
      <main id="main" tabIndex={-1}>
        {live.history === null ? null : hash === "#adapters" ? (
          <AdaptersView state={live.history.latest} keys={keys} onKeys={openKeys} />
        ) : hash === "#live" ? (
          <LiveView history={live.history} theme={theme} activity={activity} />
        ) : null}
        {/* Kept while others are shown, so that answers go on. */}
        {live.history !== null && (
          <div hidden={hash !== "#playground"}>
            <PlaygroundView state={live.history.latest} keys={keys} />
          </div>
        )}
      </main>
      <footer>
        {server !== undefined && <>Lorikeet {server.version}, up to {server.maxContext.toLocaleString("en")} tokens per request</>}
      </footer>
      {areKeysOpen && <KeysDialog keys={keys} hasAdmin={server?.hasAdmin ?? true} onSave={keep} onClose={() => setKeysOpen(false)} />}
    </>
  );
}

function focusMain(event: Event): void {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

function Problem({ live: { problem, history }, onKeys }: { readonly live: Live; readonly onKeys: () => void }): JSX.Element {
  return (
    <div role="status" class={problem === null ? "visually-hidden" : "problem"}>
      {problem?.needsKey === true ? (
        <>This server answers to those who have an API key. <button type="button" class="primary" onClick={onKeys}>Enter a key</button></>
      ) : problem !== null ? (
        <>{history === null ? "" : "What is shown is old: "}{problem.message}.</>
      ) : null}
    </div>
  );
}
