/**
 * `bun run build:executable [FILE]`: the whole of Lorikeet as one file that needs neither Bun nor packages, with the demo model in it.
 *
 * FILE is dist/lorikeet by default.
 */
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const ROOT = join(import.meta.dir, "..");
/** Each thread is a program of its own, found by its file's name. */
const PROGRAMS = ["src/main.ts", "src/backend/wasm/pool-worker.ts", "src/grammar/grammar-worker.ts"];
/** What `ownFile` is asked for. */
const FILES = ["native/wasm/lorikeet.wasm", "models/demo"];
const LEFT_OUT = /\/golden\.json$|\.md$/;

/** @throws {AggregateError} when Bun's bundler refuses */
export async function buildExecutable(outfile: string): Promise<void> {
  // A file that is embedded by itself loses its folder, one in a folder keeps it.
  const assets = mkdtempSync(join(tmpdir(), "lorikeet-executable-"));
  try {
    for (const file of FILES) cpSync(join(ROOT, file), join(assets, file), { recursive: true, filter: (path) => !LEFT_OUT.test(path) });
    await Bun.build({
      entrypoints: PROGRAMS.map((path) => join(ROOT, path)),
      naming: "[name].[ext]",
      compile: {
        outfile,
        assets: [...new Set(FILES.map((file) => join(assets, file.split("/")[0]!)))],
        // Settings of whoever runs it in their own project are not its own.
        autoloadDotenv: false,
        autoloadBunfig: false,
      },
    });
  } finally {
    rmSync(assets, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  const outfile = resolve(process.argv[2] ?? join(ROOT, "dist/lorikeet"));
  await buildExecutable(outfile);
  process.stderr.write(`built ${outfile}\n`);
}
