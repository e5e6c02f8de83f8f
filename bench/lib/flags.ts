/** Flags of a bench: each is checked before anything slow begins, and an error says what would be right. */
import { parseArgs } from "node:util";

type Texts<Defaults> = { readonly [Name in keyof Defaults]: Defaults[Name] extends string ? string : string | undefined };

/** @param defaults text of every flag that may be given; undefined where leaving it out means something */
export function parseFlags<const Defaults extends Readonly<Record<string, string | undefined>>>(defaults: Defaults): Texts<Defaults> {
  const known = Object.keys(defaults);
  try {
    const { values } = parseArgs({ options: Object.fromEntries(known.map((name) => [name, { type: "string" as const }])) });
    return { ...defaults, ...values } as Texts<Defaults>;
  } catch (error) {
    const flags = known.length === 0 ? "There are no flags" : `The flags are ${known.map((name) => `--${name}`).join(", ")}`;
    return fail(`${(error as Error).message}. ${flags}.`);
  }
}

export function oneOf<const Choice extends string>(flag: string, text: string, choices: readonly Choice[]): Choice {
  return choices.find((choice) => choice === text) ?? fail(`--${flag} ${text}: give one of ${choices.join(", ")}.`);
}

export function integerIn(flag: string, text: string, least: number, most: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  return value >= least && value <= most ? value : fail(`--${flag} ${text}: give a whole number from ${least} to ${most}.`);
}

/** Numbers with commas between them, each once. */
export const integersIn = (flag: string, text: string, least: number, most: number): number[] => [...new Set(text.split(",").map((part) => integerIn(flag, part, least, most)))];

function fail(message: string): never {
  console.error(message);
  process.exit(2);
}
