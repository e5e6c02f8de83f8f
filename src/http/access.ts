/** Keys: who may call which matched route. */
import { createHash, timingSafeEqual } from "node:crypto";
import { RequestError } from "../core/errors.ts";

export interface Access {
  readonly needsKey: boolean;
  /** Whether there is an admin key. */
  readonly hasAdmin: boolean;
  /** @throws {RequestError} `unauthorized` without an API key or an admin key, where there are API keys */
  check(headers: Headers): void;
  /** @throws {RequestError} `admin_only` without an admin key */
  checkAdmin(headers: Headers): void;
  isAdmin(headers: Headers): boolean;
}

/**
 * Every key is compared, and always as digests of equal length, so the time taken tells nothing.
 *
 * @param keys none: everyone may call
 * @param adminKeys none: nobody may change what is served. An admin may do what everyone may.
 */
export function createAccess(keys: readonly string[], adminKeys: readonly string[] = []): Access {
  const users = [...keys, ...adminKeys].map(digest);
  const admins = adminKeys.map(digest);
  const isAdmin = (headers: Headers) => isAmong(admins, headers);
  return {
    needsKey: keys.length > 0,
    hasAdmin: adminKeys.length > 0,
    isAdmin,
    check(headers) {
      if (keys.length === 0 || isAmong(users, headers)) return;
      throw new RequestError(
        "unauthorized",
        "a valid API key is needed; send it in the header Authorization: Bearer KEY",
      );
    },
    checkAdmin(headers) {
      if (isAdmin(headers)) return;
      throw new RequestError(
        "admin_only",
        admins.length === 0
          ? "adapters cannot be changed by request: the server has no admin key (--admin-key or LORIKEET_ADMIN_KEY)"
          : "this route needs the admin key; send it in the header Authorization: Bearer KEY",
      );
    },
  };
}

function isAmong(known: readonly Buffer[], headers: Headers): boolean {
  const given = digest(bearerToken(headers) ?? "");
  let isKnown = false;
  for (const each of known) isKnown = timingSafeEqual(each, given) || isKnown;
  return isKnown;
}

const digest = (key: string): Buffer => createHash("sha256").update(key).digest();

const bearerToken = (headers: Headers): string | undefined =>
  /^bearer +(\S+) *$/i.exec(headers.get("authorization") ?? "")?.[1];
