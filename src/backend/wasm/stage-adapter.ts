/** Lays an adapter out as panels, in a small memory of its own, away from the running pool. */
import { AdapterError, invariant } from "../../core/errors.ts";
import type { AdapterMatrix, AdapterWeights, LoraDelta } from "../../lora/adapter-weights.ts";
import type { Program, SiteId } from "../../model/program.ts";
import { type ImageSite, siteRecordBytes, type WasmAdapterImage } from "./adapter-image.ts";
import { DTYPE, FORMAT, PANEL_ROWS } from "./formats.ts";
import { align } from "./memory.ts";
import { createMemory, instantiate, RESERVED_BYTES, STACK_BYTES, WASM_PAGE_BYTES, type WasmExports } from "./module.ts";

/** Output panels per claim of an expand: a few microseconds of work at rank 16 and one row. */
const EXPAND_PANELS = 64;
/** The event loop gets a turn after this much repacking. */
const SLICE_MS = 4;

/** The base matrix of a site, as the device holds it. */
export type BasePanels = (site: SiteId) => { readonly bytes: Uint8Array; readonly format: number; readonly rows: number };

export class AdapterStager {
  readonly #memory: WebAssembly.Memory;
  readonly #exports: WasmExports;
  readonly #program: Program;
  readonly #base = RESERVED_BYTES + STACK_BYTES;
  readonly #basePanels: BasePanels;
  /** Staging is one at a time: all stagings share one memory. */
  #tail: Promise<unknown> = Promise.resolve();

  constructor(module: WebAssembly.Module, program: Program, basePanels: BasePanels) {
    this.#basePanels = basePanels;
    this.#memory = createMemory(this.#base);
    this.#exports = instantiate(module, this.#memory, this.#base);
    this.#program = program;
  }

  /** @throws {AdapterError} `adapter_invalid` when a matrix holds NaN or infinity */
  stage(adapter: AdapterWeights): Promise<WasmAdapterImage> {
    const staged = this.#tail.then(() => this.#stage(adapter));
    this.#tail = staged.catch(() => undefined);
    return staged;
  }

