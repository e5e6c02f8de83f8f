/** The folder of this repository: tests may run bundled, from another folder in it. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";

export const REPOSITORY = (() => {
  for (let folder = import.meta.dir; ; folder = dirname(folder)) {
    if (existsSync(join(folder, "test/fixtures"))) return folder;
    if (folder === dirname(folder)) throw new Error(`no folder above ${import.meta.dir} holds test/fixtures`);
  }
})();
