/**
 * The shipped registry, control, fetcher, loader, host cache and slot allocator under faults drawn from a seed.
 *
 * The simulation stands in for the scheduler (who leases), sources (what comes, and when), the disk (what a read gives, and
 * when) and the device (when an upload ends, and whether); sequences that are nobody's take and leave pages of the same memory. One step
 * is one thing that happens: a request, a cancel, a load, replacement, pin or unload, the end of a download, a read or an upload, a
 * sequence that grows or ends, or time. What must hold is checked after every step.
 */
import { ExtentPool } from "../../src/core/extent-pool.ts";
import { type AdapterId, asAdapterId, asRequestId, type PageId, type SlotId } from "../../src/core/ids.ts";
import type { Finish } from "../../src/core/request.ts";
import type { StagedAdapter } from "../../src/actors/adapter-loader/adapter-loader.events.ts";
import { startTiers, type SystemFact, type Tiers } from "../../src/actors/system.ts";
import type { AdapterImage } from "../../src/backend/backend.ts";
import { AdapterError, CapacityError, LorikeetError, NativeError } from "../../src/core/errors.ts";
import type { AdapterWeights } from "../../src/lora/adapter-weights.ts";
import { HostLru } from "../../src/lora/host-lru.ts";
import { SlotPool, type SlotPoolOptions } from "../../src/lora/slot-pool.ts";
import { PagePool } from "../../src/kv/page-pool.ts";
import { AdapterControl } from "../../src/runtime/adapter-control.ts";
import type { AdapterRecord } from "../../src/runtime/adapter-record.ts";
import { AdapterRegistry } from "../../src/runtime/adapter-registry.ts";
import { AdapterFetches, type FetchedAdapter } from "../../src/runtime/fetch-adapter.ts";
import { AdapterStager } from "../../src/runtime/stage-adapter.ts";
import { weightsOf } from "../helpers/runtime.ts";
import { Chance, VirtualTime } from "./virtual-time.ts";

/** A rule broken on purpose, to see that the simulation notices. */
export interface Mutant {
  readonly pool?: (options: SlotPoolOptions) => SlotPool;
  readonly extents?: (numExtents: number) => ExtentPool;
  readonly lru?: (maxBytes: number, maxAdapters: number) => HostLru<StagedAdapter>;
  /** Between the actors and the runtime's stager. */
  readonly stage?: (stage: (record: AdapterRecord) => Promise<StagedAdapter>) => (record: AdapterRecord) => Promise<StagedAdapter>;
  /** Between the control and the actors. */
  readonly tiers?: (tiers: Tiers) => Tiers;
  readonly loadFailureMs?: number;
  readonly loadTimeoutMs?: number;
}

export interface TierReport {
  readonly steps: number;
  readonly requests: number;
  readonly ended: Readonly<Record<Ending, number>>;
  readonly fetches: number;
  readonly failedFetches: number;
  readonly reads: number;
  readonly failedReads: number;
  readonly hungReads: number;
  readonly uploads: number;
  readonly failedUploads: number;
  readonly evictions: number;
  readonly replaced: number;
  readonly unloaded: number;
  readonly pinned: number;
  readonly reclaimed: number;
  readonly claimed: number;
  readonly grown: number;
  readonly traceHash: number;
}

type Ending = "done" | "cancelled" | "refused";

interface Request {
  readonly index: number;
  readonly adapterId: AdapterId;
  isRunning: boolean;
  /** Of the content that it began with. */
  digest: string | null;
  ending: Ending | null;
}

interface Group {
  readonly record: AdapterRecord;
  readonly requests: Set<Request>;
  leaseNumber: number;
  lease: "none" | "asked" | "blocked" | "held";
  slot: SlotId | null;
}

interface Pending<T> {
  readonly resolve: (value: T) => void;
  readonly reject: (error: unknown) => void;
}
interface Fetch extends Pending<FetchedAdapter> {
  readonly source: string;
  readonly signal: AbortSignal;
}
interface Read extends Pending<AdapterWeights> {
  readonly record: AdapterRecord;
  readonly hangs: boolean;
}
/** What lies on the device. */
interface Attached {
  readonly slot: SlotId;
  readonly extent: number;
  readonly image: AdapterImage;
}
type Upload = Attached & Pending<void>;

