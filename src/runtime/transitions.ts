/**
 * What happens inside a running Lorikeet, for those who watch: every fact of an actor and every state that one
 * enters, as plain records with the names that people know. Nothing here is per token or per step.
 */
import type { ActorName, SystemFact } from "../actors/system.ts";
import type { Clock } from "../core/clock.ts";
import type { ErrorCode, LorikeetError } from "../core/errors.ts";
import type { AdapterId, RequestId, SlotId } from "../core/ids.ts";
import type { Finish, RequestTiming, Usage } from "../core/request.ts";
import type { FinishReason } from "../core/sampling.ts";

export interface Transition {
  readonly actor: ActorName;
  /** A fact's type, `actor.entered` for a state, or `request.submitted`. */
  readonly type: SystemFact["type"] | "actor.entered" | "request.submitted";
  readonly state?: string;
  readonly adapter?: string;
  readonly slot?: SlotId;
  readonly request?: RequestId;
  /**
   * Milliseconds of what ends here: fetching (`adapter.fetched`), reading and staging (`adapter.loaded`, or `adapter.failed` of either), copying to the device
   * (`slot.filled`), or all of it from the wish for a slot (`slot.granted`).
   */
  readonly elapsedMs?: number;
  readonly reason?: FinishReason;
  readonly usage?: Usage;
  readonly timing?: RequestTiming;
  readonly error?: { readonly code: ErrorCode; readonly message: string };
}

/** Must not throw, and must not call the runtime: it is called in the middle of a change. */
export type TransitionListener = (transition: Transition) => void;

export interface TransitionsInput {
  readonly clock: Clock;
  readonly nameOf: (adapterId: AdapterId) => string;
}

export class Transitions {
  readonly #clock: Clock;
  readonly #nameOf: (adapterId: AdapterId) => string;
  readonly #listeners = new Set<TransitionListener>();
  /** Starts of what has not ended yet. */
  readonly #readingMs = new Map<AdapterId, number>();
  readonly #attachingMs = new Map<SlotId, number>();
  readonly #wantedMs = new Map<AdapterId, number>();

  constructor({ clock, nameOf }: TransitionsInput) {
    this.#clock = clock;
    this.#nameOf = nameOf;
  }

  /** @returns what ends it */
  watch(listener: TransitionListener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  entered(actor: ActorName, state: string): void {
    this.#tell({ actor, type: "actor.entered", state });
  }

  submitted(request: RequestId, adapter: AdapterId | null): void {
    this.#tell({ actor: "requestScheduler", type: "request.submitted", request, ...this.#named(adapter) });
  }

  /** The copy to the device begins; `slot.filled` ends it. */
  attaching(slot: SlotId): void {
    this.#attachingMs.set(slot, this.#clock.nowMs());
  }

  note(fact: SystemFact, actor: ActorName): void {
    this.#tell({
      actor,
      type: fact.type,
      ...("adapterId" in fact ? this.#named(fact.adapterId) : {}),
      ...("slot" in fact ? { slot: fact.slot } : {}),
      ...("requestId" in fact ? { request: fact.requestId } : {}),
      ...("error" in fact ? { error: errorOf(fact.error) } : {}),
      ...("finish" in fact ? endOf(fact.finish) : {}),
      ...this.#elapsed(fact),
    });
  }

  #elapsed(fact: SystemFact): { readonly elapsedMs?: number } {
    const nowMs = this.#clock.nowMs();
    const since = <K>(starts: Map<K, number>, key: K) => {
      const startMs = starts.get(key);
      starts.delete(key);
      return startMs === undefined ? {} : { elapsedMs: nowMs - startMs };
    };
    switch (fact.type) {
      case "adapter.fetching":
      case "adapter.reading":
        this.#readingMs.set(fact.adapterId, nowMs);
        return {};
      case "adapter.fetched":
      case "adapter.loaded":
      case "adapter.failed":
        return since(this.#readingMs, fact.adapterId);
      case "slot.filled":
        return since(this.#attachingMs, fact.slot);
      case "adapter.wanted":
        this.#wantedMs.set(fact.adapterId, nowMs);
        return {};
      case "slot.granted":
      case "slot.refused":
        return since(this.#wantedMs, fact.adapterId);
      case "adapter.released":
        this.#wantedMs.delete(fact.adapterId);
        return {};
      default:
        return {};
    }
  }

  #named(adapterId: AdapterId | null): { readonly adapter?: string } {
    return adapterId === null ? {} : { adapter: this.#nameOf(adapterId) };
  }

  #tell(transition: Transition): void {
    for (const listener of this.#listeners) listener(transition);
  }
}

const errorOf = ({ errorCode, message }: LorikeetError) => ({ code: errorCode, message });

const endOf = ({ reason, usage, timing, error }: Finish) => ({
  reason,
  usage,
  timing,
  ...(error === null ? {} : { error: errorOf(error) }),
});
