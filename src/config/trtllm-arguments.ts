/** A command line as `trtllm-serve` takes it: either spelling of a flag, other names, and options that say what is so anyway. */
import { ConfigError } from "../core/errors.ts";
import { isBareOption, isHarmless, notServed, TRTLLM_ALIASES, unservedOption, VLLM_SWITCHES } from "./trtllm-keys.ts";

/**
 * @returns the same arguments in this program's spelling, without those that change nothing
 * @throws {ConfigError} `config_invalid` for an option of TensorRT-LLM that asks for something else
 */
export function ownArguments(argv: readonly string[], isOwn: (flag: string) => boolean): string[] {
  const own: string[] = [];
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i]!;
    if (argument === "--") return [...own, ...argv.slice(i)];
    const [, written, value] = /^--([A-Za-z][\w-]*)(?:=([\s\S]*))?$/.exec(argument) ?? [];
    if (written === undefined) {
      own.push(argument);
      continue;
    }
    const snake = written.replaceAll("-", "_");
    const meant = value === undefined ? VLLM_SWITCHES[snake] : undefined;
    if (meant !== undefined) {
      own.push(meant.join("="));
      continue;
    }
    const name = TRTLLM_ALIASES[snake] ?? snake;
    const flag = `--${name.replaceAll("_", "-")}`;
    const unserved = isOwn(flag) ? undefined : unservedOption(name);
    if (unserved === undefined) {
      own.push(value === undefined ? flag : `${flag}=${value}`);
      continue;
    }
    const text = value ?? (isBareOption(name) ? "true" : argv[++i]);
    if (!isHarmless(unserved, plain(text))) throw new ConfigError("config_invalid", `${argument} ${notServed(unserved, "an option")}`, { field: flag });
  }
  return own;
}

/** Text as the value that a YAML file would have. */
function plain(text: string | undefined): unknown {
  if (text === "true" || text === "false") return text === "true";
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : text;
}