const LOAD_FAILURE_MS = 40;
const LOAD_TIMEOUT_MS = 60;
const MAX_LOADS = 2;
const NUM_NAMES = 10;
const NUM_PATHS = 12;
const NUM_TABLES = 6;
const EXTENT_BYTES = 10;
/** Turns of the event loop in which a retired adapter that nothing uses must have gone. */
const MAX_LEAVING_TURNS = 3;

export class BrokenPromise extends Error {}

function promise(condition: boolean, what: string): asserts condition {
  if (!condition) throw new BrokenPromise(what);
}

class TierSimulation {
  readonly #time = new VirtualTime();
  readonly #chance: Chance;
  readonly #numSlots: number;
  readonly #extents: ExtentPool;
  readonly #pages: PagePool;
  readonly #tables: PageId[][] = Array.from({ length: NUM_TABLES }, () => []);
  readonly #pool: SlotPool;
  readonly #lru: HostLru<StagedAdapter>;
  readonly #registry = new AdapterRegistry(NUM_NAMES);
  readonly #tiers: Tiers;
  readonly #control: AdapterControl;
  readonly #failureRate: number;
  readonly #groups = new Map<AdapterId, Group>();
  readonly #live: Request[] = [];
  readonly #fetches: Fetch[] = [];
  readonly #reads: Read[] = [];
  readonly #uploads: Upload[] = [];
  /** What the device holds. */
  readonly #device = new Map<SlotId, Attached>();
  /** Downloads and loads as the actors tell of them. */
  readonly #fetching = new Set<AdapterId>();
  readonly #reading = new Set<AdapterId>();
  readonly #failures = new Map<AdapterId, { readonly error: LorikeetError; readonly atMs: number }>();
  /** Versions of the content at each path: files change. */
  readonly #versions = Array.from({ length: NUM_PATHS }, () => 1);
  readonly #retired = new Map<AdapterRecord, number>();
  readonly #pinnedSlots = new Map<AdapterRecord, SlotId>();
  readonly #ended: Record<Ending, number> = { done: 0, cancelled: 0, refused: 0 };
  readonly #counts = {
    fetches: 0, failedFetches: 0, reads: 0, failedReads: 0, hungReads: 0, uploads: 0, failedUploads: 0, evictions: 0, replaced: 0, unloaded: 0, pinned: 0,
    reclaimed: 0, claimed: 0, grown: 0,
  };
  readonly #refusals: { readonly adapterId: AdapterId; readonly error: LorikeetError; readonly atMs: number }[] = [];
  readonly #broken: unknown[] = [];
  #numRequests = 0;
  #nextLease = 1;
  #numTurns = 0;
  #numControls = 0;
  #isOver = false;
  #traceHash = 2166136261;
  step = 0;

  constructor(seed: number, mutant: Mutant) {
    const chance = (this.#chance = new Chance(seed));
    this.#numSlots = chance.int(1, 5);
    const deviceBytes = chance.int(200, 600);
    const hostBytes = chance.int(0, 900);
    const hostAdapters = chance.isOnce(0.5) ? Infinity : chance.int(1, 6);
    this.#failureRate = chance.isOnce(0.7) ? chance.next() * 0.3 : 0;
    const numAdapterExtents = Math.ceil(deviceBytes / EXTENT_BYTES);
    const numExtents = numAdapterExtents + chance.int(8, 60);
    this.#extents = (mutant.extents ?? ((count) => new ExtentPool(count)))(numExtents);
    // Sometimes so many that adapters have to be waited for.
    const numPages = chance.isOnce(0.7) ? numExtents : numExtents - numAdapterExtents;
    this.#pages = new PagePool(this.#extents, 1, numPages, (page) => {
      this.#counts.reclaimed++;
      return [page];
    });
    this.#pool = (mutant.pool ?? ((options) => new SlotPool(options)))({
      numSlots: this.#numSlots, maxBytes: numAdapterExtents * EXTENT_BYTES, extents: this.#extents, extentBytes: EXTENT_BYTES,
    });
    this.#lru = (mutant.lru ?? ((bytes, most) => new HostLru(bytes, most)))(hostBytes, hostAdapters);
    const stage0 = ({ digest, report }: AdapterWeights): Promise<AdapterImage> => Promise.resolve({ digest, numBytes: report.numBytes });
    const stager = new AdapterStager((record) => this.#read(record), { stage: stage0 }, this.#pool);
    const fetches = new AdapterFetches((source, signal) => this.#fetch(source, signal));
    const stage = (mutant.stage ?? ((each) => each))((record) => stager.stage(record));
    const tiers = startTiers({
      backend: {
        attach: (slot, extent, image) => this.#attach({ slot, extent, image }),
        detach: (slot) => this.#guard(() => this.#detach(slot)),
      },
      pool: this.#pool,
      lru: this.#lru,
      isElsewhere: (adapterId) => this.#registry.get(adapterId).isElsewhere,
      fetchAdapter: (adapterId, signal) => fetches.fetch(this.#registry.get(adapterId), signal),
      readAdapter: async (adapterId) => stage(this.#registry.get(adapterId)),
      maxImages: chance.int(1, 4),
      maxLoads: MAX_LOADS,
      maxLoadAttempts: 2,
      loadBackoffMs: 4,
      loadTimeoutMs: mutant.loadTimeoutMs ?? LOAD_TIMEOUT_MS,
      loadFailureMs: mutant.loadFailureMs ?? LOAD_FAILURE_MS,
      clock: this.#time.clock,
      timers: this.#time.timers,
      onState: () => undefined,
      onFact: (fact) => this.#guard(() => this.#hear(fact)),
      onFatal: (error) => void this.#broken.push(error),
    });
    const forget = (adapterId: AdapterId): void => {
      this.#fetching.delete(adapterId);
      this.#reading.delete(adapterId);
      tiers.forget(adapterId);
    };
    this.#tiers = (mutant.tiers ?? ((each) => each))({ ...tiers, forget });
    this.#control = new AdapterControl({
      registry: this.#registry,
      lru: this.#lru,
      pool: this.#pool,
      system: this.#tiers,
      // Every path is a source that may be named, and what was fetched lies under its name.
      adapterRoots: [],
      sourceOf: (path) => path,
      onLoad: () => undefined,
      clock: this.#time.clock,
      yieldTurn: this.#time.yieldTurn,
    });
    for (let i = 0; i < NUM_NAMES / 2; i++) this.#registry.register(`n${i}`, { path: `${i}`, isElsewhere: i % 2 === 0 }, 0);
  }

  async run(numSteps: number): Promise<TierReport> {
    for (; this.step < numSteps; this.step++) {
      await this.#act();
      this.#check();
    }
    await this.#finish();
    return { steps: this.step, requests: this.#numRequests, ended: this.#ended, ...this.#counts, traceHash: this.#traceHash };
  }

  /** What breaks inside an actor must not be taken for that actor's own failure. */
  #guard(act: () => void): void {
    try {
      act();
    } catch (thrown) {
      this.#broken.push(thrown);
    }
  }

  #act(): Promise<void> | void {
    const draw = this.#chance.int(0, 99);
    this.#trace(draw);
    if (draw < 26) return this.#submit();
    if (draw < 42) return this.#endRandom("done");
    if (draw < 48) return this.#endRandom("cancelled");
    if (draw < 54) return this.#preempt();
    if (draw < 70) return draw < 58 ? this.#endFetch() : this.#endRead();
    if (draw < 84) return this.#endUpload();
    if (draw < 87) return this.#load();
    if (draw < 88) return this.#unload();
    if (draw < 94) return this.#page();
    if (draw < 95) this.#versions[this.#chance.int(0, NUM_PATHS - 1)]!++;
    return this.#advance(this.#chance.int(1, draw < 96 ? 60 : 6));
  }

  async #advance(deltaMs: number): Promise<void> {
    this.#numTurns++;
    await this.#time.advance(deltaMs);
  }

  // The scheduler's part.

  #submit(): void {
    // Squaring makes the first names hot and the last ones rare.
    const record = this.#registry.byName(`n${Math.floor(this.#chance.next() ** 2 * NUM_NAMES)}`);
    if (record === undefined || this.#live.length >= 24) return;
    const request: Request = { index: this.#numRequests++, adapterId: record.id, isRunning: false, digest: null, ending: null };
    record.noteSubmitted(0);
    this.#live.push(request);
    const group = this.#groups.get(record.id) ?? { record, requests: new Set(), leaseNumber: 0, lease: "none", slot: null };
    this.#groups.set(record.id, group);
    group.requests.add(request);
    if (group.lease === "held") this.#start(request, record);
    else if (group.lease === "none") this.#lease(group);
  }

  #start(request: Request, { digest }: AdapterRecord): void {
    request.isRunning = true;
    request.digest ??= digest;
    promise(request.digest === digest, `request ${request.index} goes on with what it began with, ${request.digest}, not ${digest}`);
  }

  #lease(group: Group): void {
    group.lease = "asked";
    group.leaseNumber = this.#nextLease++;
    this.#tiers.lease(group.record.id, group.leaseNumber);
  }

  #giveBack(group: Group): void {
    if (group.lease === "none") return;
    group.lease = "none";
    group.slot = null;
    for (const request of group.requests) request.isRunning = false;
    this.#tiers.release(group.record.id, group.leaseNumber);
  }

  #endRandom(ending: "done" | "cancelled"): void {
    const candidates = ending === "done" ? this.#live.filter(({ isRunning }) => isRunning) : this.#live;
    const request = candidates[this.#chance.int(0, Math.max(0, candidates.length - 1))];
    if (request !== undefined) this.#end(request, ending);
  }

  #end(request: Request, ending: Ending): void {
    promise(request.ending === null, `request ${request.index} ends once`);
    request.ending = ending;
    request.isRunning = false;
    this.#ended[ending]++;
    this.#live.splice(this.#live.indexOf(request), 1);
    const group = this.#groups.get(request.adapterId)!;
    group.requests.delete(request);
    const tell = (): void => this.#control.note(endedFact(request));
    // The scheduler tells of an end before or after it gives the lease back.
    const isToldFirst = this.#chance.isOnce(0.5);
    if (isToldFirst) tell();
    if (group.requests.size === 0) {
      this.#giveBack(group);
      this.#groups.delete(request.adapterId);
    }
    if (!isToldFirst) tell();
  }

  /** Where somebody is blocked, a holder gives its lease back and asks for another. */
  #preempt(): void {
    if (this.#chance.isOnce(0.3)) this.#makeWay();
    const groups = [...this.#groups.values()];
    if (groups.every(({ lease }) => lease !== "blocked")) return;
    const holders = groups.filter(({ lease }) => lease === "held");
    const holder = holders[this.#chance.int(0, Math.max(0, holders.length - 1))];
    if (holder === undefined) return;
    this.#giveBack(holder);
    for (const group of groups) if (group.lease === "blocked") group.lease = "asked";
    this.#lease(holder);
  }

  #hear(fact: SystemFact): void {
    this.#control.note(fact);
    switch (fact.type) {
      case "slot.granted": {
        const group = this.#asked(fact);
        const image = this.#device.get(fact.slot)?.image;
        promise(image !== undefined, `the granted slot ${fact.slot} holds an adapter`);
        promise(image.digest === group.record.digest, `${group.record.name} gets ${group.record.digest}, not ${image.digest}`);
        promise(image.digest.startsWith(`${group.record.path}#`), `${image.digest} is the content of ${group.record.path}`);
        group.lease = "held";
        group.slot = fact.slot;
        for (const request of group.requests) this.#start(request, group.record);
        return;
      }
      case "slot.blocked":
        this.#asked(fact).lease = "blocked";
        return;
      case "fetch.refused":
      case "slot.refused": {
        const group = this.#asked(fact);
        if (fact.error.message.includes("beside the pinned ones")) this.#checkHopeless(group);
        // The failure itself may be told of after what it leads to.
        else this.#refusals.push({ ...fact, atMs: this.#time.clock.nowMs() });
        group.lease = "none";
        for (const request of [...group.requests]) this.#end(request, "refused");
        return;
      }
      case "adapter.fetching":
        promise(!this.#fetching.has(fact.adapterId), "an adapter is fetched once at a time");
        promise(this.#registry.get(fact.adapterId).isElsewhere, "what is here is not fetched");
        this.#fetching.add(fact.adapterId);
        return;
      case "adapter.fetched":
        this.#fetching.delete(fact.adapterId);
        return;
      case "adapter.reading":
        promise(!this.#registry.get(fact.adapterId).isElsewhere, "what is elsewhere is not read");
        promise(!this.#reading.has(fact.adapterId), "an adapter is read once at a time");
        this.#reading.add(fact.adapterId);
        promise(this.#reading.size <= MAX_LOADS, "no more adapters are read at once than may be");
        return;
      case "adapter.loaded":
        this.#reading.delete(fact.adapterId);
        return;
      case "adapter.failed":
        if (this.#fetching.delete(fact.adapterId) || this.#reading.delete(fact.adapterId)) this.#fail(fact.adapterId, fact.error);
        return;
      case "slot.evicted":
        this.#counts.evictions++;
    }
  }

  #asked({ adapterId, leaseNumber }: { readonly adapterId: AdapterId; readonly leaseNumber: number }): Group {
    const group = this.#groups.get(adapterId);
    promise(group !== undefined && group.leaseNumber === leaseNumber && group.lease !== "held" && group.lease !== "none", `only lease ${leaseNumber}, which is waited for, is answered`);
    return group;
  }

  #fail(adapterId: AdapterId, error: LorikeetError): void {
    this.#failures.set(adapterId, { error, atMs: this.#time.clock.nowMs() });
  }

  // The sources' part.

  #fetch(source: string, signal: AbortSignal): Promise<FetchedAdapter> {
    this.#counts.fetches++;
    const { promise: fetching, resolve, reject } = Promise.withResolvers<FetchedAdapter>();
    const fetch = { source, signal, resolve, reject };
    this.#guard(() => promise(this.#fetches.every((each) => each.source !== source), "a source is fetched once at a time"));
    this.#fetches.push(fetch);
    signal.addEventListener("abort", () => {
      this.#fetches.splice(this.#fetches.indexOf(fetch), 1);
      reject(signal.reason);
    });
    return fetching;
  }

  async #endFetch(): Promise<void> {
    const fetch = this.#fetches.shift();
    if (fetch === undefined) return;
    if (!this.#isOver && this.#chance.isOnce(this.#failureRate)) {
      this.#counts.failedFetches++;
      fetch.reject(new CapacityError("source_unavailable", "not now"));
    } else fetch.resolve({ path: fetch.source, origin: `${fetch.source}@1` });
    await settle();
  }

  // The disk's part.

  #read(record: AdapterRecord): Promise<AdapterWeights> {
    this.#counts.reads++;
    const { promise: reading, resolve, reject } = Promise.withResolvers<AdapterWeights>();
    const hangs = !this.#isOver && this.#chance.isOnce(this.#failureRate * 0.3);
    if (hangs) this.#counts.hungReads++;
    this.#reads.push({ record, hangs, resolve, reject });
    return reading;
  }

  async #endRead(): Promise<void> {
    const at = this.#reads.findIndex(({ hangs }) => !hangs || (!this.#isOver && this.#chance.isOnce(0.02)));
    // Late ends of hung reads come too, though not in the end: nobody may take them for an answer.
    const read = at === -1 ? undefined : this.#reads.splice(at, 1)[0];
    if (read === undefined) return;
    if (!this.#isOver && this.#chance.isOnce(this.#failureRate)) {
      this.#counts.failedReads++;
      const isTransient = this.#chance.isOnce(0.5);
      read.reject(isTransient ? Object.assign(new Error("read failed"), { code: "EIO" }) : new AdapterError("adapter_invalid", "broken"));
    } else {
      const path = Number(read.record.path);
      // The last path is of a large one.
      read.resolve(weightsOf(`${path}#${this.#versions[path]}`, path === NUM_PATHS - 1 ? 190 : 40 + (path % 4) * 30));
    }
    await settle();
  }

  // The device's part.

  #attach(attached: Attached): Promise<void> {
    this.#guard(() => {
      promise(!this.#device.has(attached.slot), `slot ${attached.slot} is free before an upload`);
      promise(this.#uploads.length === 0, "one upload at a time");
    });
    this.#counts.uploads++;
    const { promise: uploading, resolve, reject } = Promise.withResolvers<void>();
    this.#uploads.push({ ...attached, resolve, reject });
    return uploading;
  }

  async #endUpload(): Promise<void> {
    const upload = this.#uploads.shift();
    if (upload === undefined) return;
    const { slot, extent, image, resolve, reject } = upload;
    if (!this.#isOver && this.#chance.isOnce(this.#failureRate * 0.5)) {
      this.#counts.failedUploads++;
      const error = new NativeError("backend_failed", "no upload");
      const seated = [...this.#groups.keys()].find((id) => this.#pool.slotOf(id) === slot);
      if (seated !== undefined) this.#fail(seated, error);
      reject(error);
    } else {
      this.#device.set(slot, { slot, extent, image });
      resolve();
    }
    await settle();
  }

  #detach(slot: SlotId): void {
    promise(this.#device.has(slot), `slot ${slot} holds an adapter before it is emptied`);
    for (const group of this.#groups.values()) promise(group.slot !== slot, `slot ${slot} is not emptied under ${group.record.name}, which runs`);
    this.#device.delete(slot);
  }

  /** Pinned ones alone leave it no place. */
  #checkHopeless({ record }: Group): void {
    const numBytes = this.#lru.peek(record.id)?.image.numBytes ?? 190;
    const hasBytes = this.#pool.roundUp(numBytes) <= this.#pool.maxBytes - this.#pool.pinnedBytes;
    promise(!hasBytes || !this.#pool.mayHaveRoom(numBytes), `${record.name} is refused only where what is pinned leaves it no place`);
  }

  // The sequences' part.

  /** One grows, takes over a page of another, leaves its pages for those to come, or ends. */
  #page(): void {
    const table = this.#tables[this.#chance.int(0, NUM_TABLES - 1)]!;
    const numTaken = this.#chance.int(1, 6);
    const draw = this.#chance.int(0, 9);
    if (draw < 6) {
      const fits = numTaken <= this.#pages.numFree;
      promise(this.#pages.allocate(numTaken, table) === fits, "pages are had where they are free");
      if (fits) this.#counts.grown += numTaken;
      return;
    }
    const other = this.#tables[this.#chance.int(0, NUM_TABLES - 1)]!;
    const [shared] = other;
    if (draw < 7 && shared !== undefined && other !== table && this.#pages.numListable > 0) return this.#pages.share(shared, table);
    if (this.#chance.isOnce(0.6)) for (const page of table) this.#pages.keep(page);
    this.#pages.release(table);
  }

  /** What the scheduler does for an adapter that has waited long. */
  #makeWay(): void {
    for (const table of this.#tables) if (table.some((page) => this.#pages.isInTheWay(page))) this.#pages.release(table);
  }

  // The administrator's part.

  async #load(): Promise<void> {
    if (this.#numControls >= 4) return;
    const name = `n${this.#chance.int(0, NUM_NAMES - 1)}`;
    const replace = this.#chance.isOnce(0.7);
    const pin = this.#chance.isOnce(0.3);
    const earlier = this.#registry.byName(name);
    this.#numControls++;
    void this.#control.load({ name, path: `${this.#chance.int(0, NUM_PATHS - 1)}`, replace, pin }, "client").then(
      (record) => {
        this.#guard(() => promise(record.digest !== null, "a name means what was read"));
        if (pin) this.#counts.pinned++;
        if (earlier !== undefined) this.#counts.replaced++;
      },
      (error: unknown) => this.#guard(() => promise(error instanceof LorikeetError && error.errorCode !== "invariant_violated", `a load fails with a reason: ${String(error)}`)),
    ).finally(() => void this.#numControls--);
    await settle();
  }

  #unload(): void {
    const name = `n${this.#chance.int(0, NUM_NAMES - 1)}`;
    if (this.#registry.byName(name) === undefined) return;
    this.#control.unload({ name });
    this.#counts.unloaded++;
  }

  /** I1, I3, I5, I9, I12 and I13 of the plan; what can be seen at a single event is checked there. */
  #check(): void {
    if (this.#broken.length > 0) throw this.#broken[0];
    const pool = this.#pool;
    const lru = this.#lru;
    promise(pool.numUsed + pool.numFree === this.#numSlots, "a slot is free or used");
    for (const { adapterId, error, atMs } of this.#refusals.splice(0)) {
      const known = this.#failures.get(adapterId);
      promise(known?.error === error, `requests are refused for a failure of their own adapter, not ${String(error)}`);
      promise(atMs - known.atMs < LOAD_FAILURE_MS, "requests are refused for a failure of late");
    }
    const numEnded = this.#ended.done + this.#ended.cancelled + this.#ended.refused;
    promise(this.#numRequests === this.#live.length + numEnded, "accepted = live + ended");

    let numSeated = 0;
    let seatedBytes = 0;
    let numCached = 0;
    let cachedBytes = 0;
    for (const record of this.#registry.records()) {
      const slot = pool.slotOf(record.id);
      if (slot !== null) {
        numSeated++;
        const image = (this.#device.get(slot) ?? this.#uploads.find((upload) => upload.slot === slot))?.image;
        seatedBytes += image === undefined ? 0 : pool.roundUp(image.numBytes);
        promise(image === undefined || image.digest === record.digest, `slot ${slot} holds ${record.digest}, not ${image?.digest}`);
      }
      const staged = lru.peek(record.id);
      if (staged !== undefined) {
        numCached++;
        cachedBytes += staged.image.numBytes;
        promise(staged.image.digest === record.digest, `the cache holds ${record.digest}, not ${staged.image.digest}`);
      }
      this.#checkStay(record, slot);
    }
    promise(cachedBytes <= lru.maxBytes && numCached <= lru.maxAdapters, "the host cache keeps its limits");
    // Loads under way have records of their own, which no listing shows.
    promise(lru.size - numCached <= this.#numControls, "the host cache holds nothing that was forgotten");
    promise(cachedBytes <= lru.usedBytes, "the host cache counts its bytes");
    if (this.#uploads.length === 0) {
      promise(pool.numUsed === numSeated, "no slot holds what was forgotten");
      promise(pool.usedBytes === seatedBytes, `the slots count their bytes: ${pool.usedBytes}, not ${seatedBytes}`);
    }
    promise(pool.usedBytes <= pool.maxBytes, "adapters stay within their bytes");
    this.#checkExtents();
    for (const group of this.#groups.values()) {
      promise(group.requests.size > 0, "a lease is somebody's");
      if (group.lease !== "held") continue;
      promise(pool.slotOf(group.record.id) === group.slot, `${group.record.name} keeps its slot while it runs`);
      promise(pool.isLeased(group.record.id), `${group.record.name} holds its lease`);
      promise(this.#device.get(group.slot!)?.image.digest === group.record.digest, `${group.record.name} runs on what it began with`);
    }
  }

  /** Nothing lies in two places, nothing is lost. */
  #checkExtents(): void {
    const owners = new Map<number, string>();
    const own = (extent: number, owner: string): void => {
      promise(!owners.has(extent), `extent ${extent} is ${owner}'s alone, not ${owners.get(extent)}'s as well`);
      owners.set(extent, owner);
    };
    for (const page of new Set(this.#tables.flat())) own(page, "a sequence");
    for (const page of this.#pages.idlePages()) own(page, "nobody");
    for (const { adapterId, extent, numBytes, slot } of this.#pool.seated()) {
      for (let i = 0; i < numBytes / EXTENT_BYTES; i++) own(extent + i, `adapter ${adapterId}`);
      const attached = this.#device.get(slot);
      promise(attached === undefined || attached.extent === extent, `slot ${slot} lies where the ledger says`);
    }
    let numClaimed = 0;
    let numUnowned = 0;
    for (let extent = 0; extent < this.#extents.numExtents; extent++) {
      if (this.#extents.isClaimed(extent)) numClaimed++;
      else if (!owners.has(extent)) numUnowned++;
    }
    if (numClaimed > 0) this.#counts.claimed++;
    const numIdle = this.#pages.numIdle + this.#pool.unleased().reduce((sum, { numBytes }) => sum + numBytes / EXTENT_BYTES, 0);
    promise(this.#extents.numAvailable === numUnowned + numIdle, `${this.#extents.numAvailable} extents can be had, of ${numUnowned} free and ${numIdle} idle ones`);
  }

  #checkStay(record: AdapterRecord, slot: SlotId | null): void {
    if (record.isRetired) {
      this.#pinnedSlots.delete(record);
      if (record.numLive > 0) return void this.#retired.delete(record);
      const since = this.#retired.get(record) ?? this.#numTurns;
      this.#retired.set(record, since);
      promise(this.#numTurns - since <= MAX_LEAVING_TURNS, `${record.name}, unloaded and unused, goes`);
      return;
    }
    const group = this.#groups.get(record.id);
    promise(record.numLive === (group?.requests.size ?? 0), `${record.name} knows its requests`);
    if (!record.isPinned) return;
    promise(this.#lru.has(record.id), `${record.name}, pinned, stays in host memory`);
    const earlier = this.#pinnedSlots.get(record);
    promise(earlier === undefined || earlier === slot, `${record.name}, pinned, stays on the device`);
    if (slot !== null && this.#device.has(slot)) this.#pinnedSlots.set(record, slot);
  }

  /** Faults are over: everything ends, and every adapter that there is can be had once more. */
  async #finish(): Promise<void> {
    this.#isOver = true;
    const isBusy = () => this.#live.length + this.#numControls + this.#uploads.length + this.#fetches.length + this.#reading.size > 0;
    for (let i = 0; isBusy(); i++) {
      promise(i < 2000, `everything ends once faults are over; left are ${this.#live.length} requests and ${this.#numControls} loads`);
      this.#endRandom("done");
      this.#preempt();
      this.#makeWay();
      await this.#endFetch();
      await this.#endRead();
      await this.#endUpload();
      await this.#advance(3);
      this.#check();
    }
    for (let i = 0; i < MAX_LEAVING_TURNS; i++) await this.#advance(100);
    this.#check();
    const known = [...this.#registry.records()];
    promise(known.every(({ isRetired }) => !isRetired), "nothing drains at idle");
    promise(this.#pool.numUsed === known.filter(({ id }) => this.#pool.slotOf(id) !== null).length, "every seat at idle has a name");
    promise(this.#lru.size === known.filter(({ id }) => this.#lru.has(id)).length, "every image at idle has a name");
    promise(known.every(({ id }) => !this.#pool.isLeased(id)), "nothing is leased at idle");
    promise(this.#device.size === this.#pool.numUsed, "the device holds what the slots say");
    for (const table of this.#tables) this.#pages.release(table);
    promise(this.#pages.numHeld === 0, "no page is held at idle");
    this.#checkExtents();
    this.#tiers.stop();
  }

  #trace(word: number): void {
    this.#traceHash = Math.imul(this.#traceHash ^ (word + this.#pool.numUsed * 100 + this.#lru.usedBytes), 16777619) >>> 0;
  }
}

const NO_TIME = { queueMs: 0, adapterMs: 0, prefillMs: 0, decodeMs: 0 };

const endedFact = ({ index, adapterId }: Request): SystemFact => {
  const finish: Finish = { reason: "stop", stopReason: null, error: null, usage: { promptTokens: 1, completionTokens: 1 }, timing: NO_TIME };
  return { type: "request.ended", requestId: asRequestId(`r${index}`), adapterId: asAdapterId(adapterId), tenant: "", hasRun: true, finish };
};

/** Everything that waits for a promise that has settled goes on. */
async function settle(): Promise<void> {
  for (let i = 0; i < 12; i++) await Promise.resolve();
}

/** @throws when a promise is broken, with `SEED=… STEP=…` */
export async function simulateTiers(seed: number, numSteps: number, mutant: Mutant = {}): Promise<TierReport> {
  const simulation = new TierSimulation(seed, mutant);
  try {
    return await simulation.run(numSteps);
  } catch (error) {
    throw new Error(`SEED=${seed} STEP=${simulation.step}: ${String(error)}`, { cause: error });
  }
}
