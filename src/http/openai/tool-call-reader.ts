/** Finds tool calls in a model's text, in the forms that chat templates teach. */
import { ArgumentsScanner, type CallPiece, CallScanner } from "./call-scanner.ts";

export type ToolCallForm =
  /** `<tool_call>{...}</tool_call>`: Hermes, Qwen. */
  | "hermes"
  /** `{"name": ..., "parameters": {...}}` as the whole answer, several with `;` between them: Llama 3. */
  | "llama3_json"
  /** `[TOOL_CALLS][{...}, ...]`, or since its tokenizer 11 `[TOOL_CALLS]name[CALL_ID]id[ARGS]{...}` for each call: Mistral. */
  | "mistral"
  /** A list of calls and nothing else, which the grammar of `tool_choice: "required"` gives. */
  | "list";

/** What a piece of an answer's text is. */
export type AnswerPart = { readonly type: "content"; readonly text: string } | (CallPiece & { readonly call: number });

interface Marks {
  /** What comes before the first call; empty where calls are the whole answer. */
  readonly open: string;
  readonly close: string;
}

const MARKS: Readonly<Record<ToolCallForm, Marks>> = {
  hermes: { open: "<tool_call>", close: "</tool_call>" },
  llama3_json: { open: "", close: "" },
  mistral: { open: "[TOOL_CALLS]", close: "" },
  list: { open: "", close: "" },
};

/** A call by its name alone, up to its arguments, and the pieces of it that text may end in. */
const NAMED_CALL = /^([\w.-]{1,256})(?:\[CALL_ID\][\w-]{1,64})?\[ARGS\]$/;
const NAMED_CALL_BEGUN = /^[\w.-]{1,256}(?:\[(?:CALL_ID\][\w-]{0,64}(?:\[[ARGS]{0,4}\]?)?|[A-Z_]{0,7}\]?)?)?$/;

/** What Llama 3 may write before a call. */
const PYTHON_TAG = "<|python_tag|>";

/** Reads one answer; text goes in as it comes, in pieces of any size. */
export class ToolCallReader {
  readonly #form: ToolCallForm;
  readonly #marks: Marks;
  #numCalls = 0;
  #scanner: CallScanner | ArgumentsScanner | null = null;
  /** Whether the name of the call being read is known. */
  #isNamed = false;
  /** Whether the text now is content, or lies between calls. */
  #isContent: boolean;
  /** Text that may be the start of a mark, or of the first call. */
  #held = "";
  /** Parts of a call whose name is not known yet, as text, in case it is none. */
  #unnamed = "";

  constructor(form: ToolCallForm) {
    this.#form = form;
    this.#marks = MARKS[form];
    this.#isContent = this.#marks.open !== "";
  }

  /** Calls whose name is known, so far. */
  get numCalls(): number {
    return this.#numCalls;
  }

  push(text: string): AnswerPart[] {
    const parts: AnswerPart[] = [];
    for (const char of text) this.#pushChar(char, parts);
    return merged(parts);
  }

  /** What was held back, once no more can follow. */
  flush(): AnswerPart[] {
    const rest = this.#scanner === null ? this.#held : this.#unnamed;
    this.#held = "";
    this.#unnamed = "";
    const isBetween = this.#scanner === null && !this.#isContent && (rest.trim() === "" || this.#isSeparator(rest.trim()));
    return rest === "" || isBetween ? [] : [{ type: "content", text: rest }];
  }

