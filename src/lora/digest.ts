/** An adapter's identity: SHA-256 over what it does, whatever its name, file order or spelling. */
import type { Program } from "../model/program.ts";
import type { AdapterMatrix, LoraDelta, Replacement } from "./adapter-weights.ts";

/** Changes when the meaning of the hashed fields does. */
const FORM = "lorikeet-adapter-1";

/**
 * @param deltas ordered by site, offset and width
 * @param replacements in an order of their own as well
 * @param invocation token ids that it acts from; left out for an adapter that always does
 * @returns 64 hex digits
 */
export function adapterDigest(deltas: readonly LoraDelta[], replacements: readonly Replacement[], program: Program, invocation?: readonly number[]): string {
  const hash = new Bun.CryptoHasher("sha256");
  // Every field carries its length, so that no two different lists of fields hash the same bytes.
  const field = (bytes: string | Uint8Array): void => {
    const data = typeof bytes === "string" ? new TextEncoder().encode(bytes) : bytes;
    hash.update(new Uint8Array(new BigUint64Array([BigInt(data.length)]).buffer));
    hash.update(data);
  };
  const matrix = ({ dtype, rows, cols, bytes }: AdapterMatrix): void => {
    field(`${dtype} ${rows} ${cols}`);
    field(bytes);
  };
  field(FORM);
  for (const { site, offset, width, rank, scale, a, b, bias, magnitude } of deltas) {
    field(program.sites[site]!.name);
    field(`${offset} ${width} ${rank}`);
    field(new Uint8Array(Float64Array.of(scale).buffer));
    matrix(a);
    matrix(b);
    for (const [form, vector] of [["lora_bias", bias], ["dora", magnitude]] as const) {
      if (vector === undefined) continue;
      field(form);
      field(new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength));
    }
  }
  if (invocation !== undefined) {
    field("alora");
    field(invocation.join(" "));
  }
  for (const { site, part, form, rows, values } of replacements) {
    // Whether a module was saved or its rows are a copy matters: only a copy gives way to the base's own numbers.
    field(`${program.sites[site]!.name} ${part} ${form}`);
    field(typeof rows === "number" ? `from ${rows}` : rows.join());
    matrix(values);
  }
  return hash.digest("hex");
}
