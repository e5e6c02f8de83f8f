/** From an adapter's files to the image that a device takes. */
import type { StagedAdapter } from "../actors/adapter-loader/adapter-loader.events.ts";
import type { AdapterImage, Backend } from "../backend/backend.ts";
import { AdapterError } from "../core/errors.ts";
import type { AdapterWeights } from "../lora/adapter-weights.ts";
import type { SlotPool } from "../lora/slot-pool.ts";
import type { AdapterRecord } from "./adapter-record.ts";

/** Reads and checks an adapter's files. */
export type ReadAdapter = (adapter: AdapterRecord) => Promise<AdapterWeights>;

/**
 * Stages adapters, one content once: names that stand for equal content share one image, while anybody has it.
 */
export class AdapterStager {
  readonly #read: ReadAdapter;
  readonly #backend: Pick<Backend, "stage">;
  readonly #pool: Pick<SlotPool, "maxBytes" | "roundUp">;
  readonly #staging = new Map<string, Promise<AdapterImage>>();
  readonly #images = new Map<string, WeakRef<AdapterImage>>();

  constructor(read: ReadAdapter, backend: Pick<Backend, "stage">, pool: Pick<SlotPool, "maxBytes" | "roundUp">) {
    this.#read = read;
    this.#backend = backend;
    this.#pool = pool;
  }

  /** @throws {AdapterError} for bad files; the system's own error for failing I/O */
  async stage(record: AdapterRecord): Promise<StagedAdapter> {
    const weights = await this.#read(record);
    // Requests under way began with the earlier content, and a name does not change its meaning by itself.
    if (record.digest !== null && record.digest !== weights.digest) throw changedContent(record.name);
    const image = await this.#imageOf(weights);
    const neededBytes = this.#pool.roundUp(image.numBytes);
    const { maxBytes } = this.#pool;
    if (neededBytes > maxBytes) {
      throw new AdapterError(
        "adapter_too_large",
        `adapter ${record.name} needs ${neededBytes} bytes on the device, which has ${maxBytes} for all ` +
          "adapters; give adapters more memory",
      );
    }
    return { image, report: weights.report };
  }

  async #imageOf(weights: AdapterWeights): Promise<AdapterImage> {
    const { digest } = weights;
    const living = this.#images.get(digest)?.deref();
    if (living !== undefined) return living;
    const staging = this.#staging.get(digest) ?? this.#backend.stage(weights);
    this.#staging.set(digest, staging);
    try {
      const image = await staging;
      for (const [each, kept] of this.#images) if (kept.deref() === undefined) this.#images.delete(each);
      this.#images.set(digest, new WeakRef(image));
      return image;
    } finally {
      this.#staging.delete(digest);
    }
  }
}

const changedContent = (name: string): AdapterError =>
  new AdapterError(
    "adapter_invalid",
    `the files of adapter ${name} have other content than when they were first read; load it again with load_inplace, or restart the server`,
  );
