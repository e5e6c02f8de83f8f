/** Adapter files that somebody changes, links or decorates on purpose. */
import { describe, expect, test } from "bun:test";
import { Glob } from "bun";
import fc from "fast-check";
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, renameSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { LorikeetError } from "../../src/core/errors.ts";
import { resolveUnderRoots } from "../../src/lora/adapter-paths.ts";
import { readAdapter } from "../../src/lora/read-adapter.ts";
import { changedAdapter, encodeSafetensors, fixtureAdapter, fixtureProgram, readRawTensors } from "../helpers/adapter-files.ts";
import { REPOSITORY } from "../helpers/repository.ts";
import { rejectionOf } from "../helpers/thrown.ts";

const llama = fixtureProgram("base_llama");
const scratch = (): string => realpathSync(mkdtempSync(join(tmpdir(), "lorikeet-secure-")));

test("a file that is cut, changed or replaced while it is read gives one of its contents or one clear error, never a mixture", async () => {
  const directory = changedAdapter("attn_r8", {});
  const other = changedAdapter("attn_r8", {
    tensors: (tensors) => {
      for (const { bytes } of tensors.values()) new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4).fill(0.5);
    },
  });
  const path = join(directory, "adapter_model.safetensors");
  const [one, two] = [readFileSync(path), readFileSync(join(other, "adapter_model.safetensors"))];
  const whole = new Set([(await readAdapter(directory, llama)).digest, (await readAdapter(other, llama)).digest]);
  expect(whole.size).toBe(2);
  const seen = { good: 0, refused: 0 };
  for (let round = 0; round < 300; round++) {
    const reading = readAdapter(directory, llama).then(
      ({ digest }) => digest,
      (thrown: unknown) => thrown,
    );
    await new Promise((resolve) => setImmediate(resolve));
    const draft = join(directory, "draft");
    if (round % 3 === 0) truncateSync(path, round * 7);
    else {
      writeFileSync(draft, round % 3 === 1 ? one : two);
      renameSync(draft, path);
    }
    const outcome = await reading;
    if (typeof outcome === "string") {
      expect(whole.has(outcome)).toBe(true);
      seen.good++;
    } else {
      // ENOENT cannot be: a rename never leaves the name empty.
      expect(outcome).toBeInstanceOf(LorikeetError);
      seen.refused++;
    }
  }
  expect(seen.good).toBeGreaterThan(0);
  expect(seen.refused).toBeGreaterThan(0);
});

test("what a file says of its own size counts for nothing", async () => {
  const plain = await readAdapter(fixtureAdapter("attn_r8"), llama);
  const bytes = encodeSafetensors(readRawTensors(join(fixtureAdapter("attn_r8"), "adapter_model.safetensors")));
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = { __metadata__: { total_size: "1", format: "np" }, ...(JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as object) };
  const json = new TextEncoder().encode(JSON.stringify(header));
  const lying = Buffer.concat([new Uint8Array(new BigUint64Array([BigInt(json.length)]).buffer), json, bytes.subarray(8 + length)]);
  const { digest, report } = await readAdapter(changedAdapter("attn_r8", { files: { "adapter_model.safetensors": lying } }), llama);
  expect({ digest, numBytes: report.numBytes }).toEqual({ digest: plain.digest, numBytes: plain.report.numBytes });
});

test("templates, tokenizers and code beside an adapter change nothing", async () => {
  const { digest, report } = await readAdapter(fixtureAdapter("attn_r8"), llama);
  const decorated = changedAdapter("attn_r8", {
    files: {
      "chat_template.jinja": "{% for x in range(10**9) %}{% endfor %}",
      "tokenizer_config.json": '{"chat_template":"{{ evil }}","auto_map":{"AutoTokenizer":"evil.py"}}',
      "tokenizer.json": "not even JSON",
      "modeling.py": "import os; os.system('id')",
      "__init__.py": "",
      "training_args.bin": "garbage",
      "optimizer.pt": "garbage",
    },
  });
  expect(await readAdapter(decorated, llama)).toMatchObject({ digest, report });
});

