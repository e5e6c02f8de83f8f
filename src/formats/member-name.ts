/** Names of archive members: plain relative paths, whatever an archive claims. */
import { FormatError, quoted } from "./format-error.ts";

export const MAX_MEMBER_NAME_BYTES = 512;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * @param archive what the name stands in, for messages
 * @throws {FormatError} for a name that is not UTF-8, too long, or could mean a place outside the archive
 */
export function memberName(bytes: Uint8Array, archive: string): string {
  if (bytes.length > MAX_MEMBER_NAME_BYTES) {
    throw new FormatError(`the ${archive} has a member name of ${bytes.length} bytes, more than the ${MAX_MEMBER_NAME_BYTES} allowed`);
  }
  let name: string;
  try {
    name = utf8.decode(bytes);
  } catch (cause) {
    throw new FormatError(`the ${archive} has a member name that is not valid UTF-8`, { cause });
  }
  checkMemberName(name, archive);
  return name;
}

export function checkMemberName(name: string, archive: string): void {
  // eslint-disable-next-line no-control-regex -- control characters are what is looked for
  if (name === "" || /[\0-\x1f\x7f\\]|^[A-Za-z]:/.test(name) || name.split("/").some((part) => part === "" || part === "." || part === "..")) {
    throw new FormatError(`the ${archive} has the member name ${quoted(name)}; names must be plain relative paths`);
  }
}
