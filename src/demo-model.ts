/** The demo model, which is served when no other is named. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { ownFile } from "./core/own-files.ts";

const DEMO_MODEL = ownFile("models/demo");

/**
 * @returns a directory of files that can be opened: inside an executable they can only be read whole, so they are copied
 *   to a folder that is gone when this process is
 */
export function demoModel(): string {
  if (!Bun.isStandaloneExecutable) return DEMO_MODEL;
  const copy = mkdtempSync(join(tmpdir(), "lorikeet-demo-"));
  process.on("exit", () => rmSync(copy, { recursive: true, force: true }));
  const target = join(copy, "demo");
  for (const entry of readdirSync(DEMO_MODEL, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const to = join(target, path.slice(DEMO_MODEL.length));
    mkdirSync(dirname(to), { recursive: true });
    writeFileSync(to, readFileSync(path));
  }
  return target;
}
