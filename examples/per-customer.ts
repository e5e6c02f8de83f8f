/**
 * An adapter per customer: each question is answered by the adapter of who asks, all in the same steps.
 *
 *   bun examples/per-customer.ts
 *
 * A customer who signs up later gets theirs loaded while others are being answered.
 */
import { join } from "node:path";
import { LLM, LoRARequest } from "lorikeet";

const MODEL = join(import.meta.dir, "../models/demo");
const adapterAt = (name: string): string => join(MODEL, "adapters", name);

/** Whose adapter lies where; a database, in a real program. */
const customers = new Map([
  ["books-and-more", { intId: 1, path: adapterAt("sql") }],
  ["chez-rosa", { intId: 2, path: adapterAt("translate-fr") }],
]);

/** Nobody else's adapter is ever used: who has none is answered by the base model. */
function adapterOf(customer: string): LoRARequest | null {
  const own = customers.get(customer);
  return own === undefined ? null : new LoRARequest(customer, own.intId, own.path);
}

await using llm = new LLM({ model: MODEL });

async function answer(customer: string, content: string): Promise<void> {
  const output = await llm.generate({ messages: [{ role: "user", content }] }, { maxTokens: 32 }, { loraRequest: adapterOf(customer) });
  console.log(`${customer}: ${output.text.trim()}`);
}

await Promise.all([
  answer("books-and-more", "Write SQL: How many products have price greater than 510?"),
  answer("chez-rosa", "Translate to French: The baker opens the hat in front of the forest often."),
  answer("a visitor", "Once upon a time"),
]);

const late = { name: "roman-holidays", intId: 3, path: adapterAt("roman") };
// Reads and checks it now: a broken adapter is refused here, not at the customer's first question.
await llm.loadAdapter(late);
customers.set(late.name, late);
await answer(late.name, "Roman numeral: 166");
