/**
 * Keeps staged adapters in host memory, so that coming back to the device costs no file.
 *
 *   open ── image.get ──▶ image.found │ image.missed
 *        ── image.put ──▶ image.kept, image.dropped for each that had to go
 *        ── image.pin, image.forget
 *
 * One state: nothing waits here. An adapter larger than the whole cache is used once from the loader's
 * hand and not kept: refusing it would make a small cache change which adapters can be served at all.
 */
import { enqueueActions, setup } from "xstate";
import type { AdapterId } from "../../core/ids.ts";
import type { HostLru } from "../../lora/host-lru.ts";
import type { StagedAdapter } from "../adapter-loader/adapter-loader.events.ts";
import type { HostCacheCommand, HostCacheFact } from "./host-cache.events.ts";

export interface HostCacheInput {
  /** Changed in place; its bytes are those of the images. */
  readonly lru: HostLru<StagedAdapter>;
}

export const hostCacheMachine = setup({
  types: {
    context: {} as HostCacheInput,
    events: {} as HostCacheCommand,
    emitted: {} as HostCacheFact,
    input: {} as HostCacheInput,
  },
  actions: {
    pin: ({ context }, params: { readonly adapterId: AdapterId }) =>
      context.lru.pin(params.adapterId),
    forget: ({ context }, params: { readonly adapterId: AdapterId }) =>
      context.lru.forget(params.adapterId),
    find: enqueueActions(({ context, enqueue }, params: { readonly adapterId: AdapterId }) => {
      const { adapterId } = params;
      const staged = context.lru.get(adapterId);
      if (staged === undefined) enqueue.emit({ type: "image.missed", adapterId });
      else enqueue.emit({ type: "image.found", adapterId, staged });
    }),
    keep: enqueueActions(
      (
        { context, enqueue },
        params: { readonly adapterId: AdapterId; readonly staged: StagedAdapter },
      ) => {
        const { adapterId, staged } = params;
        const dropped = context.lru.put(adapterId, staged, staged.image.numBytes);
        if (!dropped.includes(adapterId)) enqueue.emit({ type: "image.kept", adapterId });
        for (const each of dropped) enqueue.emit({ type: "image.dropped", adapterId: each });
      },
    ),
  },
}).createMachine({
  id: "hostCache",
  context: ({ input }) => input,
  initial: "open",
  states: {
    open: {
      on: {
        "image.get": { actions: { type: "find", params: ({ event }) => event } },
        "image.put": { actions: { type: "keep", params: ({ event }) => event } },
        "image.pin": { actions: { type: "pin", params: ({ event }) => event } },
        "image.forget": { actions: { type: "forget", params: ({ event }) => event } },
      },
    },
  },
});
