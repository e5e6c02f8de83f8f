import { expect, test } from "bun:test";
import { inNextTurn } from "../../src/core/next-turn.ts";

test("tasks run together in the next turn, in order; those that come with them, in the turn after", async () => {
  const turns: (() => void)[] = [];
  const soon = inNextTurn(() => new Promise((resolve) => void turns.push(resolve)));
  const ran: string[] = [];
  soon(() => {
    ran.push("first");
    soon(() => ran.push("third"));
  });
  soon(() => ran.push("second"));
  expect(turns).toHaveLength(1);
  expect(ran).toEqual([]);
  turns.pop()!();
  await Promise.resolve();
  expect(ran).toEqual(["first", "second"]);
  expect(turns).toHaveLength(1);
  turns.pop()!();
  await Promise.resolve();
  expect(ran).toEqual(["first", "second", "third"]);
});
