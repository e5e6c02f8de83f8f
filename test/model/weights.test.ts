import { describe, expect, test } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ModelError } from "../../src/core/errors.ts";
import { openCheckpoint } from "../../src/model/weights.ts";
import { encodeSafetensors, type TensorSpec, writeDirectory } from "../helpers/model-files.ts";
import { thrownBy } from "../helpers/thrown.ts";

const INDEX = "model.safetensors.index.json";
const ROWS = new Uint8Array(Float32Array.of(0, 1, 2, 3, 4, 5).buffer);
const A: TensorSpec = { shape: [3, 2], bytes: ROWS };
const B: TensorSpec = { dtype: "BF16", shape: [4] };

function sharded(map: unknown, shards: Record<string, Record<string, TensorSpec>>): string {
  const files = Object.entries(shards).map(
    ([name, tensors]) => [name, encodeSafetensors(tensors)] as const,
  );
  return writeDirectory({
    [INDEX]: JSON.stringify({ weight_map: map }),
    ...Object.fromEntries(files),
  });
}

describe("openCheckpoint", () => {
  test("reads rows of a single file into shared memory", () => {
    const checkpoint = openCheckpoint(
      writeDirectory({ "model.safetensors": encodeSafetensors({ a: A, b: B }) }),
    );
    expect([...checkpoint.tensorNames].sort()).toEqual(["a", "b"]);
    expect(checkpoint.info("a")).toEqual({ dtype: "F32", rows: 3, cols: 2, file: "model.safetensors" });
    expect(checkpoint.info("b")).toEqual({ dtype: "BF16", rows: 4, cols: 1, file: "model.safetensors" });
    const memory = new SharedArrayBuffer(64);
    checkpoint.readRows("a", 1, 2, new Uint8Array(memory, 16));
    expect([...new Float32Array(memory, 16, 5)]).toEqual([2, 3, 4, 5, 0]);
  });

  test("reads rows beside other work, too, several at once", async () => {
    const checkpoint = openCheckpoint(writeDirectory({ "model.safetensors": encodeSafetensors({ a: A, b: B }) }));
    const memory = new SharedArrayBuffer(32);
    await Promise.all([checkpoint.readRowsAsync("a", 2, 1, new Uint8Array(memory)), checkpoint.readRowsAsync("a", 0, 2, new Uint8Array(memory, 8))]);
    expect([...new Float32Array(memory, 0, 7)]).toEqual([4, 5, 0, 1, 2, 3, 0]);
  });

  test("reads tensors from the shard that the index names", () => {
    const directory = sharded(
      { a: "m-1.safetensors", b: "m-2.safetensors" },
      {
        "m-1.safetensors": { a: A },
        "m-2.safetensors": { b: B },
      },
    );
    const checkpoint = openCheckpoint(directory);
    const bytes = new Uint8Array(24);
    checkpoint.readRows("a", 0, 3, bytes);
    expect(bytes).toEqual(ROWS);
    expect(checkpoint.shape("b")).toEqual([4]);
    expect(checkpoint.shape("c")).toBeUndefined();
  });

  const one = { "m-1.safetensors": { a: A } };
  const bad: readonly (readonly [string, () => string, string])[] = [
    [
      "no weights",
      () => writeDirectory({}),
      `the model directory has neither model.safetensors nor ${INDEX}`,
    ],
    [
      "pickled weights only",
      () => writeDirectory({ "pytorch_model.bin": "x" }),
      "has pytorch_model.bin and no model.safetensors; convert the weights to safetensors",
    ],
    [
      "a malformed file",
      () => writeDirectory({ "model.safetensors": "short" }),
      "model.safetensors is not usable: the safetensors file has 5 bytes",
    ],
    [
      "quantised numbers",
      () =>
        writeDirectory({
          "model.safetensors": encodeSafetensors({ a: { dtype: "I32", shape: [1] } }),
        }),
      'model.safetensors is not usable: tensor "a" has dtype "I32"; F32, F16 and BF16 are supported',
    ],
    [
      "an index that is no JSON",
      () => writeDirectory({ [INDEX]: "{" }),
      `${INDEX} is not usable: the JSON text must have`,
    ],
    [
      "an index without a map",
      () => writeDirectory({ [INDEX]: "{}" }),
      `weight_map in ${INDEX} must be an object`,
    ],
    [
      "a shard that is missing",
      () => sharded({ a: "m-1.safetensors", b: "m-2.safetensors" }, one),
      "m-2.safetensors is missing",
    ],
    [
      "a shard outside the directory",
      () => sharded({ a: "../m.safetensors" }, {}),
      `weight_map in ${INDEX} must name a .safetensors file of the directory for tensor a, got "../m.safetensors"`,
    ],
    [
      "a shard by absolute path",
      () => sharded({ a: "/m.safetensors" }, {}),
      'for tensor a, got "/m.safetensors"',
    ],
    ["a shard that is no string", () => sharded({ a: 1 }, {}), "for tensor a, got no string"],
    [
      "a tensor that its shard lacks",
      () => sharded({ a: "m-1.safetensors", b: "m-1.safetensors" }, one),
      `${INDEX} lists tensor b in m-1.safetensors, which does not hold it`,
    ],
    [
      "a tensor in another shard than listed",
      () =>
        sharded(
          { a: "m-2.safetensors", b: "m-1.safetensors" },
          { ...one, "m-2.safetensors": { b: B } },
        ),
      `m-2.safetensors holds tensor b, which ${INDEX} lists in m-1.safetensors`,
    ],
    [
      "a tensor that the index does not list",
      () => sharded({ a: "m-1.safetensors" }, { "m-1.safetensors": { a: A, b: B } }),
      `m-1.safetensors holds tensor b, which ${INDEX} lists nowhere`,
    ],
  ];
  test.each(bad)("refuses a directory with %s", (_, directory, message) => {
    const thrown = thrownBy(() => openCheckpoint(directory())) as ModelError;
    expect(thrown).toBeInstanceOf(ModelError);
    expect(thrown.message).toContain(message);
  });

  test("names a tensor that it does not have, or that has too many dimensions", () => {
    const file = encodeSafetensors({ cube: { shape: [2, 2, 2] }, tesseract: { shape: [2, 2, 2, 2] }, scalar: { shape: [] } });
    const checkpoint = openCheckpoint(writeDirectory({ "model.safetensors": file }));
    expect(() => checkpoint.info("lost")).toThrow("tensor lost is not in the model's files");
    expect(() => checkpoint.info("tesseract")).toThrow("tensor tesseract has shape [2, 2, 2, 2]; weights have one to three dimensions");
    expect(checkpoint.info("cube")).toEqual({ dtype: "F32", rows: 4, cols: 2, file: "model.safetensors" });
    expect(() => checkpoint.info("scalar")).toThrow("tensor scalar has shape []");
  });

  test("notices a file that was replaced or taken away after it was opened", async () => {
    const directory = writeDirectory({ "model.safetensors": encodeSafetensors({ a: A }) });
    const checkpoint = openCheckpoint(directory);
    const path = join(directory, "model.safetensors");
    writeFileSync(path, Buffer.concat([readFileSync(path), Buffer.alloc(1)]));
    const thrown = thrownBy(() => checkpoint.readRows("a", 0, 3, new Uint8Array(24))) as ModelError;
    const message = "model.safetensors is not usable: the file was changed while it was read";
    expect(thrown).toBeInstanceOf(ModelError);
    expect(thrown.message).toBe(message);
    await expect(checkpoint.readRowsAsync("a", 0, 3, new Uint8Array(24))).rejects.toMatchObject({ errorCode: "model_invalid", message });
    rmSync(path);
    await expect(checkpoint.readRowsAsync("a", 0, 3, new Uint8Array(24))).rejects.toMatchObject({ errorCode: "model_invalid", message: "model.safetensors is missing" });
  });
});
