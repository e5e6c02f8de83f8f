/** The page in a real browser, on the demo model. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import html from "../../src/page/index.html";
import { until } from "../helpers/until.ts";
import { CHROMIUM, launch, openWatched, type Watched } from "../helpers/browser.ts";
import { DEMO, type DemoServer, readDemoGolden, startDemo } from "../helpers/demo-server.ts";
import { REPOSITORY } from "../helpers/repository.ts";

const ADMIN = "admin-key";
const ADAPTERS = join(DEMO, "adapters");
const AXE = join(REPOSITORY, "node_modules/axe-core/axe.min.js");
const VIEWS = ["#live", "#adapters", "#playground"] as const;

const golden = (adapter: string) => readDemoGolden(["sql", "translate-fr"]).find((each) => each.adapter === adapter && !each.raw)!;

async function giveKeys(page: Page, { api, admin }: { readonly api?: string; readonly admin?: string }): Promise<void> {
  await page.getByRole("button", { name: "Keys" }).click();
  if (api !== undefined) await page.getByLabel("API key").fill(api);
  if (admin !== undefined) await page.getByLabel("Admin key").fill(admin);
  await page.getByRole("button", { name: "Save" }).click();
}

const show = (page: Page, view: string) => page.getByRole("navigation").getByRole("link", { name: view, exact: true }).click();
const row = (page: Page, adapter: string) => page.locator(`tr[data-adapter="${adapter}"]`);

describe.skipIf(CHROMIUM === null)("the page in Chromium", () => {
  let demo: DemoServer;
  let browser: Browser;
  beforeAll(async () => {
    [demo, browser] = await Promise.all([
      startDemo({
        adminKey: ADMIN,
        adapterRoot: [ADAPTERS],
        loraConfig: { loraDir: ["sql", "translate-fr"].map((name) => join(ADAPTERS, name)) },
      }, html),
      launch(),
    ]);
  });
  afterAll(async () => {
    await browser?.close();
    await demo?.stop();
  });
  const open = (options?: Parameters<typeof openWatched>[2], view = ""): Promise<Watched> => openWatched(browser, `${demo.url}/${view}`, options);

  test("streams the answers of several adapters side by side, each its own", async () => {
    const { page, errors, origins } = await open({}, "#playground");
    const { prompt, text } = golden("sql");
    await page.getByLabel("Prompt").fill(prompt);
    for (const name of ["demo (base)", "sql", "translate-fr"]) await page.getByRole("checkbox", { name, exact: true }).check();
    // Every state that an answer's text was in.
    await page.evaluate(`
      window.seen = {};
      new MutationObserver(() => {
        for (const answer of document.querySelectorAll(".answer")) {
          const now = answer.querySelector(".text").textContent;
          const states = (seen[answer.getAttribute("aria-label")] ??= []);
          if (states.at(-1) !== now) states.push(now);
        }
      }).observe(document.body, { subtree: true, childList: true, characterData: true });
    `);
    await page.getByLabel("Prompt").press("Control+Enter");
    await page.locator('.answer[aria-busy="false"]').nth(2).waitFor();
    expect(await page.getByRole("status").allTextContents()).toContain("3 of 3 answers are complete");
    const answer = (name: string) => page.getByRole("article", { name: `Answer of ${name}` });
    expect(await answer("sql").locator(".text").textContent()).toBe(text);
    expect(await answer("translate-fr").locator(".text").textContent()).not.toBe(text);
    expect(await answer("sql").textContent()).toMatch(/decode [\d.]+\sm?s/);
    const states = await page.evaluate<string[]>(`seen["Answer of sql"]`);
    expect(states.length).toBeGreaterThan(3);
    expect(states.every((state) => text.startsWith(state))).toBe(true);
    expect({ errors, origins: [...origins] }).toEqual({ errors: [], origins: [demo.url] });
    await page.context().close();
  });

  test("follows an adapter through load, use, pin and unload, and tells what the actors did", async () => {
    const { page, errors } = await open({}, "#adapters");
    expect(await page.getByRole("button", { name: /^Unload/ }).count()).toBe(0);
    await giveKeys(page, { admin: ADMIN });
    await page.getByLabel("Name").fill("nombres");
    await page.getByLabel("Path on the server").fill(join(ADAPTERS, "roman"));
    await page.getByRole("button", { name: "Load", exact: true }).click();
    await page.getByText("nombres is loaded.").waitFor();
    await row(page, "nombres").and(page.locator('[data-state="host"]')).waitFor();

    await demo.post("/v1/completions", { model: "nombres", prompt: "1", max_tokens: 2 });
    await row(page, "nombres").and(page.locator('[data-state="device"]')).waitFor();
    expect(await row(page, "nombres").textContent()).toContain("on the device");

    await page.getByRole("button", { name: "Pin nombres" }).click();
    await page.getByText("nombres is pinned: it stays in memory.").waitFor();
    await row(page, "nombres").getByText("pinned").waitFor();

    await page.getByRole("button", { name: "Unload nombres" }).click();
    await page.getByText("nombres is unloaded.").waitFor();
    await row(page, "nombres").waitFor({ state: "detached" });

    await show(page, "Live");
    const told = page.getByRole("list", { name: "Latest first" }).getByRole("listitem");
    await told.filter({ hasText: "slot.evicted" }).filter({ hasText: "nombres" }).first().waitFor();
    expect(errors).toEqual([]);
    await page.context().close();
  });

  test("says what is wrong with a load, and goes on", async () => {
    const { page } = await open({}, "#adapters");
    await giveKeys(page, { admin: ADMIN });
    await page.getByLabel("Name").fill("elsewhere");
    await page.getByLabel("Path on the server").fill("/etc");
    await page.getByRole("button", { name: "Load", exact: true }).click();
    await page.locator(".outcome.bad").waitFor();
    expect(await page.locator(".outcome.bad").textContent()).toContain("--adapter-root");
    await giveKeys(page, { admin: "wrong" });
    await page.getByRole("button", { name: "Unload sql" }).click();
    await page.getByText("needs the admin key").waitFor();
    expect(await row(page, "sql").count()).toBe(1);
    await page.context().close();
  });

  test("shows throughput, latency and who holds the memory", async () => {
    const { page, errors } = await open();
    const running = demo.post("/v1/completions", { model: "sql", prompt: "Once", max_tokens: 500, ignore_eos: true });
    const figure = (name: string) => page.locator(".figures div", { hasText: name }).locator("dd").textContent();
    await page.locator(".figures").waitFor();
    await until(async () => Number((await figure("Tokens per second"))?.replaceAll(",", "")) > 0, 20_000);
    await page.locator(".bar", { hasText: "KV pages" }).getByText("sql").waitFor();
    await page.locator(".bar", { hasText: "Adapters on the device" }).getByText("sql").waitFor();
    // Where both lie: its pages as squares, its own extents as discs.
    const squares = page.locator("svg.pages .held").first();
    const discs = page.locator("svg.pages .seated").first();
    expect(await squares.getAttribute("d")).toMatch(/^(M[\d. ]+h8.6v8.6h-8.6z)+$/);
    expect(await discs.getAttribute("d")).toMatch(/^(M[\d. ]+a4.3 4.3 0 1 1 0 0.01z)+$/);
    expect(await page.locator(".chart canvas").count()).toBe(4);
    expect(await page.getByRole("img", { name: /^Tokens per second: [\d.,]+ generated now$/ }).count()).toBe(1);
    await until(async () => (await figure("Between tokens"))?.includes("ms") === true, 20_000);
    expect((await running).status).toBe(200);
    expect(errors).toEqual([]);
    await page.context().close();
  });

  test("asks for the API key where the server has one", async () => {
    const locked = await startDemo({ apiKey: ["user-key"] }, html);
    const { page, errors } = await openWatched(browser, locked.url);
    await page.getByText("answers to those who have an API key").waitFor();
    expect(await page.locator("main").textContent()).toBe("");
    await giveKeys(page, { api: "user-key" });
    await page.locator(".figures").waitFor();
    // The browser itself tells of each 401.
    expect(errors.filter((error) => !error.includes("401"))).toEqual([]);
    await page.reload();
    await page.locator(".figures").waitFor();
    await page.context().close();
    await locked.stop();
  });

  test("does not show inside another page, and runs nothing that the server did not send", async () => {
    const { page, errors } = await open();
    await page.locator(".figures").waitFor();
    expect(errors).toEqual([]);
    await page.evaluate(`
      const script = document.createElement("script");
      script.textContent = "window.injected = true";
      document.body.append(script);
    `);
    expect(await page.evaluate("window.injected")).toBeUndefined();
    expect(errors.join()).toContain("Content Security Policy");
    const frame = `<iframe src="${demo.url}/"></iframe>`;
    const other = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response(frame, { headers: { "content-type": "text/html" } }) });
    await page.goto(other.url.href);
    await page.frameLocator("iframe").getByText("does not show inside another one").waitFor();
    await other.stop(true);
    await page.context().close();
  });

  test("is worked by keyboard alone", async () => {
    const { page } = await open();
    await page.locator(".figures").waitFor();
    const focused = (property: string) => page.evaluate<string>(`document.activeElement.${property}`);
    await page.keyboard.press("Tab");
    expect(await focused("textContent")).toBe("Skip to the content");
    await page.keyboard.press("Enter");
    expect(await focused("id")).toBe("main");
    const link = page.getByRole("link", { name: "Adapters" });
    await link.focus();
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Adapters" }).waitFor();
    expect(await link.getAttribute("aria-current")).toBe("page");
    await page.getByRole("button", { name: "Keys" }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Escape");
    await page.getByRole("dialog").waitFor({ state: "detached" });
    await page.context().close();
  });

  test.each(["light", "dark"] as const)("has no fault of accessibility, contrast among them, in any view: %s", async (colorScheme) => {
    const { page } = await open({ colorScheme });
    await page.locator(".figures").waitFor();
    await giveKeys(page, { admin: ADMIN });
    // The page's own policy would refuse a script of a test.
    await page.evaluate(readFileSync(AXE, "utf8"));
    for (const view of ["Live", "Adapters", "Playground"]) {
      await show(page, view);
      await page.getByRole("heading", { name: view === "Live" ? "Memory" : view, exact: true }).waitFor();
      const faults = await page.evaluate(`axe.run().then(({ violations }) => violations.map(({ id, nodes }) => id + ": " + nodes[0].html))`);
      expect({ view, faults }).toEqual({ view, faults: [] });
    }
    await page.context().close();
  });

  test("fits a phone without scrolling sideways, in every view", async () => {
    for (const width of [320, 390]) {
      const { page } = await open({ viewport: { width, height: 844 }, isMobile: true, hasTouch: true });
      for (const view of VIEWS) {
        await page.goto(`${demo.url}/${view}`);
        await page.locator("main h2").first().waitFor();
        const overflow = await page.evaluate(`document.documentElement.scrollWidth - document.documentElement.clientWidth`);
        expect({ width, view, overflow }).toEqual({ width, view, overflow: 0 });
      }
      await page.context().close();
    }
  });

  test("keeps still for those who asked for less motion, and keeps the colours that were chosen", async () => {
    const { page } = await open({ reducedMotion: "reduce", colorScheme: "light" });
    await page.getByLabel("Colours").selectOption("dark");
    const paper = () => page.evaluate(`getComputedStyle(document.body).backgroundColor`);
    expect(await paper()).toBe("rgb(22, 24, 26)");
    await page.reload();
    await page.locator(".figures").waitFor();
    expect(await paper()).toBe("rgb(22, 24, 26)");
    await page.evaluate(`document.body.insertAdjacentHTML("beforeend", '<span class="caret"></span>')`);
    expect(await page.evaluate(`getComputedStyle(document.querySelector(".caret")).animationName`)).toBe("none");
    await page.context().close();
  });
});
