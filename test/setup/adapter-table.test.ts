import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { adapterTable, refusedForms, rows } from "../../scripts/generate-adapter-table.ts";
import { FIXTURE_CASES } from "../helpers/fixture-cases.ts";
import { REPOSITORY } from "../helpers/repository.ts";

describe("the table of adapter forms", () => {
  test("is what the adapters and tests are; `bun run generate` writes it again", async () => {
    expect(readFileSync(join(REPOSITORY, "docs/adapter-forms.md"), "utf8")).toBe(await adapterTable());
  });

  test("has a test for every adapter, and every adapter that is compared with a reference", async () => {
    const all = await rows();
    expect(all.filter(({ test: found }) => found === null)).toEqual([]);
    const compared = all.filter(({ test: found }) => found?.startsWith("test/fidelity/"));
    expect(compared.length).toBe(new Set(FIXTURE_CASES.flatMap(({ adapter }) => adapter ?? [])).size);
    for (const { file, wasm } of compared) expect({ file, wasm }).toEqual({ file, wasm: "served" });
  });

  test("says of what is refused why", async () => {
    const refused = (await rows()).filter(({ wasm }) => wasm !== "served");
    for (const { file, wasm } of refused) expect({ file, wasm }).toEqual({ file, wasm: expect.stringMatching(/^refused: .{20}/) });
    expect((await refusedForms()).length).toBeGreaterThan(5);
  });
});