describe("links", () => {
  /** A root with an adapter whose weights are a link, and the target. */
  const linked = (target: (base: string) => string) => {
    const base = scratch();
    mkdirSync(join(base, "root"));
    mkdirSync(join(base, "outside"));
    cpSync(fixtureAdapter("attn_r8"), join(base, "root/sql"), { recursive: true });
    const path = join(base, "root/sql/adapter_model.safetensors");
    const to = target(base);
    renameSync(path, to);
    symlinkSync(to, path);
    return { root: join(base, "root"), path: join(base, "root/sql") };
  };

  test("inside an adapter that a request named must stay under the roots", async () => {
    const inside = linked((base) => join(base, "root/blob"));
    expect((await readAdapter(inside.path, llama, { within: [inside.root] })).report.numModules).toBe(6);
    const outside = linked((base) => join(base, "outside/secret"));
    expect(await rejectionOf(readAdapter(outside.path, llama, { within: [outside.root] }))).toMatchObject({
      errorCode: "adapter_invalid",
      message: "adapter_model.safetensors is a link to a file outside of the directories that the server allows",
    });
    // The operator's own may be links, as those of a hub's cache are.
    expect((await readAdapter(outside.path, llama)).report.numModules).toBe(6);
  });

  test("to a directory that is put in an adapter's place after it was found lead nowhere", async () => {
    const base = scratch();
    mkdirSync(join(base, "root"));
    cpSync(fixtureAdapter("attn_r8"), join(base, "root/sql"), { recursive: true });
    cpSync(fixtureAdapter("attn_r8"), join(base, "outside"), { recursive: true });
    const found = await resolveUnderRoots("sql", [join(base, "root")]);
    rmSync(found, { recursive: true });
    symlinkSync(join(base, "outside"), found);
    expect(await rejectionOf(readAdapter(found, llama, { within: [join(base, "root")] }))).toMatchObject({ message: expect.stringMatching(/^adapter_config\.json is a link to a file outside/) });
  });

  test("in an archive's place are judged as well", async () => {
    const base = scratch();
    mkdirSync(join(base, "root"));
    cpSync(join(fixtureAdapter("nemo"), "megatron_gz.nemo"), join(base, "x.nemo"));
    symlinkSync(join(base, "x.nemo"), join(base, "root/x.nemo"));
    expect(await rejectionOf(readAdapter(join(base, "root/x.nemo"), llama, { within: [join(base, "root")] }))).toMatchObject({ errorCode: "adapter_invalid" });
  });
});

test("a pipe or a directory in a file's place is refused at once", async () => {
  for (const make of [(path: string) => execFileSync("mkfifo", [path]), (path: string) => mkdirSync(path)]) {
    const directory = changedAdapter("attn_r8", { files: { "adapter_model.safetensors": null } });
    make(join(directory, "adapter_model.safetensors"));
    expect(await rejectionOf(readAdapter(directory, llama))).toMatchObject({ errorCode: "adapter_invalid", message: "adapter_model.safetensors is not a regular file" });
  }
});

/** `PATHS=1000000` is the long form. */
const NUM_PATHS = Number(process.env["PATHS"] ?? 4000);

test("any path that a request could name is under a root, or refused", async () => {
  const base = scratch();
  for (const name of ["root/a/b", "root/c", "out/a"]) mkdirSync(join(base, name), { recursive: true });
  symlinkSync(join(base, "out"), join(base, "root/link"));
  symlinkSync("..", join(base, "root/up"));
  const root = join(base, "root");
  const piece = fc.constantFrom("a", "b", "c", "..", ".", "", "link", "up", "root", "out", "/", "\\", "~", "%2e%2e", "\0", "file:", "https:", "//", "a/", "..\\..", "．．", base, root, "a\n");
  const anything = fc.oneof({ weight: 4, arbitrary: piece }, { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 8 }) });
  let numFound = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(anything, { maxLength: 6 }), fc.constantFrom("/", ""), async (pieces, glue) => {
      const found = await resolveUnderRoots(pieces.join(glue), [root]).catch((thrown: unknown) => thrown);
      if (typeof found !== "string") return expect(found).toMatchObject({ errorCode: "forbidden_path" });
      numFound++;
      expect(relative(root, realpathSync(found))).not.toStartWith("..");
    }),
    { numRuns: NUM_PATHS },
  );
  expect(numFound).toBeGreaterThan(NUM_PATHS / 100);
}, 3_600_000);

test("no reader of files can write one", async () => {
  const writing = /\b(?:write(?:File)?|append(?:File)?|mkdir|mkdtemp|rename|symlink|link|copyFile|cp|rm|unlink|truncate|chmod|createWriteStream)(?:Sync)?\b(?=[^"]*"node:fs)|Bun\.write|Bun\.spawn|node:child_process|\beval\(|new Function\(/;
  const found: string[] = [];
  let numFiles = 0;
  for (const folder of ["formats", "lora"]) {
    for await (const name of new Glob("**/*.ts").scan(join(REPOSITORY, "src", folder))) {
      numFiles++;
      if (writing.test(readFileSync(join(REPOSITORY, "src", folder, name), "utf8"))) found.push(`${folder}/${name}`);
    }
  }
  expect(numFiles).toBeGreaterThan(30);
  expect(found).toEqual([]);
  expect(writing.test('import { writeFile } from "node:fs/promises";')).toBe(true);
});
