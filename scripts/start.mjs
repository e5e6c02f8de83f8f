/** `npm start`: serves the demo model with all its adapters. Further arguments go to `lorikeet serve`. */
import { findBun, installPackages, run } from "./bun.mjs";

const bun = findBun();
installPackages(bun);
process.exitCode = await run(bun, [
  "src/main.ts",
  "serve",
  "models/demo",
  "--lora-dir",
  "models/demo/adapters",
  ...process.argv.slice(2),
]);
