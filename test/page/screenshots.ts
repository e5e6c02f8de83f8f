/**
 * Takes the pictures of docs/page.md: every view, light, dark and on a phone, of the demo at work.
 *
 *   node scripts/bun.mjs test/page/screenshots.ts
 */
import { join } from "node:path";
import type { BrowserContextOptions, Page } from "playwright-core";
import html from "../../src/page/index.html";
import { launch, openWatched } from "../helpers/browser.ts";
import { type DemoServer, startDemo } from "../helpers/demo-server.ts";
import { REPOSITORY } from "../helpers/repository.ts";

const FOLDER = join(REPOSITORY, "docs/page");
const KINDS: Readonly<Record<string, BrowserContextOptions>> = {
  light: { viewport: { width: 1100, height: 800 }, colorScheme: "light" },
  dark: { viewport: { width: 1100, height: 800 }, colorScheme: "dark" },
  phone: { viewport: { width: 390, height: 844 }, colorScheme: "light", isMobile: true, hasTouch: true, deviceScaleFactor: 1.5 },
};
const ADMIN = "pictures";

/** Requests of changing number, so that there is something to see. */
function keepBusy(demo: DemoServer): () => void {
  let isOver = false;
  const names = ["sql", "translate-fr", "pirate", "demo", "roman", "arithmetic"];
  const client = async (i: number): Promise<void> => {
    while (!isOver) {
      const pause = 300 * (1 + ((i * 7) % 5));
      const body = { model: names[i % names.length], prompt: "Once upon a time", max_tokens: 40 + 20 * (i % 4), ignore_eos: true };
      await demo.post("/v1/completions", body).catch(() => undefined);
      await Bun.sleep(pause);
    }
  };
  for (let i = 0; i < 7; i++) void client(i);
  return () => void (isOver = true);
}

async function take(page: Page, name: string): Promise<void> {
  await page.screenshot({ path: join(FOLDER, `${name}.png`), fullPage: true });
  process.stdout.write(`${name}.png\n`);
}

const demo = await startDemo({ adminKey: ADMIN, logLevel: "error", kvCacheConfig: { maxTokens: 8192 }, peftCacheConfig: { hostCacheSize: 24 << 20, deviceCachePercent: 0.01 } }, html);
const browser = await launch();
const stop = keepBusy(demo);
const pages = await Promise.all(
  Object.entries(KINDS).map(async ([kind, options]) => {
    const { page } = await openWatched(browser, demo.url, options);
    await page.getByRole("button", { name: "Keys" }).click();
    await page.getByLabel("Admin key").fill(ADMIN);
    await page.getByRole("button", { name: "Save" }).click();
    return { kind, page };
  }),
);
await Bun.sleep(Number(process.argv[2] ?? 60) * 1000);
for (const { kind, page } of pages) {
  await page.bringToFront();
  await Bun.sleep(1_200);
  await page.locator(".pages .held").nth(2).waitFor();
  await take(page, `live-${kind}`);
  await page.goto(`${demo.url}/#adapters`);
  await page.locator("tr[data-adapter]").first().waitFor();
  await take(page, `adapters-${kind}`);
  await page.goto(`${demo.url}/#playground`);
  for (const name of ["sql", "translate-fr", "pirate", "roman"]) await page.getByRole("checkbox", { name, exact: true }).setChecked(name === "sql" || name === "translate-fr");
  await page.getByRole("button", { name: "Send" }).click();
  await page.locator('.answer[aria-busy="false"]').nth(2).waitFor();
  await take(page, `playground-${kind}`);
}
stop();
await browser.close();
await demo.stop();
process.exit(0);
