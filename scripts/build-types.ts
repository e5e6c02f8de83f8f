/**
 * Writes dist/types, run by `npm pack`: declarations of what the package exports and of what those mention, nothing else.
 *
 * The package's own sources would do for Bun, not for a type checker: it holds whatever it reads from TypeScript files of a
 * package to its own settings.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import ts from "typescript";
import type { Setting } from "../src/config/setting.ts";
import { KV_CACHE_SETTINGS, LORA_SETTINGS, PEFT_CACHE_SETTINGS, SERVER_SETTINGS, type SettingTable, TOP_SETTINGS } from "../src/config/settings.ts";

const ROOT = join(import.meta.dir, "..");
const SOURCES = join(ROOT, "src");

/** Sources of the package's exports; `exports` in package.json names their declarations. */
export const ENTRIES = ["index.ts", "mount.ts"];

/** @returns declarations by their path below dist/types @throws {Error} for a type that cannot be written down */
export function declarations(entries: readonly string[] = ENTRIES): ReadonlyMap<string, string> {
  const program = ts.createProgram(entries.map((entry) => join(SOURCES, entry)), compilerOptions());
  const written = new Map<string, string>();
  const wanted = entries.map((entry) => join(SOURCES, entry));
  for (const path of wanted) {
    const source = program.getSourceFile(path);
    if (source === undefined) throw new Error(`${relative(ROOT, path)} is not part of the program`);
    let text = "";
    const { diagnostics } = program.emit(source, (_, emitted) => void (text = emitted), undefined, true);
    if (diagnostics.length > 0) throw new Error(ts.formatDiagnostics(diagnostics, HOST));
    written.set(relative(SOURCES, path).replace(/\.ts$/, ".d.ts"), describeSettings(text));
    for (const { fileName } of ts.preProcessFile(text, true, false).importedFiles) {
      if (!fileName.startsWith(".")) throw new Error(`${relative(ROOT, path)} exports types of ${fileName}, which users may not have`);
      const next = join(dirname(path), fileName.replace(/\.js$/, ".ts"));
      if (!wanted.includes(next)) wanted.push(next);
    }
  }
  return written;
}

const TABLES: Readonly<Record<string, SettingTable>> = { SERVER_SETTINGS, TOP_SETTINGS, LORA_SETTINGS, PEFT_CACHE_SETTINGS, KV_CACHE_SETTINGS };

/** Every setting with its own words, which an editor then shows for the option of that name. */
const describeSettings = (text: string): string =>
  text.replaceAll(/(export declare const (\w+): \{\n)([\s\S]*?\n\};)/g, (whole, head: string, name: string, body: string) => {
    const table = TABLES[name];
    if (table === undefined) return whole;
    return head + body.replaceAll(/^ {4}readonly (\w+):/gm, (line, setting: string) => `    /** ${sentence(table[setting]!)} */\n${line}`);
  });

function sentence({ doc, default: fallback }: Setting<unknown>): string {
  const isPlain = typeof fallback === "number" || typeof fallback === "boolean" || typeof fallback === "string";
  return `${doc[0]!.toUpperCase()}${doc.slice(1)}.${isPlain ? ` Default: \`${JSON.stringify(fallback)}\`.` : ""}`;
}

const HOST: ts.FormatDiagnosticsHost = { getCurrentDirectory: () => ROOT, getCanonicalFileName: (name) => name, getNewLine: () => "\n" };

function compilerOptions(): ts.CompilerOptions {
  const { config, error } = ts.readConfigFile(join(ROOT, "tsconfig.json"), (path) => ts.sys.readFile(path)) as { config: object; error?: ts.Diagnostic };
  if (error !== undefined) throw new Error(ts.formatDiagnostic(error, HOST));
  const { options } = ts.parseJsonConfigFileContent({ ...config, include: [], files: [] }, ts.sys, ROOT);
  return {
    ...options,
    noEmit: false,
    noCheck: true,
    declaration: true,
    emitDeclarationOnly: true,
    rewriteRelativeImportExtensions: true,
    stripInternal: true,
    rootDir: SOURCES,
    outDir: join(ROOT, "dist/types"),
  };
}

if (import.meta.main) {
  const target = join(ROOT, "dist/types");
  rmSync(target, { recursive: true, force: true });
  for (const [path, text] of declarations()) {
    mkdirSync(dirname(join(target, path)), { recursive: true });
    writeFileSync(join(target, path), text);
  }
}
