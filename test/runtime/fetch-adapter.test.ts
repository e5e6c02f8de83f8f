/** Adapters that are elsewhere, in a whole runtime: when they are fetched, what is told meanwhile, and how it fails. */
import { describe, expect, test } from "bun:test";
import { CapacityError, ConfigError } from "../../src/core/errors.ts";
import type { DownloadProgress } from "../../src/runtime/adapter-listing.ts";
import type { FetchedAdapter } from "../../src/runtime/fetch-adapter.ts";
import type { AdapterLoad } from "../../src/runtime/runtime-parts.ts";
import { collect, openBench, requestWith, weightsOf } from "../helpers/runtime.ts";
import { rejectionOf } from "../helpers/thrown.ts";
import { until } from "../helpers/until.ts";

interface Fetch {
  readonly source: string;
  readonly signal: AbortSignal;
  readonly tell: (progress: DownloadProgress) => void;
  readonly settle: PromiseWithResolvers<FetchedAdapter>;
}

/** `fr` and `same` are one source, `de` another; `near` lies here. Downloads end when the test says so. */
function open() {
  const fetches: Fetch[] = [];
  const loads: AdapterLoad[] = [];
  const bench = openBench(
    {
      readAdapter: async ({ path }) => weightsOf(`content of ${path}`, 100),
      fetchAdapter: (source, signal, tell) => {
        const settle = Promise.withResolvers<FetchedAdapter>();
        signal.addEventListener("abort", () => settle.reject(signal.reason), { once: true });
        fetches.push({ source, signal, tell, settle });
        return settle.promise;
      },
      sourceOf: (text) => (text.startsWith("team/") ? `hf://${text}` : null),
      onAdapterLoad: (load) => loads.push(load),
      options: {
        adapters: [
          { name: "fr", path: "s3://bucket/fr", isElsewhere: true },
          { name: "same", path: "s3://bucket/fr", isElsewhere: true },
          { name: "de", path: "hf://team/de", isElsewhere: true },
          { name: "near", path: "/adapters/near" },
        ],
        maxImages: 1,
      },
    },
    { numSlots: 3 },
  );
  const { runtime } = bench;
  const start = async (name: string) => runtime.generate(requestWith([1, 2], { adapter: await runtime.resolveAdapter({ name }), maxTokens: 2 }));
  return {
    runtime, fetches, loads, start,
    endOf: async (name: string) => (await collect(await start(name))).finish,
    listed: (name: string) => runtime.adapters().find((each) => each.name === name)!,
    arrive: (at: number) => fetches[at]!.settle.resolve({ path: `/cache/${at}`, origin: `${fetches[at]!.source}@v1` }),
  };
}

