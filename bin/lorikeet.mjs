#!/usr/bin/env node
/**
 * The `lorikeet` command of the installed package.
 *
 * Lorikeet runs on Bun; this starts it wherever Node or Bun is: with the Bun that runs this, one on the search path or
 * among the packages, or one that is fetched from npm once and kept in the user's cache.
 */
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { findBun, root, run } from "../scripts/bun.mjs";

const main = join(root, "src/main.ts");
const bun = findBun();
if (bun === process.execPath) await import(pathToFileURL(main).href);
else process.exitCode = await run(bun, [main, ...process.argv.slice(2)], { cwd: process.cwd() });
