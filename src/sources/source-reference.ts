/** Where a model or an adapter comes from, as a person writes it. */
import { ConfigError } from "../core/errors.ts";

export type SourceReference =
  | { readonly kind: "local"; readonly path: string }
  /** A repository on a Hugging Face hub; `revision` is a branch, a tag or a commit. */
  | { readonly kind: "hub"; readonly repository: string; readonly revision: string; readonly folder: string }
  | { readonly kind: "s3"; readonly bucket: string; readonly prefix: string }
  | { readonly kind: "web"; readonly url: string };

export type RemoteReference = Exclude<SourceReference, { readonly kind: "local" }>;

/** As the hub allows them: two names, without `--` and `..`, which its cache folders could not tell apart. */
const NAME = String.raw`[A-Za-z0-9_](?:[A-Za-z0-9_]|[.-](?![.-])){0,95}`;
const HUB = new RegExp(`^(${NAME}/${NAME})((?:/[A-Za-z0-9_][\\w.-]{0,95}){0,8})(?:@(\\w[\\w.-]{0,99}(?:/\\w[\\w.-]{0,99}){0,8}))?$`);
const BUCKET = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;

/**
 * @param text a path, `owner/name[@revision]`, `hf://owner/name[/folder][@revision]`, `s3://bucket/prefix`, or `https://host/path`
 * @param isThere whether something of that path lies on this machine, which then is meant
 * @throws {ConfigError} `config_invalid` for a scheme or spelling that means nothing
 */
export function parseSource(text: string, isThere: (path: string) => boolean): SourceReference {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(text)?.[1]?.toLowerCase();
  switch (scheme) {
    case undefined: {
      const hub = isThere(text) ? null : hubReference(text);
      return hub === null || hub.folder !== "" ? { kind: "local", path: text } : hub;
    }
    case "hf": {
      const hub = hubReference(text.slice(5));
      if (hub !== null) return hub;
      throw wrong(text, "is not hf://OWNER/NAME, with a folder or @REVISION behind it where that is meant");
    }
    case "s3":
      return s3Reference(text);
    case "http":
    case "https":
      return webReference(text);
    default:
      throw wrong(text, `has the scheme ${scheme}://; sources are paths, hf://, s3:// and https://`);
  }
}

function hubReference(text: string): Extract<SourceReference, { kind: "hub" }> | null {
  const match = HUB.exec(text);
  if (match === null || match[3]?.includes("..") === true) return null;
  return { kind: "hub", repository: match[1]!, folder: (match[2] ?? "").slice(1), revision: match[3] ?? "main" };
}

function s3Reference(text: string): SourceReference {
  const [, bucket = "", prefix = ""] = /^s3:\/\/([^/]*)\/?(.*)$/i.exec(text) ?? [];
  const parts = prefix.split("/").filter((part) => part !== "");
  const isGood = BUCKET.test(bucket) && parts.length > 0 && parts.every((part) => part !== "." && part !== "..") && !/[\p{Cc}\\?#]/u.test(prefix);
  if (!isGood) throw wrong(text, "is not s3://BUCKET/FOLDER or s3://BUCKET/FILE.nemo");
  return { kind: "s3", bucket, prefix: parts.join("/") };
}

function webReference(text: string): SourceReference {
  const url = URL.parse(text);
  if (url === null || url.username !== "" || url.password !== "" || url.hash !== "" || url.search !== "" || /[\p{Cc}\\]/u.test(text)) {
    throw wrong(text, "is not a plain URL: https://HOST/FOLDER or https://HOST/FILE.nemo, without user, query or fragment");
  }
  return { kind: "web", url: url.href.replace(/\/+$/, "") };
}

/** For messages and logs. */
export function showSource(reference: RemoteReference): string {
  switch (reference.kind) {
    case "hub":
      return `${reference.repository}${reference.folder === "" ? "" : `/${reference.folder}`}@${reference.revision}`;
    case "s3":
      return `s3://${reference.bucket}/${reference.prefix}`;
    case "web":
      return reference.url;
  }
}

/** As `parseSource` reads it back, whatever lies on this machine. */
export const writeSource = (reference: RemoteReference): string => `${reference.kind === "hub" ? "hf://" : ""}${showSource(reference)}`;

/** Last part of its name, without `.nemo`: what an adapter is called where nobody says. */
export function sourceName(reference: RemoteReference): string {
  const whole = reference.kind === "hub" ? `${reference.repository}/${reference.folder}` : reference.kind === "s3" ? `${reference.bucket}/${reference.prefix}` : reference.url;
  return whole.replace(/\/+$/, "").split("/").at(-1)!.replace(/\.nemo$/, "");
}

const wrong = (text: string, problem: string): ConfigError =>
  new ConfigError("config_invalid", `the source ${JSON.stringify(text.slice(0, 200))} ${problem}`);