describe("an adapter that is elsewhere", () => {
  test("is known by its name, and fetched when it is first asked for; what it is is told all the while", async () => {
    const { runtime, fetches, listed, endOf, arrive, loads } = open();
    expect(listed("fr")).toMatchObject({ state: "registered", tier: "source", path: "s3://bucket/fr", origin: null, digest: null, download: null });
    const end = endOf("fr");
    await until(() => fetches.length === 1);
    expect(listed("fr")).toMatchObject({ state: "downloading", tier: "source", numWaiting: 1 });
    fetches[0]!.tell({ numBytes: 10, totalBytes: 40 });
    expect(listed("fr")).toMatchObject({ download: { numBytes: 10, totalBytes: 40 } });
    arrive(0);
    expect((await end).reason).toBe("length");
    expect(listed("fr")).toMatchObject({ state: "device", tier: "device", path: "/cache/0", origin: "s3://bucket/fr@v1", digest: "content of /cache/0", download: null });
    expect(loads).toMatchObject([{ name: "fr", origin: "s3://bucket/fr@v1", error: null }]);
    // From here on it is as any other.
    expect((await endOf("fr")).reason).toBe("length");
    expect(fetches.length).toBe(1);
    await runtime.close();
  });

  test("holds nobody up while it comes, not even with every place for images its own", async () => {
    const { runtime, fetches, start, endOf, arrive } = open();
    const waiting = [await start("fr"), await start("de")].map(collect);
    await until(() => fetches.length === 2);
    expect((await endOf("near")).reason).toBe("length");
    arrive(0);
    arrive(1);
    expect((await Promise.all(waiting)).map(({ finish }) => finish.reason)).toEqual(["length", "length"]);
    await runtime.close();
  });

  test("is fetched once for all names and requests that want it", async () => {
    const { runtime, fetches, endOf, arrive } = open();
    const ends = ["fr", "same", "fr"].map(endOf);
    await until(() => runtime.stats().waitingRequests === 3);
    expect(fetches.map(({ source }) => source)).toEqual(["s3://bucket/fr"]);
    arrive(0);
    expect((await Promise.all(ends)).map(({ reason }) => reason)).toEqual(["length", "length", "length"]);
    await runtime.close();
  });

  test.each([
    [new CapacityError("source_unavailable", "s3://bucket/fr cannot be reached"), "source_unavailable", "adapter fr cannot be downloaded now; try again later"],
    [new ConfigError("source_refused", "s3://bucket/fr does not exist"), "adapter_invalid", "adapter fr cannot be had from its source; the server's log says why"],
  ])("that cannot be had fails its requests without a word of its source, is not asked for again at once, and harms no other: %s", async (cause, code, message) => {
    const { runtime, fetches, listed, endOf, loads } = open();
    const end = endOf("fr");
    await until(() => fetches.length === 1);
    fetches[0]!.settle.reject(cause);
    for (const { error } of [await end, await endOf("fr")]) expect(error).toMatchObject({ errorCode: code, message, cause });
    expect(listed("fr")).toMatchObject({ state: "failed", tier: "source", lastError: message });
    expect(fetches.length).toBe(1);
    expect(loads.map(({ error }) => error?.cause)).toEqual([cause, cause]);
    expect((await endOf("near")).reason).toBe("length");
    await runtime.close();
  });

  test("goes on coming when its request is cancelled, and no further when it is unloaded or the server ends", async () => {
    const { runtime, fetches, start, listed } = open();
    const [fr, de] = [await start("fr"), await start("de")];
    await until(() => fetches.length === 2);
    fr.cancel();
    expect((await collect(fr)).finish.reason).toBe("cancelled");
    expect([fetches[0]!.signal.aborted, listed("fr").state]).toEqual([false, "downloading"]);
    await runtime.unloadAdapter({ name: "fr" });
    await until(() => fetches[0]!.signal.aborted);
    await runtime.close(0);
    expect((await collect(de)).finish.reason).toBe("shutdown");
    expect(fetches[1]!.signal.aborted).toBe(true);
  });

  test("comes all the same for one name when another is unloaded", async () => {
    const { runtime, fetches, endOf, start, arrive } = open();
    const gone = await start("same");
    const end = endOf("fr");
    await until(() => runtime.stats().waitingRequests === 2);
    gone.cancel();
    await collect(gone);
    await runtime.unloadAdapter({ name: "same" });
    await until(() => runtime.adapters().length === 3);
    expect(fetches[0]!.signal.aborted).toBe(false);
    arrive(0);
    expect((await end).reason).toBe("length");
    await runtime.close();
  });
});

describe("loading from a source", () => {
  test("tells the administrator what is wrong with it, and changes nothing", async () => {
    const { runtime, fetches, listed } = open();
    const failing = rejectionOf(runtime.loadAdapter({ name: "new", path: "team/none" }));
    await until(() => fetches.length === 1);
    const error = new ConfigError("source_refused", "team/none is not on the hub");
    fetches[0]!.settle.reject(error);
    expect(await failing).toBe(error);
    expect(listed("new")).toBeUndefined();
    await runtime.close();
  });

  test("under a name whose source is known already fetches it now, or anew", async () => {
    const { runtime, fetches, listed, arrive, endOf } = open();
    for (const at of [0, 1]) {
      const loading = runtime.loadAdapter({ name: "de", path: at === 0 ? "hf://team/de" : "team/de", replace: true });
      await until(() => fetches.length === at + 1);
      arrive(at);
      expect(await loading).toMatchObject({ path: `/cache/${at}`, digest: `content of /cache/${at}` });
    }
    expect(fetches.map(({ source }) => source)).toEqual(["hf://team/de", "hf://team/de"]);
    expect((await endOf("de")).reason).toBe("length");
    expect(listed("de")).toMatchObject({ digest: "content of /cache/1" });
    await runtime.close();
  });
});
