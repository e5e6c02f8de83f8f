import { describe, expect, test } from "bun:test";
import { givenEnvironment, givenFlag, givenOptions, resolveConfig } from "../../src/config/resolve.ts";
import { camelCase, flagOf, SERVER_SETTINGS, SETTINGS, snakeCase } from "../../src/config/settings.ts";
import { readYaml } from "../../src/config/yaml-file.ts";

describe("settings", () => {
  test("have spellings that turn into each other", () => {
    for (const place of SETTINGS.keys()) {
      for (const name of place.split(".")) expect(camelCase(snakeCase(name))).toBe(name);
    }
    expect([snakeCase("swapGateUpProjLoraBWeight"), flagOf("maxNumTokens")]).toEqual(["swap_gate_up_proj_lora_b_weight", "--max-num-tokens"]);
  });

  test("each take their own default, and say what they are", () => {
    for (const [place, setting] of SETTINGS) {
      expect({ place, value: setting.read(setting.default) }).toEqual({ place, value: setting.default });
      expect(setting.doc.length).toBeGreaterThan(10);
    }
  });

  test("are the same from a flag, from YAML and from an option", () => {
    const flag = resolveConfig([givenFlag("maxBatchSize", ["7"])]);
    const yaml = resolveConfig(readYaml("max_batch_size: 7", "f.yaml"));
    const option = resolveConfig(givenOptions({ maxBatchSize: 7 }));
    expect(flag.config).toEqual(yaml.config);
    expect(option.config).toEqual(yaml.config);
    expect(flag.config.maxBatchSize).toBe(7);
  });
});

describe("several sources", () => {
  test("are overridden by the file, with a warning that names both places", () => {
    const { config, warnings } = resolveConfig([givenFlag("port", ["1"])], readYaml("host: localhost\nport: 2", "serve.yaml"));
    expect([config.port, config.host]).toEqual([2, "localhost"]);
    expect(warnings).toEqual(["serve.yaml:2:1 (port) overrides --port"]);
  });

  test("that agree give no warning", () => {
    expect(resolveConfig([givenFlag("port", ["2"])], readYaml("port: 2", "serve.yaml")).warnings).toEqual([]);
  });

  test("of API keys come from the environment, a comma between them, and no warning shows one", () => {
    const environment = givenEnvironment({ LORIKEET_API_KEY: "sk-a, sk-b" });
    expect(resolveConfig(environment).config.apiKey).toEqual(["sk-a", "sk-b"]);
    expect(resolveConfig(givenEnvironment({ LORIKEET_ADMIN_KEY: "sk-a" })).config).toMatchObject({ apiKey: [], adminKey: ["sk-a"] });
    const { config, warnings } = resolveConfig(environment, [givenFlag("apiKey", ["sk-c"])]);
    expect(config.apiKey).toEqual(["sk-c"]);
    expect(warnings).toEqual(["--api-key overrides LORIKEET_API_KEY"]);
    expect(givenEnvironment({})).toEqual([]);
  });
});

describe("constructor options", () => {
  test("reach into sections", () => {
    const { config } = resolveConfig(givenOptions({ model: "m", loraConfig: { maxLoraRank: 8 }, threads: undefined }));
    expect(config).toMatchObject({ model: "m", threads: null, loraConfig: { maxLoraRank: 8, maxLoras: null } });
  });

  test.each([
    [{ maxBatchsize: 1 }, "maxBatchsize is not a setting (did you mean maxBatchSize?)"],
    [{ loraConfig: { maxRank: 1 } }, "loraConfig.maxRank is not a setting (did you mean loraConfig.maxLoraRank?)"],
    [{ loraConfig: 5 }, "loraConfig must be an object of settings"],
    [{ threads: 0 }, "threads must be a whole number from 1 to 1024, got 0"],
    [{ threads: "2" }, 'threads must be a whole number from 1 to 1024, got "2"'],
    [{ constructor: 1 }, "constructor is not a setting"],
    [{ port: 1 }, "port is a setting of the server, which a program does not start; leave it out"],
    [{ apiKey: ["k"] }, "apiKey is a setting of the server"],
    [{ servedModelName: "m" }, "servedModelName is a setting of the server"],
    [{ kvCacheConfig: { freeGpuMemoryFraction: 0.5 } }, "kvCacheConfig.freeGpuMemoryFraction is a key of TensorRT-LLM that is known, not supported: set kv_cache_config.max_tokens instead"],
  ])("%p are refused by name", (options, message) => {
    expect(() => givenOptions(options)).toThrow(message);
  });
});

describe("settings of a server only", () => {
  test("are none of a program's, and all of a server's", () => {
    for (const [name, { default: value }] of Object.entries(SERVER_SETTINGS)) {
      expect(() => givenOptions({ [name]: value })).toThrow(`${name} is a setting of the server`);
      expect(givenOptions({ [name]: value }, "server")).toEqual([{ setting: name, value, source: name }]);
    }
    expect(givenOptions({ port: undefined })).toEqual([]);
  });
});

describe("flags", () => {
  test.each([
    ["port", "80a", '--port must be a whole number from 0 to 65535, got "80a"'],
    ["port", "", '--port must be a whole number from 0 to 65535, got ""'],
    ["port", "0x50", '--port must be a whole number from 0 to 65535, got "0x50"'],
    ["loraConfig.maxLoraRank", "0", "--max-lora-rank must be a whole number from 1 to 4096, got 0"],
    ["backend", "gpu", '--backend must be auto, wasm or cuda, got "gpu"'],
    ["host", "", '--host must be a non-empty string, got ""'],
  ])("%s cannot be %p", (place, text, message) => {
    expect(() => givenFlag(place, [text])).toThrow(message);
  });

  test("give the last of several values, or all of a list", () => {
    expect(givenFlag("port", ["1", "2"]).value).toBe(2);
    expect(givenFlag("loraConfig.loraDir", ["a", "b"]).value).toEqual(["a", "b"]);
  });
});
