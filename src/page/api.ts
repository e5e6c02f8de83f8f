/** Calls of the server that this page comes from. Keys live as long as the tab. */
export interface Keys {
  readonly api: string;
  readonly admin: string;
}

export class CallError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const STORED = "lorikeet-keys";

export function storedKeys(): Keys {
  try {
    const stored = JSON.parse(sessionStorage.getItem(STORED) ?? "{}") as Partial<Keys>;
    return { api: stored.api ?? "", admin: stored.admin ?? "" };
  } catch {
    return { api: "", admin: "" };
  }
}

export const storeKeys = (keys: Keys): void => sessionStorage.setItem(STORED, JSON.stringify(keys));

export interface Call {
  readonly path: string;
  /** Sent as JSON by POST; left out for GET. */
  readonly body?: object;
  readonly asAdmin?: boolean;
  readonly signal?: AbortSignal;
}

/** @throws {CallError} with the server's own sentence; a `TypeError` where it cannot be reached */
export async function call(keys: Keys, { path, body, asAdmin = false, signal }: Call): Promise<Response> {
  const key = asAdmin ? keys.admin : keys.api || keys.admin;
  const response = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers: {
      ...(key === "" ? {} : { authorization: `Bearer ${key}` }),
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    ...(signal === undefined ? {} : { signal }),
  });
  if (response.ok) return response;
  const told = (await response.json().catch(() => null)) as { readonly error?: { readonly code?: string; readonly message?: string } } | null;
  throw new CallError(response.status, told?.error?.code ?? "unknown", told?.error?.message ?? `the server answered ${response.status}`);
}

export const messageOf = (thrown: unknown): string =>
  thrown instanceof CallError ? thrown.message : thrown instanceof TypeError ? "the server cannot be reached" : String(thrown);
