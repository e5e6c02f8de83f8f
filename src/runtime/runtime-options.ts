/** Limits of a running Lorikeet, each with its unit and default. */
import type { AdapterError } from "../core/errors.ts";
import type { AdapterSource } from "./adapter-record.ts";
import type { Quota } from "../schedule/quotas.ts";

/** An adapter that was found and cannot be served. */
export interface RefusedAdapter {
  readonly name: string;
  readonly error: AdapterError;
}

/** Whose requests they are: shares and quotas are by tenant. */
export interface TenantOptions {
  readonly name: string;
  /** Its share of the device against others that wait, above 0. */
  readonly weight: number;
  readonly quota: Quota;
}

export interface RuntimeOptions {
  /** Adapters known from the start. */
  readonly adapters: readonly ({ readonly name: string } & AdapterSource)[];
  /** Tenants that are not as all others: weight 1, no quota. */
  readonly tenants: readonly TenantOptions[];
  /** Adapters whose requests are answered with the reason why they are not served. */
  readonly refusedAdapters: readonly RefusedAdapter[];
  /** Directories under which requests may name adapters by path; none refuses every path. */
  readonly adapterRoots: readonly string[];
  /** Most adapter names known at once. */
  readonly maxAdapters: number;
  /** Longest sequence in tokens; `null` for what the model's positions and the pages allow. */
  readonly maxContext: number | null;
  /** Whether sequences begin with pages that others of the same tenant have computed. */
  readonly sharesPrefixes: boolean;
  /** Most requests waiting to run. */
  readonly maxWaitingRequests: number;
  /** Most prompt tokens waiting to run. */
  readonly maxWaitingTokens: number;
  /** Longest time from submission to the last token, for requests that give none; `null` for no limit. */
  readonly requestTimeoutMs: number | null;
  /** Whether a step is composed before the one under way is over, on backends that take it then. */
  readonly goesAhead: boolean;
  /** Steps without service after which an adapter goes before all others. */
  readonly agingSteps: number;
  /** Steps that running sequences and adapters in slots have at least, before aged adapters take their place. */
  readonly quantumSteps: number;
  /** Most bytes of adapters on the device; `null` for what one sequence of the longest context leaves. */
  readonly adapterBytes: number | null;
  /** Bytes of staged adapters kept in host memory. */
  readonly hostCacheBytes: number;
  /** Most of them, whatever their bytes. */
  readonly hostCacheAdapters: number;
  /** Adapters staged ahead of a free slot, held beside the host cache. */
  readonly maxImages: number;
  /** Adapters read at once. */
  readonly maxLoads: number;
  /** Reads of an adapter whose I/O fails, before its requests fail. */
  readonly maxLoadAttempts: number;
  /** Wait before the second read, doubled before each further one. */
  readonly loadBackoffMs: number;
  /** Longest read of an adapter; the load of one that hangs fails then. */
  readonly loadTimeoutMs: number;
  /** For how long an adapter that failed is refused without being read again. */
  readonly loadFailureMs: number;
  /** Most tokens, and characters, that a reader may leave unread before its request is cancelled. */
  readonly maxUnreadTokens: number;
  readonly maxUnreadChars: number;
}

export const defaultRuntimeOptions: RuntimeOptions = {
  adapters: [],
  refusedAdapters: [],
  tenants: [],
  adapterRoots: [],
  maxAdapters: 16_384,
  maxContext: null,
  sharesPrefixes: true,
  maxWaitingRequests: 1024,
  maxWaitingTokens: 1_048_576,
  requestTimeoutMs: 600_000,
  goesAhead: true,
  agingSteps: 128,
  quantumSteps: 512,
  adapterBytes: null,
  hostCacheBytes: 2 ** 30,
  hostCacheAdapters: Infinity,
  maxImages: 4,
  maxLoads: 2,
  maxLoadAttempts: 3,
  loadBackoffMs: 200,
  loadTimeoutMs: 300_000,
  loadFailureMs: 30_000,
  maxUnreadTokens: 65_536,
  maxUnreadChars: 262_144,
};
