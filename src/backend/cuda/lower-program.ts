/**
 * A forward program as the CUDA engine runs it: one record per kernel.
 *
 * What a linear operation leaves to be added to its output (a bias, an adapter's delta) is added by the kernel that
 * reads the output, which touches every number anyway. Head norms are part of the rotation, and a gather is part of
 * the norm behind it.
 */
import { invariant, ModelError } from "../../core/errors.ts";
import { type BufferId, type BufferSpec, type LoraSite, type Operation, type Program, routerSites, type SiteId, type WeightId } from "../../model/program.ts";
import { LAUNCH, LAUNCH_OP, LAUNCH_WORDS, type SITE_KIND } from "./layout.ts";

export interface LoweredBuffer {
  /** 0 for a buffer that no kernel touches. */
  readonly width: number;
  readonly rows: BufferSpec["rows"];
  /** float32: the residual stream, logits and what a router says; everything else is bfloat16. */
  readonly isFloat: boolean;
}

export interface LoweredProgram {
  readonly buffers: readonly LoweredBuffer[];
  readonly launches: Int32Array;
  /** Positions that some layer sees at most; 0 where one sees all. */
  readonly longestWindow: number;
}

/** Where outputs of a site's modules begin and end: 0 and all outputs among them, ascending, each once. */
export function moduleBorders({ outWidth, modules }: LoraSite): Int32Array {
  const borders = new Set([0, outWidth, ...modules.flatMap(({ offset, width }) => [offset, offset + width])]);
  return Int32Array.from(borders).sort();
}

/** Of every site of a program. */
export function siteKinds(program: Program): readonly (keyof typeof SITE_KIND)[] {
  const routers = routerSites(program);
  return program.sites.map(({ kind, expert }, id) => (expert !== undefined ? "expert" : routers.has(id) ? "router" : kind ?? "matrix"));
}

type Fields = Partial<Record<keyof typeof LAUNCH, number>>;

/** Heads wider than this do not fit the registers of one warp. */
const MAX_HEAD_DIM = 512;

/** What of a program no kernel serves; `null` for nothing. */
export function unservedPart({ attention: { headDim } }: Program): { readonly field: string; readonly reason: string } | null {
  if (headDim > MAX_HEAD_DIM) return { field: "head_dim", reason: `head_dim must be at most ${MAX_HEAD_DIM} on a CUDA device, got ${headDim}` };
  return null;
}

/** @throws {ModelError} `model_unsupported` for what no kernel serves */
export function checkProgram(program: Program): void {
  const part = unservedPart(program);
  if (part !== null) throw new ModelError("model_unsupported", `${part.reason}; use --backend wasm`, { field: part.field });
}

/** @throws {ModelError} `model_unsupported` for what no kernel serves */
export function lowerProgram(program: Program): LoweredProgram {
  checkProgram(program);
  const lowering = new Lowering(program);
  for (const operation of program.operations) lowering.add(operation);
  return lowering.finish();
}

interface PendingSum {
  readonly bias: WeightId | null;
  readonly site: SiteId | null;
}

class Lowering {
  readonly #program: Program;
  readonly #launches: Fields[] = [];
  readonly #floats = new Set<BufferId>();
  readonly #used = new Set<BufferId>();
  /** Left by the linear operation that wrote the buffer last. */
  readonly #pending = new Map<BufferId, PendingSum>();
  /** Where a gathered buffer's rows come from. */
  readonly #gathered = new Map<BufferId, BufferId>();
  #headNorms: Extract<Operation, { kind: "headNorm" }>[] = [];
  readonly #windows: (number | null)[] = [];

  constructor(program: Program) {
    this.#program = program;
  }

