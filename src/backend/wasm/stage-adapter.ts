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

export class AdapterStager {
  readonly #memory: WebAssembly.Memory;
  readonly #exports: WasmExports;
  readonly #program: Program;
  readonly #base = RESERVED_BYTES + STACK_BYTES;
  /** Staging is one at a time: all stagings share one memory. */
  #tail: Promise<unknown> = Promise.resolve();

  constructor(module: WebAssembly.Module, program: Program) {
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
        const { b, bias } = site.deltas[i]!;
        this.#pack(site.format, delta.width, delta.rank, [delta.b], bytes, b);
        if (bias !== null) new Float32Array(bytes.buffer, bias, delta.width).set(delta.bias!);
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
        };
        rankOffset += delta.rank;
        return placed;
      }),
    };
  });
  return { sites, numBytes: end };
}
