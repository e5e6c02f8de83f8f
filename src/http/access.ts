/** API keys: who may call which matched route. */
import { createHash, timingSafeEqual } from "node:crypto";
import { RequestError } from "../core/errors.ts";

export interface Access {
  readonly needsKey: boolean;
  /** @throws {RequestError} `unauthorized` */
  check(headers: Headers): void;
}

/**
 * Every key is compared, and always as digests of equal length, so the time taken tells nothing.
 *
 * @param keys none: everyone may call
 */
export function createAccess(keys: readonly string[]): Access {
  const digests = keys.map(digest);
  return {
    needsKey: digests.length > 0,
    check(headers) {
      if (digests.length === 0) return;
      const given = digest(bearerToken(headers) ?? "");
      let isKnown = false;
      for (const known of digests) isKnown = timingSafeEqual(known, given) || isKnown;
      if (!isKnown) {
        throw new RequestError(
          "unauthorized",
          "a valid API key is needed; send it in the header Authorization: Bearer KEY",
        );
      }
    },
  };
}

const digest = (key: string): Buffer => createHash("sha256").update(key).digest();

const bearerToken = (headers: Headers): string | undefined =>
  /^bearer +(\S+) *$/i.exec(headers.get("authorization") ?? "")?.[1];
