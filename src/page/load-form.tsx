/** @jsxImportSource preact */
import type { JSX } from "preact";
import { useState } from "preact/hooks";

interface LoadFormProps {
  readonly onLoad: (name: string, path: string, isPinned: boolean) => Promise<void>;
}

export function LoadForm({ onLoad }: LoadFormProps): JSX.Element {
  const [name, setName] = useState("");
  const [path, setPath] = useState("");
  const [isPinned, setPinned] = useState(false);
  const submit = (event: Event): void => {
    event.preventDefault();
    void onLoad(name.trim(), path.trim(), isPinned);
  };
  return (
    <form class="load" onSubmit={submit} aria-labelledby="load-title">
      <h3 id="load-title">Load an adapter</h3>
      <div class="field">
        <label for="load-name">Name</label>
        <input id="load-name" required autocomplete="off" value={name} onInput={(event) => setName(event.currentTarget.value)} />
      </div>
      <div class="field wide">
        <label for="load-path">Path on the server</label>
        <input id="load-path" required autocomplete="off" value={path} aria-describedby="load-note" onInput={(event) => setPath(event.currentTarget.value)} />
      </div>
      <label class="check"><input type="checkbox" checked={isPinned} onChange={(event) => setPinned(event.currentTarget.checked)} /> Pin it</label>
      <button type="submit" class="primary">Load</button>
      <p id="load-note" class="note">A directory with a PEFT adapter, or a NeMo archive, under a folder that the server was given by <code>--adapter-root</code>.</p>
    </form>
  );
}
