/** Keys: who may call which matched route, and whose request it is. */
import { createHash, timingSafeEqual } from "node:crypto";
import { ConfigError, RequestError } from "../core/errors.ts";

export interface ApiKey {
  /** Whom it was given to; shares and quotas are by this name. */
  readonly name: string;
  readonly key: string;
}

export interface Access {
  readonly needsKey: boolean;
  /** Whether there is an admin key. */
  readonly hasAdmin: boolean;
  /** @throws {RequestError} `unauthorized` without an API key or an admin key, where there are API keys */
  check(headers: Headers): void;
  /** @throws {RequestError} `admin_only` without an admin key */
  checkAdmin(headers: Headers): void;
  isAdmin(headers: Headers): boolean;
  /** Name of the key that was sent: its own, `key-1` and on for those without one, `admin`; empty without a key. */
  tenantOf(headers: Headers): string;
}

/** The same keys where nothing can be administered: an admin key is one key among others there. */
export const withoutAdmin = (access: Access): Access => ({
  ...access,
  hasAdmin: false,
  isAdmin: () => false,
  checkAdmin: () => {
    throw new RequestError("admin_only", "nothing can be administered here; the server has another address for that");
  },
});

interface KnownKey {
  readonly name: string;
  readonly digest: Buffer;
  readonly isAdmin: boolean;
}

/**
 * Every key is compared, and always as digests of equal length, so the time taken tells nothing.
 *
 * @param keys none: everyone may call
 * @param adminKeys none: nobody may change what is served. An admin may do what everyone may.
 * @throws {ConfigError} `config_invalid` for one key under two names
 */
export function createAccess(keys: readonly (string | ApiKey)[], adminKeys: readonly string[] = []): Access {
  const known = [
    ...[...new Set(keys)].map((each, i) => knownKey(typeof each === "string" ? { name: `key-${i + 1}`, key: each } : each, false)),
    ...adminKeys.map((key) => knownKey({ name: "admin", key }, true)),
  ];
  refuseSharedKeys(known);
  const find = (headers: Headers) => findKey(known, headers);
  return {
    needsKey: keys.length > 0,
    hasAdmin: adminKeys.length > 0,
    isAdmin: (headers) => find(headers)?.isAdmin === true,
    tenantOf: (headers) => find(headers)?.name ?? "",
    check(headers) {
      if (keys.length === 0 || find(headers) !== undefined) return;
      throw new RequestError(
        "unauthorized",
        "a valid API key is needed; send it in the header Authorization: Bearer KEY",
      );
    },
    checkAdmin(headers) {
      if (find(headers)?.isAdmin === true) return;
      throw new RequestError(
        "admin_only",
        adminKeys.length === 0
          ? "adapters cannot be changed by request: the server has no admin key (--admin-key or LORIKEET_ADMIN_KEY)"
          : "this route needs the admin key; send it in the header Authorization: Bearer KEY",
      );
    },
  };
}

/** The last that matches, so that an API key that is an admin key too is one. */
function findKey(known: readonly KnownKey[], headers: Headers): KnownKey | undefined {
  const given = digest(bearerToken(headers) ?? "");
  let found: KnownKey | undefined;
  for (const each of known) found = timingSafeEqual(each.digest, given) ? each : found;
  return found;
}

function refuseSharedKeys(known: readonly KnownKey[]): void {
  const byDigest = Map.groupBy(known.filter(({ isAdmin }) => !isAdmin), (each) => each.digest.toString("hex"));
  for (const [first, second] of byDigest.values()) {
    if (first === undefined || second === undefined) continue;
    throw new ConfigError("config_invalid", `clients: ${first.name} and ${second.name} have one API key; give each its own`, { field: "clients" });
  }
}

const knownKey = ({ name, key }: ApiKey, isAdmin: boolean): KnownKey => ({ name, digest: digest(key), isAdmin });

const digest = (key: string): Buffer => createHash("sha256").update(key).digest();

const bearerToken = (headers: Headers): string | undefined =>
  /^bearer +(\S+) *$/i.exec(headers.get("authorization") ?? "")?.[1];