  add(operation: Operation): void {
    switch (operation.kind) {
      case "embed":
        this.#floats.add(operation.out);
        return this.#launch("embed", { weight: operation.weight, out: operation.out, site: operation.site ?? -1 });
      case "rmsNorm": {
        const source = this.#gathered.get(operation.x);
        const x = source ?? operation.x;
        return this.#launch("rmsNorm", {
          x,
          out: operation.out,
          weight: operation.weight,
          site: operation.site ?? -1,
          eps: floatBits(operation.eps),
          sampledRows: source === undefined ? 0 : 1,
          ...this.#takePending(x),
        });
      }
      case "linear":
        return this.#addLinear(operation);
      case "headNorm":
        this.#headNorms.push(operation);
        return;
      case "ropeKvWrite":
        return this.#launch("ropeKvWrite", { x: operation.qkv, layer: operation.layer, ...this.#takeHeadNorms(operation.qkv), ...this.#takePending(operation.qkv) });
      case "attention":
        this.#windows.push(operation.window);
        return this.#launch("attention", { x: operation.qkv, out: operation.out, layer: operation.layer, window: operation.window ?? 0 });
      case "route":
        this.#floats.add(operation.out);
        return this.#launch("route", { x: operation.logits, out: operation.out, normalize: operation.normalize ? 1 : 0 });
      case "expertLinear":
        return this.#launch("expertLinear", { x: operation.x, out: operation.out, weight: operation.weight, site: operation.site, routes: operation.routes });
      case "combine":
        this.#floats.add(operation.out);
        return this.#launch("combine", { x: operation.x, out: operation.out, routes: operation.routes });
      case "siluMul":
        return this.#launch("siluMul", { x: operation.x, out: operation.out, ...this.#takePending(operation.x) });
      case "gather":
        this.#gathered.set(operation.out, operation.x);
        return;
      case "sample":
        this.#floats.add(operation.logits);
        return this.#launch("sample", { x: operation.logits, sampledRows: 1 });
    }
  }

  finish(): LoweredProgram {
    invariant(this.#pending.size === 0 && this.#headNorms.length === 0, "every sum that is left to be added is added");
    const launches = new Int32Array(this.#launches.length * LAUNCH_WORDS).fill(-1);
    this.#launches.forEach((fields, i) => {
      for (const [field, value] of Object.entries(fields)) launches[i * LAUNCH_WORDS + LAUNCH[field as keyof typeof LAUNCH]] = value;
    });
    const seesAll = this.#windows.length === 0 || this.#windows.includes(null);
    return {
      launches,
      buffers: this.#program.buffers.map(({ width, rows }, id) => ({
        width: this.#used.has(id) ? width : 0,
        rows,
        isFloat: this.#floats.has(id),
      })),
      longestWindow: seesAll ? 0 : Math.max(...this.#windows.map((window) => window ?? 0)),
    };
  }

  #addLinear({ x, out, weight, bias, accumulate, site }: Extract<Operation, { kind: "linear" }>): void {
    if (this.#program.weights[weight]!.kind === "exact") {
      invariant(bias === null && !accumulate, "an exact product is all that there is in its output");
      this.#floats.add(out);
      return this.#launch("exactLinear", { x, out, weight, site: site ?? -1 });
    }
    // Logits are read by no kernel that could add to them, so adapters have changed them before.
    const pendingSite = site === null || this.#program.sites[site]!.kind === "head" ? null : site;
    if (accumulate) this.#floats.add(out);
    invariant(!this.#pending.has(out), "a sum is added before its buffer is written again");
    if (bias !== null || pendingSite !== null) this.#pending.set(out, { bias, site: pendingSite });
    const sampledRows = this.#program.buffers[x]!.rows === "sampled" ? 1 : 0;
    this.#launch("linear", { x, out, weight, site: site ?? -1, accumulate: accumulate ? 1 : 0, sampledRows });
  }

  #launch(op: keyof typeof LAUNCH_OP, fields: Fields): void {
    for (const buffer of [fields.x, fields.out]) if (buffer !== undefined) this.#used.add(buffer);
    this.#launches.push({ sampledRows: 0, accumulate: 0, ...fields, op: LAUNCH_OP[op] });
  }

  #takePending(buffer: BufferId): Fields {
    const { bias, site } = this.#pending.get(buffer) ?? { bias: null, site: null };
    this.#pending.delete(buffer);
    return { pendingBias: bias ?? -1, pendingSite: site ?? -1 };
  }

  #takeHeadNorms(qkv: BufferId): Fields {
    const { numHeads, headDim } = this.#program.attention;
    const norms = this.#headNorms;
    this.#headNorms = [];
    const at = (offset: number) => norms.find((norm) => norm.x === qkv && norm.offset === offset);
    const [q, k] = [at(0), at(numHeads * headDim)];
    invariant(norms.length === (q === undefined ? 0 : 1) + (k === undefined ? 0 : 1), "head norms are of q and k");
    invariant(q === undefined || k === undefined || q.eps === k.eps, "head norms of one layer have one epsilon");
    return { qNorm: q?.weight ?? -1, kNorm: k?.weight ?? -1, qNormSite: q?.site ?? -1, kNormSite: k?.site ?? -1, eps: floatBits(q?.eps ?? k?.eps ?? 0) };
  }
}

const floatBits = (value: number): number => new Int32Array(Float32Array.of(value).buffer)[0]!;
