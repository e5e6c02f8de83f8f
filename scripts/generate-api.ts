/** Writes docs/api from the docstrings of what the package exports. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { Application, type TypeDocOptions } from "typedoc";
import type { PluginOptions } from "typedoc-plugin-markdown";
import { declarations } from "./build-types.ts";

const ROOT = join(import.meta.dir, "..");
export const API_FOLDER = join(ROOT, "docs/api");

/** The module that each declaration file is to its users, and what they read first. */
const MODULES: Readonly<Record<string, string>> = {
  "index.d.ts": "The library: one base model and its adapters in a Bun program.\n * @module lorikeet",
  "mount.d.ts": "The HTTP interface inside an application of one's own.\n * @module lorikeet/http",
};

/** @returns pages by their path below docs/api */
export async function apiPages(): Promise<ReadonlyMap<string, string>> {
  // In the tree, for the checker to find the packages of types.
  mkdirSync(join(ROOT, "dist"), { recursive: true });
  const folder = mkdtempSync(join(ROOT, "dist/api-"));
  const out = mkdtempSync(join(tmpdir(), "lorikeet-api-"));
  try {
    for (const [path, text] of declarations()) {
      const head = MODULES[path] === undefined ? "" : `/**\n * ${MODULES[path]}\n */\n`;
      mkdirSync(dirname(join(folder, path)), { recursive: true });
      writeFileSync(join(folder, path), head + linkThrown(text));
    }
    const compilerOptions = { target: "ESNext", module: "Preserve", lib: ["ESNext"], types: ["bun-types"], strict: true, skipLibCheck: true, noEmit: true };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["**/*.d.ts"] }));
    await render(folder, out);
    const pages = readdirSync(out, { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".md"));
    return new Map(pages.toSorted().map((path) => [path, readFileSync(join(out, path), "utf8")]));
  } finally {
    rmSync(folder, { recursive: true });
    rmSync(out, { recursive: true });
  }
}

/** TypeDoc drops the type of what is thrown. */
const linkThrown = (text: string): string =>
  text.replaceAll(/@throws \{([\w |]+)\}/g, (_, types: string) => `@throws ${types.split(" | ").map((type) => `\`${type}\``).join(" or ")}:`);

async function render(folder: string, out: string): Promise<void> {
  const options: TypeDocOptions & PluginOptions = {
    entryPoints: Object.keys(MODULES).map((path) => join(folder, path)),
    tsconfig: join(folder, "tsconfig.json"),
    plugin: ["typedoc-plugin-markdown"],
    name: "API",
    readme: "none",
    out,
    router: "module",
    excludeInternal: true,
    excludeExternals: true,
    disableSources: true,
    hideGenerator: true,
    hidePageHeader: true,
    hideBreadcrumbs: true,
    useCodeBlocks: true,
    parametersFormat: "table",
    interfacePropertiesFormat: "table",
    classPropertiesFormat: "table",
    typeDeclarationFormat: "table",
    tableColumnSettings: { hideInherited: true, hideModifiers: true, hideDefaults: true, hideOverrides: true, hideSources: true },
    intentionallyNotExported: ["Brand"],
    validation: { notExported: true, invalidLink: true, notDocumented: true },
    requiredToBeDocumented: ["Class", "Interface", "TypeAlias", "Function", "Method", "Property", "Accessor"],
    logLevel: "Warn",
    treatWarningsAsErrors: true,
  };
  const app = await Application.bootstrapWithPlugins(options);
  const project = await app.convert();
  if (project === undefined) throw new Error("the docstrings cannot be read; see above");
  app.validate(project);
  await app.generateOutputs(project);
  if (app.logger.hasErrors() || app.logger.hasWarnings()) throw new Error("the docstrings have mistakes; see above");
}

if (import.meta.main) {
  rmSync(API_FOLDER, { recursive: true, force: true });
  for (const [path, text] of await apiPages()) {
    mkdirSync(dirname(join(API_FOLDER, path)), { recursive: true });
    writeFileSync(join(API_FOLDER, path), text);
  }
}
