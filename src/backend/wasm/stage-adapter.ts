/** Lays an adapter out as panels, away from the running pool. */
import type { AdapterMatrix, AdapterWeights, LoraDelta, Replacement } from "../../lora/adapter-weights.ts";
import type { Program, SiteId } from "../../model/program.ts";
import type { ImageRows, ImageSite, WasmAdapterImage } from "./adapter-image.ts";
import { doraGains } from "./dora-gains.ts";
import { exactFormat, planImage, type SiteChanges } from "./plan-image.ts";
import { type Panels, StagingMemory } from "./staging-memory.ts";

/** What the device holds of the base. */
export interface BaseWeights {
  /** The matrix of a site. */
  panels(site: SiteId): Panels;
  /** The bias of a site that has one. */
  bias(site: SiteId): Float32Array;
}

export class AdapterStager {
  readonly #staging: StagingMemory;
  readonly #program: Program;
  readonly #base: BaseWeights;
  /** Staging is one at a time: all stagings share one memory. */
  #tail: Promise<unknown> = Promise.resolve();

  constructor(module: WebAssembly.Module, program: Program, base: BaseWeights) {
    this.#staging = new StagingMemory(module);
    this.#program = program;
    this.#base = base;
  }

  /** @throws {AdapterError} `adapter_invalid` when a matrix holds NaN or infinity, or a row that DoRA divides has no length */
  stage(adapter: AdapterWeights): Promise<WasmAdapterImage> {
    const staged = this.#tail.then(() => this.#stage(adapter));
    this.#tail = staged.catch(() => undefined);
    return staged;
  }

  async #stage(adapter: AdapterWeights): Promise<WasmAdapterImage> {
    const staging = this.#staging;
    const replacements = await this.#changing(adapter.replacements ?? []);
    const plan = planImage(this.#program, { deltas: adapter.deltas, replacements }, staging.exports);
    const bytes = new Uint8Array(plan.numBytes);
    for (const { changes, ...site } of plan.sites) {
      await this.#writeRows(changes, site, bytes);
      await this.#writeDeltas(changes, site, bytes);
      await staging.pause();
    }
    const deltas = plan.sites.flatMap((site) => site.deltas);
    return {
      digest: adapter.digest,
      numBytes: bytes.length,
      bytes,
      sites: plan.sites.map(({ changes: _changes, ...site }) => site),
      maxTotalRank: Math.max(0, ...plan.sites.map(({ totalRank }) => totalRank)),
      maxRank: Math.max(1, ...deltas.map(({ rank }) => rank)),
      holds: plan.sites.some(({ holds }) => holds),
    };
  }

  /** Without copies of base weights that are those of this base, in the format that it is held in. */
  async #changing(replacements: readonly Replacement[]): Promise<readonly Replacement[]> {
    const kept: Replacement[] = [];
    for (const each of replacements) {
      if (each.form !== "base_copies" || !(await this.#equalsBase(each))) kept.push(each);
    }
    return kept;
  }

  #equalsBase({ site, values }: Replacement): Promise<boolean> {
    const { format, bytes } = this.#base.panels(site);
    return this.#staging.packPieces(format, values, (panels, offset) => Buffer.compare(panels, bytes.subarray(offset, offset + panels.length)) === 0);
  }

  async #writeRows({ runs, listed, biases, vector }: SiteChanges, site: ImageSite, image: Uint8Array): Promise<void> {
    const write = ({ values }: Replacement, { matrix }: Pick<ImageRows, "matrix">): Promise<boolean> =>
      this.#staging.packPieces(exactFormat([values]), values, (panels, offset) => {
        image.set(panels, matrix + offset);
        return true;
      });
    for (const [i, run] of runs.entries()) await write(run, site.replacements[i]!);
    if (listed !== null) {
      new Uint32Array(image.buffer, site.tokens!.list, listed.rows.length).set(listed.rows);
      await write(listed, site.tokens!);
    }
    if (biases.length > 0) {
      const base = this.#base.bias(site.site);
      const shift = new Float32Array(image.buffer, site.shift!, base.length);
      for (const { rows, values } of biases) {
        const offset = rows;
        floatsOf(values).forEach((value, i) => (shift[offset + i] = value - base[offset + i]!));
      }
    }
    if (vector !== null) {
      const own = floatsOf(vector.values);
      new Float32Array(image.buffer, site.own!, own.length).set(own);
    }
  }

  async #writeDeltas({ deltas }: SiteChanges, site: ImageSite, image: Uint8Array): Promise<void> {
    const { inWidth } = this.#program.sites[site.site]!;
    const { format } = site;
    if (deltas.length > 0) image.set(this.#staging.pack(format, site.totalRank, inWidth, deltas.map(({ a }) => a)), site.a);
    for (const [i, delta] of deltas.entries()) {
      const { b, bias, gain } = site.deltas[i]!;
      image.set(this.#staging.pack(format, delta.width, delta.rank, [delta.b]), b);
      if (bias !== null) new Float32Array(image.buffer, bias, delta.width).set(delta.bias!);
      if (gain !== null) new Float32Array(image.buffer, gain, delta.width).set(await this.#gains(site, delta, i, image));
    }
  }

  #gains(placed: ImageSite, delta: LoraDelta, index: number, image: Uint8Array): Promise<Float32Array> {
    const site = this.#program.sites[placed.site]!;
    const own = site.kind === "embedding" ? placed.replacements[0] : placed.replacements.find(({ offset, width }) => offset <= delta.offset && offset + width >= delta.offset + delta.width);
    const base = own === undefined ? this.#base.panels(placed.site) : { bytes: image.subarray(own.matrix), format: own.format, rows: own.width };
    const firstRow = site.kind === "embedding" ? 0 : delta.offset - (own?.offset ?? 0);
    return doraGains(this.#staging, { site, delta, placed, index, image, base, firstRow });
  }
}

/** Vectors were made float32 when they were read. */
const floatsOf = ({ bytes }: AdapterMatrix): Float32Array => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
