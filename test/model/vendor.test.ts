import { expect, test } from "bun:test";
import { join } from "node:path";
import { vendored } from "../../scripts/vendor-jinja.ts";

test("the copied template engine is the patched package", async () => {
  expect(await Bun.file(join(import.meta.dir, "../../src/model/vendor/jinja.js")).text()).toBe(await vendored());
});