  #pushChar(char: string, parts: AnswerPart[]): void {
    if (this.#scanner !== null) this.#scan(this.#scanner, char, parts);
    else if (this.#isContent) this.#content(char, parts);
    else this.#between(char, parts);
  }

  #content(char: string, parts: AnswerPart[]): void {
    const { open } = this.#marks;
    this.#held += char;
    if (open === "") return this.#release(parts);
    while (!open.startsWith(this.#held)) {
      parts.push({ type: "content", text: this.#held[0]! });
      this.#held = this.#held.slice(1);
    }
    if (this.#held !== open) return;
    this.#held = "";
    this.#isContent = false;
  }

  /** Before a call: brackets, separators, white space. Anything else makes it content again. */
  #between(char: string, parts: AnswerPart[]): void {
    if (char === "{") {
      const name = this.#form === "mistral" ? NAMED_CALL.exec(this.#held.trim())?.[1] : undefined;
      if (name !== undefined) {
        this.#scanner = new ArgumentsScanner();
        this.#isNamed = true;
        this.#held = "";
        parts.push({ type: "name", name, call: this.#numCalls++ });
        return this.#scan(this.#scanner, char, parts);
      }
      this.#scanner = new CallScanner();
      this.#isNamed = false;
      this.#unnamed = this.#held;
      this.#held = "";
      return this.#scan(this.#scanner, char, parts);
    }
    this.#held += char;
    const rest = this.#held.trimStart();
    if (rest === "" || this.#isSeparator(rest)) return;
    if (this.#form === "mistral") {
      // Each named call has the mark before it.
      const { open } = this.#marks;
      if (rest.endsWith(open)) this.#held = "";
      if (open.startsWith(rest.replace(/^[\],\s]+/, "")) || NAMED_CALL_BEGUN.test(rest.trim())) return;
    }
    if (rest === this.#marks.close) {
      // White space after the closing mark belongs to no content.
      this.#held = "";
      this.#isContent = true;
      return;
    }
    if (this.#marks.close.startsWith(rest) || (this.#form === "llama3_json" && this.#numCalls === 0 && PYTHON_TAG.startsWith(rest))) return;
    this.#isContent = true;
    this.#release(parts);
  }

  #isSeparator(rest: string): boolean {
    switch (this.#form) {
      case "hermes":
        return false;
      case "llama3_json":
        return this.#numCalls > 0 && /^[;\s]*$/.test(rest);
      case "mistral":
      case "list":
        return /^[[\],\s]*$/.test(rest);
    }
  }

  #scan(scanner: CallScanner | ArgumentsScanner, char: string, parts: AnswerPart[]): void {
    for (const piece of scanner.push(char)) {
      if (piece.type === "name") {
        this.#numCalls++;
        this.#isNamed = true;
        this.#unnamed = "";
      }
      parts.push({ ...piece, call: this.#numCalls - 1 });
    }
    if (!this.#isNamed) this.#unnamed += char;
    if (!scanner.isOver) return;
    this.#scanner = null;
    if (this.#unnamed === "") return;
    // An object without a name is no call.
    parts.push({ type: "content", text: this.#unnamed });
    this.#unnamed = "";
    if (this.#marks.open === "") this.#isContent = true;
  }

  #release(parts: AnswerPart[]): void {
    parts.push({ type: "content", text: this.#held });
    this.#held = "";
  }
}

/** Neighbours of one kind as one. */
function merged(parts: readonly AnswerPart[]): AnswerPart[] {
  const result: AnswerPart[] = [];
  for (const part of parts) {
    const last = result.at(-1);
    if (last?.type === "content" && part.type === "content") result[result.length - 1] = { type: "content", text: last.text + part.text };
    else if (last?.type === "arguments" && part.type === "arguments" && last.call === part.call) {
      result[result.length - 1] = { ...last, text: last.text + part.text };
    } else result.push(part);
  }
  return result;
}

/** The form that a template teaches, told by its marks; `null` when it has no place for tools. */
export function toolCallForm(template: string): Exclude<ToolCallForm, "list"> | null {
  if (!/\btools\b/.test(template)) return null;
  if (template.includes("[TOOL_CALLS]") || template.includes("[AVAILABLE_TOOLS]")) return "mistral";
  if (template.includes(MARKS.hermes.open)) return "hermes";
  return "llama3_json";
}
