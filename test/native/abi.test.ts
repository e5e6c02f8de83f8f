import { expect, test } from "bun:test";
import { join } from "node:path";
import { generated } from "../../scripts/generate-abi.ts";

test.each(generated.map(({ path, text }) => [path, text] as const))(
  "%s is what the TypeScript layout says",
  async (path, text) => {
    expect(await Bun.file(join(import.meta.dir, "../..", path)).text()).toBe(text);
  },
);
