#!/usr/bin/env bun
/** The `lorikeet` command. */
import { readFileSync } from "node:fs";
import packageJson from "../package.json" with { type: "json" };
import { bench } from "./bench-command.ts";
import { EXIT, parseCommandLine } from "./config/cli.ts";
import type { Resolved } from "./config/resolve.ts";
import { AdapterError, ConfigError, InvariantError, LorikeetError, RequestError } from "./core/errors.ts";
import { demoModel } from "./demo-model.ts";
import { generate } from "./generate.ts";
// Here and not deeper: whatever bundles a server without its page would have to carry it.
import page from "./page/index.html";
import { inspect } from "./inspect.ts";
import { banner, type RunningServer, startServer } from "./serve.ts";

/** One stop signal may arrive twice, from the terminal and from a parent process. */
const SAME_SIGNAL_MS = 500;

async function main(argv: readonly string[]): Promise<void> {
  const command = parseCommandLine(argv, {
    version: packageJson.version,
    env: process.env,
    readFile: (path) => readFileSync(path, "utf8"),
    demo: demoModel,
  });
  switch (command.kind) {
    case "print":
      process.stdout.write(command.text);
      return;
    case "generate":
      warn(command.resolved);
      await generate(command.resolved.config, command.ask, {
        write: (text) => process.stdout.write(text),
        tell: (line) => process.stderr.write(`${line}\n`),
      });
      process.exit(EXIT.ok);
      break;
    case "inspect": {
      warn(command.resolved);
      const { text, isGood } = await inspect(command.resolved.config, command.ask);
      process.stdout.write(text);
      process.exitCode = isGood ? EXIT.ok : EXIT.failed;
      return;
    }
    case "bench": {
      warn(command.resolved);
      const isGood = await bench(command.resolved.config, command.ask, { write: (text) => process.stdout.write(text), errors: process.stderr });
      // What a slow reader of a pipe has not taken yet would be lost.
      await new Promise<void>((resolve) => void process.stdout.write("", () => resolve()));
      process.exit(isGood ? EXIT.ok : EXIT.failed);
      break;
    }
    case "serve": {
      warn(command.resolved);
      const { config } = command.resolved;
      const running = await startServer(config, page);
      process.stdout.write(banner(config, running));
      stopOnSignal(running, config.shutdownTimeoutS);
    }
  }
}

function stopOnSignal(running: RunningServer, timeoutS: number): void {
  let firstMs: number | null = null;
  const onSignal = (): void => {
    if (firstMs !== null) {
      if (performance.now() - firstMs > SAME_SIGNAL_MS) process.exit(EXIT.forced);
      return;
    }
    firstMs = performance.now();
    process.stderr.write(`stopping: running requests have ${timeoutS} s to end; signal again to stop now\n`);
    running.stop().then(() => process.exit(EXIT.ok), fail);
  };
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
}

function warn({ warnings }: Resolved): void {
  for (const warning of warnings) process.stderr.write(`warning: ${warning}\n`);
}

/** One line, no stack: a person reads it. A bug of ours keeps its stack. */
function fail(thrown: unknown): never {
  const isOurs = thrown instanceof LorikeetError && !(thrown instanceof InvariantError);
  const text = isOurs ? `error: ${thrown.message.replaceAll(/\s*\n\s*/g, " ")}` : `internal error: ${(thrown as Error).stack ?? String(thrown)}`;
  process.stderr.write(`${text}\n`);
  process.exit(isUsage(thrown) ? EXIT.usage : EXIT.failed);
}

/** Whether other arguments would help; requests come from the arguments too. */
const isUsage = (thrown: unknown): boolean =>
  thrown instanceof ConfigError ||
  thrown instanceof RequestError ||
  (thrown instanceof AdapterError && thrown.errorCode === "adapter_not_found");

await main(process.argv.slice(2)).catch(fail);
