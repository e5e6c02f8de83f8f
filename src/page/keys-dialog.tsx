/** @jsxImportSource preact */
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Keys } from "./api.ts";

interface KeysDialogProps {
  readonly keys: Keys;
  readonly hasAdmin: boolean;
  readonly onSave: (keys: Keys) => void;
  readonly onClose: () => void;
}

export function KeysDialog({ keys, hasAdmin, onSave, onClose }: KeysDialogProps): JSX.Element {
  const dialog = useRef<HTMLDialogElement>(null);
  const [api, setApi] = useState(keys.api);
  const [admin, setAdmin] = useState(keys.admin);
  useEffect(() => dialog.current?.showModal(), []);
  const submit = (event: Event): void => {
    event.preventDefault();
    onSave({ api: api.trim(), admin: admin.trim() });
  };
  return (
    <dialog ref={dialog} onClose={onClose} aria-labelledby="keys-title">
      <form onSubmit={submit}>
        <h2 id="keys-title">Keys</h2>
        <p class="note">They are kept until this tab is closed, and sent to this server only.</p>
        <label for="api-key">API key</label>
        <input id="api-key" type="password" autocomplete="off" value={api} onInput={(event) => setApi(event.currentTarget.value)} />
        <label for="admin-key">Admin key</label>
        <input id="admin-key" type="password" autocomplete="off" value={admin} aria-describedby="admin-note" onInput={(event) => setAdmin(event.currentTarget.value)} />
        <p id="admin-note" class="note">
          {hasAdmin ? "For loading and unloading adapters, and for the activity of the server." : "This server has none, so adapters cannot be changed by request."}
        </p>
        <div class="actions">
          <button type="button" onClick={() => dialog.current?.close()}>Cancel</button>
          <button type="submit" class="primary">Save</button>
        </div>
      </form>
    </dialog>
  );
}
