/** What the runtime keeps of one content of one adapter name. */
import type { StagedAdapter } from "../actors/adapter-loader/adapter-loader.events.ts";
import { AdapterError, type LorikeetError } from "../core/errors.ts";
import { type AdapterId } from "../core/ids.ts";
import type { Finish, Usage } from "../core/request.ts";
import type { DownloadProgress } from "./adapter-listing.ts";

/** One may be the prompt's doing; an adapter that always overflows only costs others their share. */
const MAX_OVERFLOWS = 3;

export interface AdapterSource {
  /** Directory of its files, or a `.nemo` file; of one that is elsewhere, where that is (`hf://`, `s3://`, `https://`). */
  readonly path: string;
  /** Whether it has to be fetched before it can be read; left out for no. */
  readonly isElsewhere?: boolean;
  /** Format that whoever named the path asked for; `null`, or left out, for the server's. */
  readonly source?: "hf" | "nemo" | null;
  /** Whether its files may be links to anywhere, since no request named it; left out for no. */
  readonly isTrusted?: boolean;
}

export class AdapterRecord implements AdapterSource {
  readonly id: AdapterId;
  readonly name: string;
  path: string;
  isElsewhere: boolean;
  /** Of what was fetched: where from, and which version. */
  origin: string | null = null;
  /** While it is being fetched. */
  download: DownloadProgress | null = null;
  readonly source: "hf" | "nemo" | null;
  readonly isTrusted: boolean;
  /** Unix seconds. */
  readonly created: number;
  /** Its name means another content by now, or nothing: it serves the requests that it has, and goes. */
  isRetired = false;
  isPinned = false;
  isLoading = false;
  digest: string | null = null;
  rank: number | null = null;
  numModules: number | null = null;
  numBytes: number | null = null;
  /** Token ids from whose last occurrence in a prompt on it acts; `null` where it always does, or has not been read. */
  invocation: readonly number[] | null = null;
  /** Sequences that have not ended. */
  numLive = 0;
  numRequests = 0;
  promptTokens = 0;
  generatedTokens = 0;
  numLoads = 0;
  lastError: string | null = null;
  /** Unix seconds. */
  lastUsed: number | null = null;

  /** Requests in a row that ended because it gives numbers that are not finite. */
  #numOverflows = 0;
  /** What its name means since. */
  #heir: AdapterRecord | null = null;

  constructor(id: AdapterId, name: string, { path, isElsewhere = false, source = null, isTrusted = false }: AdapterSource, created: number) {
    this.id = id;
    this.name = name;
    this.path = path;
    this.isElsewhere = isElsewhere;
    this.source = source;
    this.isTrusted = isTrusted;
    this.created = created;
  }

  noteSubmitted(unixSeconds: number): void {
    this.numLive++;
    this.numRequests++;
    this.lastUsed = unixSeconds;
  }

  noteEnded({ reason, error, usage }: Finish): void {
    this.numLive--;
    this.#count(usage);
    if (error?.errorCode === "non_finite_logits") {
      this.#numOverflows++;
      this.lastError = error.message;
    } else if (reason === "stop" || reason === "length") this.#numOverflows = 0;
  }

  /** Why nobody gets it any more, though its files can be read; `null` for one that is served. */
  get shutOut(): AdapterError | null {
    if (this.#numOverflows < MAX_OVERFLOWS) return null;
    return new AdapterError(
      "adapter_invalid",
      `adapter ${this.name} is served no longer: its last ${this.#numOverflows} requests gave numbers that are not finite; check its weights ` +
        "and load it again (load_inplace), or restart the server",
      { field: "lora_name" },
    );
  }

  #count(usage: Usage): void {
    this.promptTokens += usage.promptTokens;
    this.generatedTokens += usage.completionTokens;
    if (this.#heir !== null) this.#heir.#count(usage);
  }

  /** Retires a record whose name is this one's from here on: what is counted by name goes on. */
  succeed(earlier: AdapterRecord): void {
    earlier.isRetired = true;
    earlier.#heir = this;
    this.numRequests += earlier.numRequests;
    this.promptTokens += earlier.promptTokens;
    this.generatedTokens += earlier.generatedTokens;
    this.numLoads += earlier.numLoads;
    this.lastUsed = earlier.lastUsed;
  }

  /** Its files are on this machine from here on. */
  noteFetched(path: string, origin: string | null): void {
    this.path = path;
    this.origin = origin;
    this.isElsewhere = false;
    this.isLoading = false;
  }

  noteLoaded({ image, report }: StagedAdapter): void {
    this.isLoading = false;
    this.digest = image.digest;
    this.rank = report.maxRank;
    this.numModules = report.numModules;
    this.numBytes = report.numBytes;
    this.invocation = report.invocation ?? null;
    this.lastError = null;
    this.numLoads++;
  }

  noteFailed(error: LorikeetError): void {
    this.isLoading = false;
    this.lastError = error.message;
  }
}
