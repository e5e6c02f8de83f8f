/** Collects the parts of a program and gives them their numbers. */
import type {
  BufferId,
  BufferSpec,
  LoraSite,
  Operation,
  Program,
  SiteId,
  WeightId,
  WeightPart,
  WeightSpec,
} from "./program.ts";

export type ProgramParts = Pick<Program, "buffers" | "weights" | "sites" | "operations">;

export class ProgramBuilder {
  readonly #buffers: BufferSpec[] = [];
  readonly #weights: WeightSpec[] = [];
  readonly #sites: LoraSite[] = [];
  readonly #operations: Operation[] = [];

  /** The one buffer of that name: layers share what they do not need at the same time. */
  buffer(name: string, width: number, rows: BufferSpec["rows"]): BufferId {
    const known = this.#buffers.findIndex((buffer) => buffer.name === name);
    if (known !== -1) return known;
    return this.#buffers.push({ name, width, rows }) - 1;
  }

  /** A matrix that is one tensor of the checkpoint. */
  matrix(tensor: string, rows: number, cols: number): WeightId {
    return this.stackedMatrix([tensor], [rows], cols);
  }

  /** @param rows of each tensor, in the order in which they are stacked */
  stackedMatrix(tensors: readonly string[], rows: readonly number[], cols: number): WeightId {
    return this.#weight("matrix", tensors, rows, cols);
  }

  exactMatrix(tensor: string, rows: number, cols: number): WeightId {
    return this.#weight("exact", [tensor], [rows], cols);
  }

  /** A matrix of `[rows, cols]` for each expert. */
  expertMatrices(
    name: string,
    parts: readonly WeightPart[],
    numExperts: number,
    rows: number,
    cols: number,
  ): WeightId {
    return this.#weights.push({ name, kind: "matrix", rows, cols, numExperts, parts }) - 1;
  }

  vector(tensors: readonly string[], lengths: readonly number[]): WeightId {
    return this.#weight("vector", tensors, lengths, 1);
  }

  site(site: LoraSite): SiteId {
    return this.#sites.push(site) - 1;
  }

  add(operation: Operation): void {
    this.#operations.push(operation);
  }

  finish(): ProgramParts {
    return {
      buffers: this.#buffers,
      weights: this.#weights,
      sites: this.#sites,
      operations: this.#operations,
    };
  }

  #weight(
    kind: WeightSpec["kind"],
    tensors: readonly string[],
    rows: readonly number[],
    cols: number,
  ): WeightId {
    const parts = tensors.map((tensor, i) => ({ tensor, rows: rows[i]! }));
    const total = rows.reduce((sum, count) => sum + count, 0);
    return this.#weights.push({ name: tensors.join(" + "), kind, rows: total, cols, parts }) - 1;
  }
}
