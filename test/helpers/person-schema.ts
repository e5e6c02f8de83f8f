/** A schema that a model left alone would not keep to. */
import { expect } from "bun:test";

export const PERSON = {
  type: "object",
  properties: {
    name: { type: "string", minLength: 1, maxLength: 12 },
    age: { type: "integer", minimum: 0, maximum: 120 },
    tags: { type: "array", items: { enum: ["kind", "tall"] }, minItems: 1, maxItems: 3 },
  },
  required: ["name", "age", "tags"],
  additionalProperties: false,
};
export function checkPerson(text: string): void {
  const person = JSON.parse(text) as { name: string; age: number; tags: string[] };
  expect(Object.keys(person).toSorted()).toEqual(["age", "name", "tags"]);
  expect(person.name.length).toBeGreaterThan(0);
  expect(Number.isInteger(person.age) && person.age >= 0 && person.age <= 120).toBe(true);
  expect(person.tags.length >= 1 && person.tags.length <= 3).toBe(true);
  expect(person.tags.every((tag) => tag === "kind" || tag === "tall")).toBe(true);
}
