import { describe, expect, test } from "bun:test";
import { type CliCommand, parseCommandLine } from "../../src/config/cli.ts";
import { ConfigError } from "../../src/core/errors.ts";
import { thrownBy } from "../helpers/thrown.ts";

const files: Readonly<Record<string, string>> = { "serve.yaml": "port: 9000\n", "bad.yaml": "prot: 1\n" };
const environment = (env: Readonly<Record<string, string>> = {}) => ({
  version: "1.2.3",
  demo: () => "/package/demo",
  env,
  readFile: (path: string) => {
    const text = files[path];
    if (text === undefined) throw new Error("ENOENT");
    return text;
  },
});
const parse = (...argv: string[]): CliCommand => parseCommandLine(argv, environment());
const configOf = (command: CliCommand) => {
  if (command.kind === "print") throw new Error(command.text);
  return command.resolved.config;
};

describe("lorikeet serve", () => {
  test("takes a model, adapters and settings", () => {
    const config = configOf(parse("serve", "m", "--lora-dir", "a", "--lora-dir", "sql=b", "--port", "0", "--dtype", "int8", "--threads", "1", "--allow-no-key"));
    expect(config).toMatchObject({ model: "m", port: 0, dtype: "int8", threads: 1, allowNoKey: true, loraConfig: { loraDir: ["a", "sql=b"] } });
  });

  test("takes a flag of a list several times", () => {
    expect(configOf(parse("serve", "m", "--lora-dir", "a", "--lora-dir", "b", "--api-key", "k1", "--api-key", "k2"))).toMatchObject({
      apiKey: ["k1", "k2"],
      loraConfig: { loraDir: ["a", "b"] },
    });
  });

  test("has defaults for all of them", () => {
    expect(configOf(parse("serve", "m"))).toMatchObject({
      model: "m",
      host: "127.0.0.1",
      port: 8000,
      backend: "auto",
      dtype: "bfloat16",
      loraConfig: { loraDir: [] },
    });
  });

  const demo = { model: "/package/demo", loraConfig: { loraDir: ["/package/demo/adapters"] } };

  test.each([
    [[], demo],
    [["--port", "9000"], { ...demo, port: 9000 }],
    [["--api-key", "k"], { ...demo, apiKey: ["k"] }],
    [["--lora-dir", "a"], { ...demo, loraConfig: { loraDir: ["a"] } }],
  ])("without a model serves the demo with its adapters: %p", (argv, expected) => {
    const command = parse("serve", ...argv);
    expect(configOf(command)).toMatchObject(expected);
    expect(command).toMatchObject({ resolved: { warnings: [] } });
  });

  test.each([
    [["m"], "m", []],
    [["m", "--lora-dir", "a"], "m", ["a"]],
    [["--lora-dir", "a", "m"], "m", ["a"]],
    [["--api-key", "k", "m"], "m", []],
    [["--config", "serve.yaml"], null, []],
  ])("takes nothing of the demo with %p", (argv, model, loraDir) => {
    expect(configOf(parse("serve", ...argv))).toMatchObject({ model, loraConfig: { loraDir } });
  });

  test.each([
    [[], true],
    [["--enable-block-reuse", "false"], false],
    [["--enable_block_reuse=false"], false],
    [["--no-enable-prefix-caching"], false],
    [["--no-enable-prefix-caching", "--enable-prefix-caching"], true],
  ])("shares computed prefixes, or not, with %p", (flags, enableBlockReuse) => {
    expect(configOf(parse("serve", "m", ...flags))).toMatchObject({ kvCacheConfig: { enableBlockReuse } });
  });

  test("a bench computes every prompt unless it is told to share", () => {
    const reuseOf = (...flags: string[]) => configOf(parse("bench", "-m", "m", "throughput", "--workload", "base-only", ...flags)).kvCacheConfig.enableBlockReuse;
    expect([reuseOf(), reuseOf("--enable-block-reuse", "true"), reuseOf("--enable-prefix-caching")]).toEqual([false, true, true]);
  });

  test("lets the file win over flags, and says so", () => {
    const command = parse("serve", "m", "--port", "1", "--config", "serve.yaml");
    expect(command).toMatchObject({ resolved: { config: { port: 9000 }, warnings: ["serve.yaml:1:1 (port) overrides --port"] } });
  });

  test("takes keys from the environment", () => {
    expect(configOf(parseCommandLine(["serve"], environment({ LORIKEET_API_KEY: "sk" }))).apiKey).toEqual(["sk"]);
  });
});

