/** Writes the C mirrors of the layouts that TypeScript and native code share. */
import * as step from "../src/core/step-layout.ts";
import * as cuda from "../src/backend/cuda/layout.ts";
import * as wasm from "../src/backend/wasm/layout.ts";

const snake = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c}`).toUpperCase();

/** Constants become `ABI_X`, records become enums of word offsets `X_FIELD`. */
function header(source: string, layout: object): string {
  const lines = [`/* Written by scripts/generate-abi.ts from ${source}; do not edit. */`, "#pragma once", ""];
  for (const [name, value] of Object.entries(layout)) {
    if (typeof value === "number") lines.push(`enum { ${name} = ${value} };`);
    else {
      const fields = Object.entries(value as Record<string, number>);
      lines.push("", "enum {", ...fields.map(([field, at]) => `  ${name}_${snake(field)} = ${at},`), "};");
    }
  }
  return `${lines.join("\n")}\n`;
}

export const generated = [
  { path: "native/step_layout.h", text: header("src/core/step-layout.ts", step) },
  { path: "native/wasm/include/layout.h", text: header("src/backend/wasm/layout.ts", wasm) },
  { path: "native/cuda/layout.h", text: header("src/backend/cuda/layout.ts", cuda) },
];

if (import.meta.main) {
  const root = new URL("../", import.meta.url);
  for (const { path, text } of generated) await Bun.write(new URL(path, root), text);
}
