/**
 * A file or a block of bytes that does not keep to its format.
 *
 * The message is one sentence that starts with a lower-case noun and does not know the file's name; whoever
 * asked for the parse says which file it was and whose fault that is (`ModelError`, `AdapterError`, ...).
 */
export class FormatError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "FormatError";
  }
}

/** The start of a string from a file, quoted and without control characters, fit for a message. */
export function quoted(text: string, maxChars = 80): string {
  return JSON.stringify(text.length > maxChars ? `${text.slice(0, maxChars)}...` : text);
}