  async #stage(adapter: AdapterWeights): Promise<WasmAdapterImage> {
    const bySite = Map.groupBy(adapter.deltas, (delta) => delta.site);
    const plan = planImage(this.#program, bySite, this.#exports);
    const bytes = new Uint8Array(plan.numBytes);
    let sliceEnds = performance.now() + SLICE_MS;
    for (const site of plan.sites) {
      const deltas = bySite.get(site.site)!;
      const { inWidth } = this.#program.sites[site.site]!;
      this.#pack(site.format, site.totalRank, inWidth, deltas.map((delta) => delta.a), bytes, site.a);
      for (const [i, delta] of deltas.entries()) {
        const { b, bias, gain } = site.deltas[i]!;
        this.#pack(site.format, delta.width, delta.rank, [delta.b], bytes, b);
        if (bias !== null) new Float32Array(bytes.buffer, bias, delta.width).set(delta.bias!);
        if (gain !== null) new Float32Array(bytes.buffer, gain, delta.width).set(await this.#gains(site, delta, i, bytes));
      }
      if (performance.now() > sliceEnds) {
        await Bun.sleep(0);
        sliceEnds = performance.now() + SLICE_MS;
      }
    }
    return {
      digest: adapter.digest,
      numBytes: bytes.length,
      bytes,
      sites: plan.sites,
      maxTotalRank: Math.max(...plan.sites.map((site) => site.totalRank)),
      maxRank: adapter.report.maxRank,
      hasGains: plan.sites.some(({ deltas }) => deltas.some(({ gain }) => gain !== null)),
    };
  }

  /** Packs matrices stacked along rows and copies the panels to `target[offset ..]`. */
  #pack(
    format: number,
    rows: number,
    cols: number,
    matrices: readonly AdapterMatrix[],
    target: Uint8Array,
    offset: number,
  ): void {
    const numBytes = this.#exports.matrix_bytes(format, rows, cols) >>> 0;
    const source = this.#base + align(numBytes);
    this.#ensure(source + Math.max(...matrices.map((matrix) => matrix.bytes.length)));
    new Uint8Array(this.#memory.buffer, this.#base, numBytes).fill(0);
    let row = 0;
    for (const matrix of matrices) {
      invariant(matrix.cols === cols, "matrices of one site have one width");
      new Uint8Array(this.#memory.buffer, source, matrix.bytes.length).set(matrix.bytes);
      const bad = this.#exports.panel_pack(format, this.#base, rows, cols, row, source, DTYPE[matrix.dtype], matrix.rows);
      if (bad !== 0) {
        throw new AdapterError("adapter_invalid", `the adapter has a value that is not finite in row ${bad - 1} of a matrix`);
      }
      row += matrix.rows;
    }
    target.set(new Uint8Array(this.#memory.buffer, this.#base, numBytes), offset);
  }

  /**
   * DoRA's gains from the base weights as the device holds them, a panel at a time, in a copy beside the adapter's
   * matrices: the running pool is left alone.
   */
  async #gains(site: ImageSite, delta: LoraDelta, index: number, image: Uint8Array): Promise<Float32Array> {
    const exports = this.#exports;
    const { rank, width, offset } = delta;
    const { a, totalRank, format, site: siteId } = site;
    const { b, rankOffset } = site.deltas[index]!;
    const base = this.#basePanels(siteId);
    const k = this.#program.sites[siteId]!.inWidth;
    const aBytes = exports.matrix_bytes(format, totalRank, k) >>> 0;
    const bBytes = exports.matrix_bytes(format, width, rank) >>> 0;
    const panelBytes = exports.matrix_bytes(base.format, PANEL_ROWS, k) >>> 0;
    let end = this.#base;
    const reserve = (numBytes: number): number => {
      end += align(numBytes);
      return end - align(numBytes);
    };
    const places = {
      panel: reserve(panelBytes),
      a: reserve(aBytes),
      b: reserve(bBytes),
      aRows: reserve(rank * k * 4),
      magnitude: reserve(width * 4),
      gain: reserve(width * 4),
      scratch: reserve((k + rank) * 4),
    };
    this.#ensure(end);
    const memory = new Uint8Array(this.#memory.buffer);
    memory.set(image.subarray(a, a + aBytes), places.a);
    memory.set(image.subarray(b, b + bBytes), places.b);
    new Float32Array(this.#memory.buffer, places.magnitude, width).set(delta.magnitude!);
    for (let row = 0; row < rank; row++) exports.panel_read_row(format, places.a, totalRank, k, rankOffset + row, places.aRows + row * k * 4);
    let sliceEnds = performance.now() + SLICE_MS;
    for (let done = 0; done < width; ) {
      const row0 = (offset + done) % PANEL_ROWS;
      const first = offset + done - row0;
      const panelRows = Math.min(PANEL_ROWS, base.rows - first);
      const numRows = Math.min(panelRows - row0, width - done);
      const panelAt = (first / PANEL_ROWS) * panelBytes;
      memory.set(base.bytes.subarray(panelAt, panelAt + (exports.matrix_bytes(base.format, panelRows, k) >>> 0)), places.panel);
      exports.dora_gains(
        base.format, places.panel, panelRows, k, row0, numRows, places.aRows, rank, format, places.b, width, done,
        delta.scale, places.magnitude + done * 4, places.gain + done * 4, places.scratch,
      );
      done += numRows;
      if (performance.now() > sliceEnds) {
        await Bun.sleep(0);
        sliceEnds = performance.now() + SLICE_MS;
      }
    }
    const gains = new Float32Array(this.#memory.buffer, places.gain, width).slice();
    const bad = gains.findIndex((gain) => !Number.isFinite(gain));
    if (bad !== -1) {
      throw new AdapterError("adapter_invalid", `the adapter's changed weights of ${this.#program.sites[siteId]!.name} have length 0 in row ${offset + bad}, which no magnitude can divide`);
    }
    return gains;
  }

  #ensure(numBytes: number): void {
    const missing = numBytes - this.#memory.buffer.byteLength;
    if (missing > 0) this.#memory.grow(Math.ceil(missing / WASM_PAGE_BYTES));
  }
}

interface ImagePlan {
  readonly sites: readonly ImageSite[];
  readonly numBytes: number;
}

function planImage(program: Program, bySite: ReadonlyMap<SiteId, readonly LoraDelta[]>, exports: WasmExports): ImagePlan {
  const ids = [...bySite.keys()].sort((a, b) => a - b);
  let end = 0;
  const records = ids.map((id) => {
    const at = end;
    end += siteRecordBytes(bySite.get(id)!.length);
    return at;
  });
  end = align(end);
  const place = (numBytes: number): number => {
    const at = end;
    end += align(numBytes);
    return at;
  };
  const sites = ids.map((id, i): ImageSite => {
    const deltas = bySite.get(id)!;
    const { inWidth, outWidth } = program.sites[id]!;
    // bfloat16 panels hold bfloat16 files exactly; anything else keeps its bits only in float32.
    const exact16 = deltas.every((delta) => delta.a.dtype === "BF16" && delta.b.dtype === "BF16");
    const format = exact16 ? FORMAT.bfloat16 : FORMAT.float32;
    const totalRank = deltas.reduce((sum, delta) => sum + delta.rank, 0);
    const aligned = deltas.every((delta) => delta.offset % PANEL_ROWS === 0);
    const a = place(exports.matrix_bytes(format, totalRank, inWidth) >>> 0);
    let rankOffset = 0;
    return {
      site: id,
      format,
      totalRank,
      record: records[i]!,
      a,
      expandPanels: aligned ? EXPAND_PANELS : Math.ceil(outWidth / PANEL_ROWS),
      deltas: deltas.map((delta) => {
        const placed = {
          rankOffset,
          rank: delta.rank,
          outOffset: delta.offset,
          width: delta.width,
          scale: delta.scale,
          b: place(exports.matrix_bytes(format, delta.width, delta.rank) >>> 0),
          bias: delta.bias === undefined ? null : place(delta.width * 4),
          gain: delta.magnitude === undefined ? null : place(delta.width * 4),
        };
        rankOffset += delta.rank;
        return placed;
      }),
    };
  });
  return { sites, numBytes: end };
}
