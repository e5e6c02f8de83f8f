/** `npm start`: `lorikeet serve` with the arguments given; without a model or `--config` it serves the demo. */
import { join } from "node:path";
import { findBun, installPackages, root, run } from "./bun.mjs";

const bun = findBun();
installPackages(bun);
process.exitCode = await run(bun, [join(root, "src/main.ts"), "serve", ...process.argv.slice(2)], { cwd: process.cwd() });
