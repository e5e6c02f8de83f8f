import { expect, test } from "bun:test";
import { createActor } from "xstate";
import type { StagedAdapter } from "../../src/actors/adapter-loader/adapter-loader.events.ts";
import type { HostCacheFact } from "../../src/actors/host-cache/host-cache.events.ts";
import { hostCacheMachine } from "../../src/actors/host-cache/host-cache.machine.ts";
import { asAdapterId } from "../../src/core/ids.ts";
import { HostLru } from "../../src/lora/host-lru.ts";
import { weightsOf } from "../helpers/runtime.ts";

function open(maxBytes: number) {
  const facts: string[] = [];
  const lru = new HostLru<StagedAdapter>(maxBytes);
  const actor = createActor(hostCacheMachine, { input: { lru } });
  actor.on("*", ({ type, adapterId }: HostCacheFact) => void facts.push(`${type} ${adapterId}`));
  actor.start();
  return {
    lru,
    get: (id: number) => actor.send({ type: "image.get", adapterId: asAdapterId(id) }),
    put: (id: number, numBytes: number) =>
      actor.send({
        type: "image.put",
        adapterId: asAdapterId(id),
        staged: { image: { digest: `${id}`, numBytes }, report: weightsOf("", 1).report },
      }),
    heard: () => facts.splice(0),
  };
}

test("finds what was put and misses what was not", () => {
  const cache = open(100);
  cache.get(1);
  cache.put(1, 60);
  cache.get(1);
  expect(cache.heard()).toEqual(["image.missed 1", "image.kept 1", "image.found 1"]);
});

test("drops what was not used for the longest time, within its bytes", () => {
  const cache = open(100);
  cache.put(1, 40);
  cache.put(2, 40);
  cache.get(1);
  cache.heard();
  cache.put(3, 40);
  expect(cache.heard()).toEqual(["image.kept 3", "image.dropped 2"]);
  expect(cache.lru.usedBytes).toBe(80);
});

test("does not keep an adapter larger than itself, and drops nothing for it", () => {
  const cache = open(100);
  cache.put(1, 90);
  cache.heard();
  cache.put(2, 101);
  cache.get(2);
  cache.get(1);
  expect(cache.heard()).toEqual(["image.dropped 2", "image.missed 2", "image.found 1"]);
});