describe("lorikeet generate", () => {
  test("takes a prompt and an adapter, before or after its flags", () => {
    const asked = { prompt: "hi", adapter: "sql", isRaw: true, maxTokens: 9, temperature: 0.5 };
    const flags = ["--lora", "sql", "--lora-dir", "d", "--raw", "--max-tokens", "9", "--temperature", "0.5"];
    expect(parse("generate", "m", "hi", ...flags)).toMatchObject({ kind: "generate", ask: asked });
    expect(parse("generate", "m", ...flags, "hi")).toMatchObject({ kind: "generate", ask: asked });
    expect(parse("generate", "m", "hi")).toMatchObject({ ask: { prompt: "hi", adapter: null, isRaw: false, maxTokens: 256, temperature: 0 } });
    expect(configOf(parse("generate", "m", ...flags, "hi"))).toMatchObject({ model: "m", loraConfig: { loraDir: ["d"] } });
  });
});

describe("lorikeet", () => {
  test("prints its version and help", () => {
    expect(parse("--version")).toEqual({ kind: "print", text: "1.2.3\n" });
    for (const [argv, part] of [
      [["--help"], "Exit codes: 0 done, 1 failed, 2 wrong arguments"],
      [["serve", "--help"], "--lora-dir <DIR> "],
      [["serve", "--help"], "(repeatable)"],
      [["serve", "--help"], "neither MODEL nor --config is given"],
      [["generate", "--help"], "--lora <NAME>"],
      [["generate", "--help"], "--raw"],
      [["help", "serve"], "--max-batch-size <NUMBER>"],
    ] as const) {
      expect(parse(...argv)).toMatchObject({ kind: "print", text: expect.stringContaining(part) });
    }
    const help = parse("serve", "--help");
    expect(help.kind === "print" && help.text).not.toContain("...>");
  });

  test.each([
    [[], "name a command: serve, generate, adapters inspect"],
    [["srve"], "unknown command 'srve' (Did you mean serve?)"],
    [["serve", "--prt", "1"], "unknown option '--prt' (Did you mean --port?)"],
    [["serve", "--port"], "option '--port <NUMBER>' argument missing"],
    [["serve", "--port", "x"], '--port must be a whole number from 0 to 65535, got "x"'],
    [["serve", "--enable-block-reuse", "perhaps"], '--enable-block-reuse must be true or false, got "perhaps"'],
    [["serve", "a", "b"], "too many arguments"],
    [["serve", "a", "--lora-dir", "x", "y"], "A flag with several values is repeated"],
    [["serve", "--backend", "tpu"], '--backend must be auto, wasm or cuda, got "tpu"'],
    [["serve", "--config", "none.yaml"], "--config none.yaml cannot be read"],
    [["serve", "--config", "bad.yaml"], "bad.yaml:1:1: prot is not a setting (did you mean port?)"],
    [["generate", "m"], "missing required argument 'prompt'"],
    [["generate", "m", "hi", "--max-tokens", "many"], '--max-tokens must be a whole number from 1 to 9007199254740991, got "many"'],
    [["generate", "m", "hi", "--temperature", "hot"], '--temperature must be a number from 0 to 1000000, got "hot"'],
    [["generate", "m", "hi", "--temperature", ""], '--temperature must be a number from 0 to 1000000, got ""'],
    [["generate", "m", "hi", "--chat"], "unknown option '--chat'"],
    [["generate", "m", "hi", "--host", "x"], "unknown option '--host'"],
  ])("refuses %p in one line", (argv, message) => {
    const thrown = thrownBy(() => parse(...argv));
    expect(thrown).toBeInstanceOf(ConfigError);
    expect((thrown as ConfigError).message).toContain(message);
    expect((thrown as ConfigError).message).not.toContain("\n");
  });
});
