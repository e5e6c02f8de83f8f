/** A real Chromium, where the machine has one. */
import { existsSync } from "node:fs";
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core";

const PATHS = [process.env["LORIKEET_CHROMIUM"] ?? "", "/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/** `null` where there is none. */
export const CHROMIUM: string | null = PATHS.find((path) => path !== "" && existsSync(path)) ?? null;

/** No sandbox: containers and CI run as root. The rest keeps it from calling home. */
const ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

export const launch = (): Promise<Browser> => chromium.launch({ executablePath: CHROMIUM!, args: ARGS });

export interface Watched {
  readonly page: Page;
  /** Errors in the console, uncaught ones among them. */
  readonly errors: readonly string[];
  /** Origins of everything that was asked for. */
  readonly origins: ReadonlySet<string>;
}

export async function openWatched(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Watched> {
  const context = await browser.newContext({ viewport: { width: 1180, height: 900 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const errors: string[] = [];
  const origins = new Set<string>();
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") errors.push(message.text());
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith("data:")) origins.add(new URL(request.url()).origin);
  });
  await page.goto(url);
  return { page, errors, origins };
}
