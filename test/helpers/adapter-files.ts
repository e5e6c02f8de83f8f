/** Adapter directories in a temporary place: a valid one, changed where a test wants it. */
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildDecoderProgram } from "../../src/model/decoder-program.ts";
import { readModelConfig } from "../../src/model/model-config.ts";
import type { Program } from "../../src/model/program.ts";

const FIXTURES = join(import.meta.dir, "../fixtures/peft");

export const fixtureAdapter = (name: string): string => join(FIXTURES, name);
export const fixtureProgram = (name: string): Program => buildDecoderProgram(readModelConfig(join(FIXTURES, name)));

export interface RawTensor {
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}
export type RawTensors = Map<string, RawTensor>;

export function readRawTensors(path: string): RawTensors {
  const bytes = new Uint8Array(readFileSync(path));
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  return new Map(
    Object.entries(header)
      .filter(([name]) => name !== "__metadata__")
      .map(([name, { dtype, shape, data_offsets: [begin, end] }]) => [
        name,
        { dtype, shape, bytes: bytes.slice(8 + length + begin, 8 + length + end) },
      ]),
  );
}

export function encodeSafetensors(tensors: RawTensors): Uint8Array {
  let offset = 0;
  const header: Record<string, unknown> = {};
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
  }
  const text = JSON.stringify(header);
  const json = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 8) * 8));
  return Buffer.concat([
    new Uint8Array(new BigUint64Array([BigInt(json.length)]).buffer),
    json,
    ...[...tensors.values()].map(({ bytes }) => bytes),
  ]);
}

export interface AdapterChange {
  readonly config?: (config: Record<string, unknown>) => void;
  readonly tensors?: (tensors: RawTensors) => void;
  /** Whole files; `null` removes one. */
  readonly files?: Readonly<Record<string, string | Uint8Array | null>>;
}

/** A copy of a fixture with changes. */
export function changedAdapter(fixture: string, change: AdapterChange): string {
  const directory = mkdtempSync(join(tmpdir(), "lorikeet-adapter-"));
  const config = JSON.parse(readFileSync(join(fixtureAdapter(fixture), "adapter_config.json"), "utf8")) as Record<string, unknown>;
  const tensors = readRawTensors(join(fixtureAdapter(fixture), "adapter_model.safetensors"));
  change.config?.(config);
  change.tensors?.(tensors);
  const files: Record<string, string | Uint8Array | null> = {
    "adapter_config.json": JSON.stringify(config),
    "adapter_model.safetensors": encodeSafetensors(tensors),
    ...change.files,
  };
  for (const [name, content] of Object.entries(files)) {
    if (content !== null) writeFileSync(join(directory, name), content);
  }
  return directory;
}
