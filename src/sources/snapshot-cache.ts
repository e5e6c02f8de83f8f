/**
 * Files of one source on disk, in the layout of Hugging Face's own cache, so that its programs and this one share what either
 * downloaded:
 *
 *   FOLDER/blobs/KEY                        content; the key is the source's hash of it
 *   FOLDER/snapshots/VERSION/NAME        -> ../../blobs/KEY
 *   FOLDER/refs/REVISION                    the version that a branch or tag meant when it was last asked
 *
 * @source huggingface_hub, "Understand caching", and file_download.py
 */
import { copyFile, mkdir, readdir, readFile, readlink, rename, rm, stat, symlink, unlink, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname, join, relative, sep } from "node:path";

/** What is not whole yet. The hub's own programs use `.incomplete`, under a lock that is theirs. */
const PART = ".lorikeet-part";
/** A download of another machine that writes nothing for this long is nobody's any more. */
const ABANDONED_MS = 10 * 60_000;
/** Parts of what nobody asked for since then are removed. */
const FORGOTTEN_MS = 7 * 24 * 3_600_000;

export class SnapshotCache {
  readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
  }

  snapshot(version: string): string {
    return join(this.folder, "snapshots", version);
  }

  /** @returns `null` where the revision was never asked for */
  async readRef(revision: string): Promise<string | null> {
    const text = await readFile(join(this.folder, "refs", revision), "utf8").catch(() => null);
    const version = text?.trim() ?? "";
    return /^[0-9a-f]{40,64}$/.test(version) ? version : null;
  }

  async writeRef(revision: string, version: string): Promise<void> {
    const path = join(this.folder, "refs", revision);
    await mkdir(dirname(path), { recursive: true });
    await writeWhole(path, version);
  }

  /** Names of the snapshot's files that are whole, relative to it, with `/`. */
  async files(version: string): Promise<readonly string[]> {
    const root = this.snapshot(version);
    const entries = await readdir(root, { recursive: true, withFileTypes: true }).catch(() => []);
    const names: string[] = [];
    for (const entry of entries) {
      const path = join(entry.parentPath, entry.name);
      // A link to a blob that is gone is no file.
      if ((await stat(path).catch(() => null))?.isFile() === true) names.push(relative(root, path).split(sep).join("/"));
    }
    return names;
  }

  /** Key of the blob behind a snapshot's file; `null` where it is not a link into the blobs. */
  async keyOf(version: string, name: string): Promise<string | null> {
    const target = await readlink(join(this.snapshot(version), ...name.split("/"))).catch(() => null);
    return target === null ? null : (target.split(/[\\/]/).at(-1) ?? null);
  }

  /** @param numBytes size that it must have; `null` for any */
  async has(key: string, numBytes: number | null = null): Promise<boolean> {
    const found = await stat(this.blob(key)).catch(() => null);
    return found?.isFile() === true && (numBytes === null || found.size === numBytes);
  }

  /** Whether a blob is what its key says; one whose key is no hash of it is believed. Reads it whole. */
  async isIntact(key: string): Promise<boolean> {
    const isSha256 = /^[0-9a-f]{64}$/.test(key);
    if (!isSha256 && !/^[0-9a-f]{40}$/.test(key)) return true;
    const bytes = await readFile(this.blob(key));
    const hash = isSha256 ? new Bun.CryptoHasher("sha256") : new Bun.CryptoHasher("sha1").update(`blob ${bytes.length}\0`);
    return hash.update(bytes).digest("hex") === key;
  }

  blob(key: string): string {
    return join(this.folder, "blobs", key);
  }

  async removeBlob(key: string): Promise<void> {
    await rm(this.blob(key), { force: true });
  }

  /**
   * A file of one's own for a blob that is being read, with what an earlier attempt left of it. Two processes never write one
   * file: it changes hands by renaming, which only one of them can do.
   */
  async claimPart(key: string): Promise<string> {
    const blobs = join(this.folder, "blobs");
    await mkdir(blobs, { recursive: true });
    const own = join(blobs, `${key}.${HOST}-${process.pid}-${crypto.randomUUID().slice(0, 8)}${PART}`);
    for (const name of await readdir(blobs)) {
      if (!name.endsWith(PART)) continue;
      const path = join(blobs, name);
      if (!name.startsWith(`${key}.`)) {
        if (await isOlder(path, FORGOTTEN_MS)) await rm(path, { force: true });
        continue;
      }
      const isLeft = name === `${key}.left${PART}` || (await isAbandoned(path));
      if (isLeft && (await rename(path, own).then(() => true, () => false))) return own;
    }
    return own;
  }

  /** Keeps what was read for another attempt. */
  async leavePart(key: string, part: string): Promise<void> {
    await rename(part, join(this.folder, "blobs", `${key}.left${PART}`)).catch(() => undefined);
  }

  async finishPart(key: string, part: string): Promise<void> {
    await rename(part, this.blob(key));
  }

  /** Shows a blob under its name. Idempotent. */
  async link(version: string, name: string, key: string): Promise<void> {
    const path = join(this.snapshot(version), ...name.split("/"));
    await mkdir(dirname(path), { recursive: true });
    const target = relative(dirname(path), this.blob(key));
    if ((await readlink(path).catch(() => null)) === target) return;
    await unlink(path).catch(() => undefined);
    await symlink(target, path).catch(async (thrown: unknown) => {
      const code = (thrown as { readonly code?: unknown }).code;
      if (code === "EEXIST") return;
      // Where links are not allowed, as on some file systems.
      await copyFile(this.blob(key), path);
    });
  }
}

/** Of processes that see the same process ids. */
const HOST = new Bun.CryptoHasher("sha256").update(hostname()).digest("hex").slice(0, 8);

async function isAbandoned(path: string): Promise<boolean> {
  const [, host, pid] = /\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.lorikeet-part$/.exec(path) ?? [];
  if (host === HOST && !isAlive(Number(pid))) return true;
  return isOlder(path, ABANDONED_MS);
}

async function isOlder(path: string, ageMs: number): Promise<boolean> {
  const found = await stat(path).catch(() => null);
  return found !== null && Date.now() - found.mtimeMs > ageMs;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (thrown) {
    return (thrown as { readonly code?: unknown }).code !== "ESRCH";
  }
}

/** Nobody ever reads half of it. */
async function writeWhole(path: string, text: string): Promise<void> {
  const draft = `${path}.${crypto.randomUUID().slice(0, 8)}${PART}`;
  await writeFile(draft, text);
  await rename(draft, path);
}
