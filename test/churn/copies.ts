/**
 * Adapters that differ in content and not in what they compute: A times a power of two, B divided by it.
 *
 * Every product and sum is scaled exactly, so the answers are the original's to the bit, and so are the references.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseTorch } from "../../src/formats/torch-file.ts";
import { toFloatTensor } from "../../src/formats/torch-tensor.ts";
import { encodeSafetensors, type RawTensor, type RawTensors, readRawTensors } from "../helpers/adapter-files.ts";

/** Writes the copy of a PEFT adapter whose A is multiplied by `2 ** exponent`. */
export function writeCopy(from: string, to: string, exponent: number): void {
  const tensors: RawTensors = new Map();
  for (const [name, tensor] of tensorsOf(from)) {
    const part = /\.lora_([AB])\.(?:[\w-]+\.)?weight$/.exec(name)?.[1];
    tensors.set(name, part === undefined ? tensor : scaled(tensor, part === "A" ? exponent : -exponent));
  }
  mkdirSync(to, { recursive: true });
  writeFileSync(join(to, "adapter_config.json"), readFileSync(join(from, "adapter_config.json")));
  writeFileSync(join(to, "adapter_model.safetensors"), encodeSafetensors(tensors));
}

function tensorsOf(directory: string): RawTensors {
  const path = join(directory, "adapter_model.safetensors");
  if (existsSync(path)) return readRawTensors(path);
  const raw = parseTorch(readFileSync(join(directory, "adapter_model.bin")));
  return new Map([...raw].map(([name, tensor]) => {
    const { dtype, shape, bytes } = toFloatTensor(name, tensor);
    return [name, { dtype, shape: [...shape], bytes }];
  }));
}

/** In the same type where that has the range; float16 becomes float32. */
function scaled({ dtype, shape, bytes }: RawTensor, exponent: number): RawTensor {
  const numbers = toFloat32(dtype, bytes);
  const factor = 2 ** exponent;
  for (let i = 0; i < numbers.length; i++) {
    const before = numbers[i]!;
    numbers[i] = before * factor;
    if (numbers[i]! / factor !== before) throw new Error("scaling by a power of two is not exact here");
  }
  const words = new Uint8Array(numbers.buffer);
  if (dtype !== "BF16") return { dtype: "F32", shape, bytes: words };
  return { dtype, shape, bytes: new Uint8Array(Uint16Array.from(new Uint32Array(numbers.buffer), (word) => word >>> 16).buffer) };
}

function toFloat32(dtype: string, bytes: Uint8Array): Float32Array<ArrayBuffer> {
  const own = new Uint8Array(bytes).buffer;
  if (dtype === "F32") return new Float32Array(own);
  if (dtype === "F16") return Float32Array.from(new Float16Array(own));
  return new Float32Array(Uint32Array.from(new Uint16Array(own), (word) => word << 16).buffer);
}
