/** Clients of a server: a key each, its share of the device and its quota. */
import { didYouMean } from "../core/nearest.ts";
import { integer, number, type Setting, text, WrongValue } from "./setting.ts";

const MAX = Number.MAX_SAFE_INTEGER;

const FIELDS = {
  name: text(null, "NAME", "name in messages and metrics"),
  key: text(null, "KEY", "the API key"),
  weight: number(1, 0.001, 1_000_000, "share of the device against other clients that wait"),
  max_requests: integer(null, 1, MAX, "most sequences that wait or run at once"),
  requests_per_minute: integer(null, 1, MAX, "sequences a minute"),
  tokens_per_minute: integer(null, 1, MAX, "prompt and output tokens a minute"),
} as const;

export interface ClientSettings {
  readonly name: string;
  readonly key: string;
  readonly weight: number;
  readonly maxRequests: number | null;
  readonly requestsPerMinute: number | null;
  readonly tokensPerMinute: number | null;
}

const NAME = /^[\w.:@-]{1,64}$/;
/** What requests with other keys are counted under. */
const TAKEN = /^(admin|key-\d+)$/;

/** A list of maps, of which only a configuration file can hold any. */
export function clients(doc: string): Setting<readonly ClientSettings[]> {
  const read = (value: unknown): readonly ClientSettings[] => {
    if (!Array.isArray(value)) throw new WrongValue(`must be a list of maps with name and key, in the configuration file`);
    const list = value.map((each: unknown, i) => readClient(each, i + 1));
    for (const field of ["name", "key"] as const) {
      const twice = list.findIndex((each, i) => list.findIndex((other) => other[field] === each[field]) !== i);
      if (twice >= 0) throw wrong(twice + 1, `has the ${field} of an earlier entry`);
    }
    return list;
  };
  return { default: [], doc, placeholder: "LIST", read, parse: read };
}

function readClient(value: unknown, place: number): ClientSettings {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw wrong(place, "must be a map");
  for (const key of Object.keys(value)) {
    if (!Object.hasOwn(FIELDS, key)) throw wrong(place, `has ${key}, which is not a setting of a client${didYouMean(key, Object.keys(FIELDS))}`);
  }
  const given = value as Readonly<Record<string, unknown>>;
  const field = <K extends keyof typeof FIELDS>(name: K): ReturnType<(typeof FIELDS)[K]["read"]> => {
    const setting = FIELDS[name];
    try {
      return (given[name] === undefined ? setting.default : setting.read(given[name])) as ReturnType<(typeof FIELDS)[K]["read"]>;
    } catch (thrown) {
      if (thrown instanceof WrongValue) throw wrong(place, name === "key" ? "must have a key of one word" : `${name} ${thrown.message}`);
      throw thrown;
    }
  };
  const name = field("name");
  const key = field("key");
  if (name === null || !NAME.test(name)) throw wrong(place, "must have a name of 1 to 64 letters, digits and . _ : @ -");
  if (TAKEN.test(name)) throw wrong(place, `cannot be named ${name}, as keys without a name are`);
  // Never shown: it is a secret.
  if (key === null || !/^\S+$/.test(key)) throw wrong(place, "must have a key of one word");
  return {
    name,
    key,
    weight: field("weight"),
    maxRequests: field("max_requests"),
    requestsPerMinute: field("requests_per_minute"),
    tokensPerMinute: field("tokens_per_minute"),
  };
}

const wrong = (place: number, problem: string): WrongValue => new WrongValue(`entry ${place} ${problem}`);
