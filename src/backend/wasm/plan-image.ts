/** Where everything of an adapter will lie within its image. */
import type { AdapterMatrix, AdapterWeights, LoraDelta, Replacement } from "../../lora/adapter-weights.ts";
import type { Program, SiteId } from "../../model/program.ts";
import { type ImageSite, siteRecordBytes } from "./adapter-image.ts";
import { FORMAT, PANEL_ROWS } from "./formats.ts";
import { align } from "./memory.ts";
import type { WasmExports } from "./module.ts";

/** Output panels per claim of an expand: a few microseconds of work at rank 16 and one row. */
const EXPAND_PANELS = 64;

/** What an adapter does at one site. */
export interface SiteChanges {
  readonly deltas: readonly LoraDelta[];
  /** Runs of rows of a matrix. */
  readonly runs: readonly Run[];
  /** Rows of a matrix one by one. */
  readonly listed: Listed | null;
  readonly biases: readonly Run[];
  /** Of a norm. */
  readonly vector: Run | null;
}

type Run = Replacement & { readonly rows: number };
type Listed = Replacement & { readonly rows: readonly number[] };

export interface ImagePlan {
  readonly sites: readonly (ImageSite & { readonly changes: SiteChanges })[];
  readonly numBytes: number;
}

export function planImage(program: Program, adapter: Pick<AdapterWeights, "deltas" | "replacements">, exports: WasmExports): ImagePlan {
  const changed = changesBySite(program, adapter);
  let end = 0;
  const records = changed.map(([, { runs, deltas }]) => {
    const at = end;
    end += siteRecordBytes(runs.length, deltas.length);
    return at;
  });
  end = align(end);
  const place = (numBytes: number): number => {
    const at = end;
    end += align(numBytes);
    return at;
  };
  const matrix = (format: number, rows: number, cols: number): number => place(exports.matrix_bytes(format, rows, cols) >>> 0);
  const rowsOf = ({ values }: Replacement): { readonly format: number; readonly matrix: number } => {
    const format = exactFormat([values]);
    return { format, matrix: matrix(format, values.rows, values.cols) };
  };
  const sites = changed.map(([id, changes], i) => {
    const { deltas, runs, listed, biases, vector } = changes;
    const { inWidth, outWidth } = program.sites[id]!;
    const format = exactFormat(deltas.flatMap(({ a, b }) => [a, b]));
    const totalRank = deltas.reduce((sum, delta) => sum + delta.rank, 0);
    const aligned = [...deltas.map(({ offset }) => offset), ...runs.map(({ rows }) => rows)].every((offset) => offset % PANEL_ROWS === 0);
    const a = matrix(format, totalRank, inWidth);
    let rankOffset = 0;
    return {
      site: id,
      changes,
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
          b: matrix(format, delta.width, delta.rank),
          bias: delta.bias === undefined ? null : place(delta.width * 4),
          gain: delta.magnitude === undefined ? null : place(delta.width * 4),
        };
        rankOffset += delta.rank;
        return placed;
      }),
      holds: runs.length > 0 || deltas.some(({ magnitude }) => magnitude !== undefined),
      replacesAll: runs.reduce((sum, { values }) => sum + values.rows, 0) === outWidth,
      replacements: runs.map((run) => ({ offset: run.rows, width: run.values.rows, ...rowsOf(run) })),
      tokens: listed === null ? null : { list: place(listed.rows.length * 4), count: listed.rows.length, ...rowsOf(listed) },
      shift: biases.length === 0 ? null : place(outWidth * 4),
      own: vector === null ? null : place(outWidth * 4),
    };
  });
  return { sites, numBytes: end };
}

function changesBySite(program: Program, { deltas, replacements = [] }: Pick<AdapterWeights, "deltas" | "replacements">): [SiteId, SiteChanges][] {
  const ids = [...new Set([...deltas, ...replacements].map(({ site }) => site))].sort((a, b) => a - b);
  return ids.map((id) => {
    const own = replacements.filter(({ site }) => site === id);
    const runs = own.filter((each): each is Run => typeof each.rows === "number");
    const weights = runs.filter(({ part }) => part === "weight");
    const isNorm = program.sites[id]!.kind === "norm";
    return [
      id,
      {
        deltas: deltas.filter(({ site }) => site === id),
        runs: isNorm ? [] : weights,
        listed: own.find((each): each is Listed => typeof each.rows !== "number") ?? null,
        biases: runs.filter(({ part }) => part === "bias"),
        vector: isNorm ? weights[0]! : null,
      },
    ];
  });
}

/** bfloat16 panels hold bfloat16 files exactly; anything else keeps its bits only in float32. */
export const exactFormat = (matrices: readonly AdapterMatrix[]): number => (matrices.every(({ dtype }) => dtype === "BF16") ? FORMAT.bfloat16 : FORMAT.float32);
