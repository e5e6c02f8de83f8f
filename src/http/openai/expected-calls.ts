/** How the tool calls of one request's answers are told from their text. */
import { badField } from "../error-response.ts";
import { type AnswerPart, type ToolCallForm, ToolCallReader, toolCallForm } from "./tool-call-reader.ts";
import type { Tools } from "./tools.ts";

export type ExpectedCalls =
  | { readonly type: "form"; readonly form: ToolCallForm }
  /** The whole answer is the arguments of this tool. */
  | { readonly type: "named"; readonly name: string };

/**
 * @param template the text of the model's chat template
 * @returns `null` where no tool may be called
 * @throws {RequestError} `invalid_request` for tools with a template that has no place for them
 */
export function expectedCalls({ offered, choice }: Tools, template: string): ExpectedCalls | null {
  if (offered.length === 0) return null;
  const form = toolCallForm(template);
  if (form === null) throw badField("tools", "cannot be called: this model's chat template has no place for tools");
  if (choice === "named") return { type: "named", name: offered[0]!.name };
  return { type: "form", form: choice === "required" ? "list" : form };
}

/** Reads one choice's text as it comes. */
export class PartReader {
  readonly #reader: ToolCallReader | null;
  readonly #named: string | null;
  #numNamed = 0;

  constructor(calls: ExpectedCalls | null) {
    this.#reader = calls?.type === "form" ? new ToolCallReader(calls.form) : null;
    this.#named = calls?.type === "named" ? calls.name : null;
  }

  get numCalls(): number {
    return this.#reader?.numCalls ?? this.#numNamed;
  }

  /** @param isLast whether no more text can follow */
  read(text: string, isLast: boolean): readonly AnswerPart[] {
    if (this.#reader !== null) return [...this.#reader.push(text), ...(isLast ? this.#reader.flush() : [])];
    if (text === "") return [];
    if (this.#named === null) return [{ type: "content", text }];
    const opening: AnswerPart[] = this.#numNamed === 0 ? [{ type: "name", name: this.#named, call: 0 }] : [];
    this.#numNamed = 1;
    return [...opening, { type: "arguments", text, call: 0 }];
  }
}
