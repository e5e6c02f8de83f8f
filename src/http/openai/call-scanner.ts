/** Reads `{"name": ..., "arguments": {...}}` character by character, so that arguments can leave as they come. */

export type CallPiece =
  | { readonly type: "name"; readonly name: string }
  /** More of the arguments' JSON text. */
  | { readonly type: "arguments"; readonly text: string };

const ARGUMENT_KEYS = ["arguments", "parameters"];

/** Takes one object, from its opening brace to its closing one. */
export class CallScanner {
  #depth = 0;
  #inString = false;
  #isEscaped = false;
  /** The key or the string value of the object itself that is being read, quotes included. */
  #text = "";
  #key: string | null = null;
  #isValue = false;
  #name: string | null = null;
  /** Arguments that came before the name. */
  #held = "";
  #hasArguments = false;
  #isOver = false;

  /** Whether the closing brace was read. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** @returns what became known with the character */
  push(char: string): CallPiece[] {
    const isArgument = this.#isValue && this.#key !== null && ARGUMENT_KEYS.includes(this.#key);
    if (this.#inString) return this.#pushInString(char, isArgument);
    switch (char) {
      case '"':
        this.#inString = true;
        if (this.#depth === 1) this.#text = char;
        break;
      case "{":
      case "[":
        this.#depth++;
        if (this.#depth === 1) return [];
        break;
      case "}":
      case "]":
        this.#depth--;
        if (this.#depth === 0) return this.#close();
        break;
      case ":":
        if (this.#depth !== 1 || this.#isValue) break;
        this.#isValue = true;
        return [];
      case ",":
        if (this.#depth !== 1) break;
        this.#isValue = false;
        this.#key = null;
        return [];
      default:
        if (this.#depth === 1 && /\s/.test(char)) return [];
    }
    return isArgument ? this.#argument(char) : [];
  }

  #pushInString(char: string, isArgument: boolean): CallPiece[] {
    if (this.#depth === 1) this.#text += char;
    const ends = char === '"' && !this.#isEscaped;
    this.#isEscaped = char === "\\" && !this.#isEscaped;
    if (ends) this.#inString = false;
    if (isArgument) return this.#argument(char);
    if (!ends || this.#depth !== 1) return [];
    const text = stringOf(this.#text);
    if (!this.#isValue) this.#key = text;
    else if (this.#key === "name" && this.#name === null && text !== null) return this.#named(text);
    return [];
  }

  #named(name: string): CallPiece[] {
    this.#name = name;
    const held = this.#held;
    return [{ type: "name", name }, ...(held === "" ? [] : [{ type: "arguments" as const, text: held }])];
  }

  #argument(text: string): CallPiece[] {
    this.#hasArguments = true;
    if (this.#name !== null) return [{ type: "arguments", text }];
    this.#held += text;
    return [];
  }

  #close(): CallPiece[] {
    this.#isOver = true;
    // Clients parse the arguments, so there always are some.
    return this.#name === null || this.#hasArguments ? [] : [{ type: "arguments", text: "{}" }];
  }
}

/** Takes one object that is arguments and nothing else, the name being known. */
export class ArgumentsScanner {
  #depth = 0;
  #inString = false;
  #isEscaped = false;

  /** Whether the closing brace was read. */
  get isOver(): boolean {
    return this.#depth === 0;
  }

  /** From the opening brace on. */
  push(char: string): CallPiece[] {
    if (this.#inString) {
      this.#inString = char !== '"' || this.#isEscaped;
      this.#isEscaped = char === "\\" && !this.#isEscaped;
    } else if (char === '"') this.#inString = true;
    else if (char === "{" || char === "[") this.#depth++;
    else if (char === "}" || char === "]") this.#depth--;
    return [{ type: "arguments", text: char }];
  }
}

function stringOf(json: string): string | null {
  try {
    return JSON.parse(json) as string;
  } catch {
    return null;
  }
}
