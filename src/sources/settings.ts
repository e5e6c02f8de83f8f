/** Where sources are, by the variables that other programs read too. */
import { homedir } from "node:os";
import { join } from "node:path";
import { ConfigError } from "../core/errors.ts";
import type { HubSettings } from "./hub.ts";

export interface SourceSettings {
  readonly hub: HubSettings;
  /** Folder of what comes from elsewhere than a hub. */
  readonly cache: string;
  /** Only what is in the caches already. */
  readonly isOffline: boolean;
  /** Origins that may be downloaded from besides the hub's. */
  readonly trusted: readonly string[];
  /** Longest time that one source may take. */
  readonly timeoutMs: number;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` as huggingface_hub reads them; `LORIKEET_CACHE` for the rest.
 *
 * @param hosts `HOST`, `HOST:PORT` or an origin, of which only `http://` ones do without TLS
 * @throws {ConfigError} `config_invalid` naming the variable or setting
 */
export function sourceSettings(env: Environment, hosts: readonly string[], timeoutS: number): SourceSettings {
  const home = env["HOME"] ?? homedir();
  const cacheHome = filled(env["XDG_CACHE_HOME"]) ?? join(home, ".cache");
  const hubHome = expanded(filled(env["HF_HOME"]), home) ?? join(cacheHome, "huggingface");
  return {
    hub: {
      endpoint: endpointOf(filled(env["HF_ENDPOINT"]) ?? "https://huggingface.co"),
      token: filled(env["HF_TOKEN"]?.trim()) ?? null,
      cache: expanded(filled(env["HF_HUB_CACHE"]), home) ?? join(hubHome, "hub"),
    },
    cache: join(expanded(filled(env["LORIKEET_CACHE"]), home) ?? join(cacheHome, "lorikeet"), "sources"),
    isOffline: ["1", "ON", "YES", "TRUE"].includes((env["HF_HUB_OFFLINE"] ?? "").toUpperCase()),
    trusted: hosts.map(originOf),
    timeoutMs: timeoutS * 1000,
  };
}

const filled = (value: string | undefined): string | undefined => (value === "" ? undefined : value);
const expanded = (path: string | undefined, home: string): string | undefined => path?.replace(/^~(?=\/|$)/, home);

function endpointOf(text: string): string {
  const url = URL.parse(text);
  if (url !== null && /^https?:$/.test(url.protocol) && url.username === "" && url.search === "" && url.hash === "") return url.href.replace(/\/+$/, "");
  throw new ConfigError("config_invalid", `HF_ENDPOINT must be the address of a hub, such as https://huggingface.co, got ${JSON.stringify(text.slice(0, 100))}`, { field: "HF_ENDPOINT" });
}

function originOf(host: string): string {
  const url = URL.parse(/^https?:\/\//.test(host) ? host : `https://${host}`);
  const isPlain = url !== null && url.pathname === "/" && url.search === "" && url.hash === "" && url.username === "" && url.hostname !== "";
  if (isPlain && !/[\s\\]/.test(host)) return url.origin;
  throw new ConfigError("config_invalid", `--source-host must be HOST, HOST:PORT or http://HOST:PORT, got ${JSON.stringify(host.slice(0, 100))}`, { field: "source_host" });
}
