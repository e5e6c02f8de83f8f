/** Which sources an operator opens to requests of the admin key, by what they begin with. */
import { ConfigError } from "../core/errors.ts";
import { parseSource, type RemoteReference } from "./source-reference.ts";

/** Whether a source lies under one that is allowed. */
export type AllowedSources = (reference: RemoteReference) => boolean;

/**
 * @param prefixes `hf://OWNER`, `hf://OWNER/NAME`, `s3://BUCKET/FOLDER` or `https://HOST/FOLDER`; none allows nothing
 * @throws {ConfigError} `config_invalid` for what is none of these
 */
export function allowedSources(prefixes: readonly string[]): AllowedSources {
  const rules = prefixes.map(ruleOf);
  return (reference) => rules.some((rule) => rule(reference));
}

function ruleOf(prefix: string): AllowedSources {
  const owner = /^hf:\/\/([A-Za-z0-9_][\w.-]{0,95})\/?$/.exec(prefix)?.[1];
  if (owner !== undefined) return (reference) => reference.kind === "hub" && reference.repository.startsWith(`${owner}/`);
  const allowed = parse(prefix);
  switch (allowed?.kind) {
    case "hub":
      return (reference) =>
        reference.kind === "hub" && reference.repository === allowed.repository && isUnder(reference.folder, allowed.folder);
    case "s3":
      return (reference) => reference.kind === "s3" && reference.bucket === allowed.bucket && isUnder(reference.prefix, allowed.prefix);
    case "web":
      return (reference) => reference.kind === "web" && isUnder(reference.url, allowed.url);
    default:
      throw new ConfigError("config_invalid", `--adapter-source must be hf://OWNER, hf://OWNER/NAME, s3://BUCKET/FOLDER or https://HOST/FOLDER, got ${JSON.stringify(prefix.slice(0, 100))}`, {
        field: "adapter_source",
      });
  }
}

function parse(prefix: string): RemoteReference | null {
  try {
    const reference = parseSource(prefix, () => true);
    return reference.kind === "local" ? null : reference;
  } catch {
    return null;
  }
}

/** Whole parts of a path: `a/b` is under `a`, `ab` is not. */
const isUnder = (path: string, folder: string): boolean => folder === "" || path === folder || path.startsWith(`${folder}/`);
