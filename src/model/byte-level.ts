/**
 * The alphabet of byte-level vocabularies: each byte is written as one printable character.
 *
 * @source OpenAI GPT-2, encoder.py, bytes_to_unicode
 */

function isPrintable(byte: number): boolean {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
}

/** `[256]`: the character of each byte. */
export const BYTE_CHARS: readonly string[] = (() => {
  let numOthers = 0;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(isPrintable(byte) ? byte : 256 + numOthers++),
  );
})();

const BYTE_OF_CHAR = new Map(BYTE_CHARS.map((char, byte) => [char, byte]));

/** @returns the bytes that a vocabulary entry stands for, `null` when it is not written in the alphabet */
export function byteLevelBytes(entry: string): Uint8Array | null {
  const bytes = new Uint8Array(entry.length);
  for (let i = 0; i < entry.length; i++) {
    const byte = BYTE_OF_CHAR.get(entry[i]!);
    if (byte === undefined) return null;
    bytes[i] = byte;
  }
  return bytes;
}
