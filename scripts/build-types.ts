/**
 * Writes dist/types, run by `npm pack`: declarations of what the package exports and of what those mention, nothing else.
 *
 * The package's own sources would do for Bun, not for a type checker: it holds whatever it reads from TypeScript files of a
 * package to its own settings.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import ts from "typescript";

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
    const { diagnostics } = program.emit(source, (_, text) => written.set(relative(SOURCES, path).replace(/\.ts$/, ".d.ts"), text), undefined, true);
    if (diagnostics.length > 0) throw new Error(ts.formatDiagnostics(diagnostics, HOST));
    const text = written.get(relative(SOURCES, path).replace(/\.ts$/, ".d.ts"))!;
    for (const { fileName } of ts.preProcessFile(text, true, false).importedFiles) {
      if (!fileName.startsWith(".")) throw new Error(`${relative(ROOT, path)} exports types of ${fileName}, which users may not have`);
      const next = join(dirname(path), fileName.replace(/\.js$/, ".ts"));
      if (!wanted.includes(next)) wanted.push(next);
    }
  }
  return written;
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
