import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { StopMatcher } from "../../src/engine/stop-matcher.ts";

describe("StopMatcher", () => {
  test("holds back what may be the start of a stop string, and lets it go when it is not", () => {
    const matcher = new StopMatcher(["</end>"], false);
    expect(matcher.push("text </e")).toEqual({ text: "text ", stop: null });
    expect(matcher.push("m> more")).toEqual({ text: "</em> more", stop: null });
    expect(matcher.push("</en")).toEqual({ text: "", stop: null });
    expect(matcher.push("d> never seen")).toEqual({ text: "", stop: "</end>" });
  });

  test("keeps the stop string itself when asked to, and drops what follows", () => {
    const matcher = new StopMatcher(["STOP"], true);
    expect(matcher.push("a ST")).toEqual({ text: "a ", stop: null });
    expect(matcher.push("OP b")).toEqual({ text: "STOP", stop: "STOP" });
  });

  test("the string that ends first wins, the longer one where two end together", () => {
    expect(new StopMatcher(["bcd", "abc"], false).push("xabcd")).toEqual({
      text: "x",
      stop: "abc",
    });
    expect(new StopMatcher(["c", "abc"], false).push("xabc")).toEqual({ text: "x", stop: "abc" });
  });

  test("gives back at the end what it held", () => {
    const matcher = new StopMatcher(["zzz"], false);
    expect(matcher.push("azz")).toEqual({ text: "a", stop: null });
    expect(matcher.flush()).toBe("zz");
    expect(matcher.flush()).toBe("");
  });

  test("agrees with a search over the whole text, however it is cut", () => {
    const letters = fc.constantFrom("a", "b", "ab", "🦜", "é");
    const text = fc.array(letters, { maxLength: 40 }).map((parts) => parts.join(""));
    const stop = fc.array(letters, { minLength: 1, maxLength: 5 }).map((parts) => parts.join(""));
    fc.assert(
      fc.property(
        text,
        fc.array(stop, { minLength: 1, maxLength: 4 }),
        fc.array(fc.nat(60), { maxLength: 8 }),
        fc.boolean(),
        (whole, stops, cuts, keepsStop) => {
          const ends = stops
            .map((each) => ({ each, end: whole.indexOf(each) + each.length }))
            .filter(({ each }) => whole.includes(each))
            .toSorted((a, b) => a.end - b.end || b.each.length - a.each.length);
          const first = ends[0];
          const kept = keepsStop ? 0 : (first?.each.length ?? 0);
          const expected = first === undefined ? whole : whole.slice(0, first.end - kept);

          const matcher = new StopMatcher(stops, keepsStop);
          const places = [0, ...cuts.filter((cut) => cut < whole.length), whole.length];
          places.sort((a, b) => a - b);
          let out = "";
          let found: string | null = null;
          for (let i = 1; i < places.length && found === null; i++) {
            const match = matcher.push(whole.slice(places[i - 1]!, places[i]!));
            out += match.text;
            found = match.stop;
            expect(expected.startsWith(out)).toBe(true);
          }
          if (found === null) out += matcher.flush();
          expect(out).toBe(expected);
          expect(found).toBe(first?.each ?? null);
        },
      ),
      { numRuns: 2000 },
    );
  });
});
