/** Files that come with the program: beside its sources, or inside the executable that scripts/build-executable.ts makes of it. */
import { join } from "node:path";

const ROOT = Bun.isStandaloneExecutable ? import.meta.dir : join(import.meta.dir, "../..");

/** @param path from the root of the package, as `native/wasm/lorikeet.wasm` */
export const ownFile = (path: string): string => join(ROOT, path);
