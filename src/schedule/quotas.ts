/**
 * What tenants may ask for: requests at once, requests a minute, tokens a minute.
 *
 * Rates are buckets that hold a minute's worth. Tokens are paid as they come, a prompt at once and the output at its
 * end, so a bucket may fall below nothing; nobody is let in again before it is above. So over any time a tenant gets
 * its rate, a minute's worth and what was running at the end, and no request is too long to be let in at all.
 */
import { CapacityError } from "../core/errors.ts";
import type { Usage } from "../core/request.ts";

/** `null` for no limit. */
export interface Quota {
  /** Sequences that wait or run. */
  readonly maxRequests: number | null;
  readonly requestsPerMinute: number | null;
  /** Prompt and output together. */
  readonly tokensPerMinute: number | null;
}

interface Bucket {
  readonly perMinute: number;
  level: number;
  /** When `level` was right. */
  atMs: number;
}

interface Account {
  readonly maxRequests: number;
  readonly requests: Bucket;
  readonly tokens: Bucket;
  numOpen: number;
}

/** Tenants that have one; the others may ask for what they like. */
export type Quotas = ReadonlyMap<string, Account>;

export const createQuotas = (quotas: ReadonlyMap<string, Quota>, nowMs: number): Quotas =>
  new Map(
    Array.from(quotas, ([tenant, { maxRequests, requestsPerMinute, tokensPerMinute }]) => {
      const account: Account = {
        maxRequests: maxRequests ?? Infinity,
        requests: fullBucket(requestsPerMinute ?? Infinity, nowMs),
        tokens: fullBucket(tokensPerMinute ?? Infinity, nowMs),
        numOpen: 0,
      };
      return [tenant, account] as const;
    }),
  );

/** @throws {CapacityError} `rate_limit_exceeded`, with the seconds until the tenant may try again */
export function checkQuota(quotas: Quotas, tenant: string, nowMs: number): void {
  const account = quotas.get(tenant);
  if (account === undefined) return;
  const { maxRequests, requests, tokens, numOpen } = account;
  if (numOpen >= maxRequests) throw exceeded(tenant, "requests at once", maxRequests, 1);
  const untilRequest = secondsUntil(requests, 1, nowMs);
  if (untilRequest > 0) throw exceeded(tenant, "requests per minute", requests.perMinute, untilRequest);
  const untilToken = secondsUntil(tokens, 1, nowMs);
  if (untilToken > 0) throw exceeded(tenant, "tokens per minute", tokens.perMinute, untilToken);
}

/** For a request that was let in just now. */
export function openRequest(quotas: Quotas, tenant: string, promptTokens: number): void {
  const account = quotas.get(tenant);
  if (account === undefined) return;
  account.numOpen++;
  account.requests.level--;
  account.tokens.level -= promptTokens;
}

/** For one that has ended; what never ran is paid back. */
export function closeRequest(quotas: Quotas, tenant: string, { promptTokens, completionTokens }: Usage, hasRun: boolean, nowMs: number): void {
  const account = quotas.get(tenant);
  if (account === undefined) return;
  account.numOpen--;
  for (const bucket of [account.requests, account.tokens]) refill(bucket, nowMs);
  if (hasRun) {
    account.tokens.level -= completionTokens;
    return;
  }
  account.requests.level++;
  account.tokens.level += promptTokens;
}

const fullBucket = (perMinute: number, nowMs: number): Bucket => ({ perMinute, level: perMinute, atMs: nowMs });

/** Whole seconds until the bucket holds `wanted`, or is full where that is less; 0 when it does. */
function secondsUntil(bucket: Bucket, wanted: number, nowMs: number): number {
  const { perMinute } = bucket;
  if (perMinute === Infinity) return 0;
  refill(bucket, nowMs);
  const missing = Math.min(wanted, perMinute) - bucket.level;
  // A rounding error of the refill is no reason to send somebody away.
  return missing <= 1e-9 ? 0 : Math.ceil((missing / perMinute) * 60);
}

function refill(bucket: Bucket, nowMs: number): void {
  const { perMinute } = bucket;
  if (perMinute === Infinity) return;
  bucket.level = Math.min(perMinute, bucket.level + ((nowMs - bucket.atMs) / 60_000) * perMinute);
  bucket.atMs = nowMs;
}

function exceeded(tenant: string, what: string, limit: number, retryAfterS: number): CapacityError {
  return new CapacityError(
    "rate_limit_exceeded",
    `the API key ${tenant} has used up its quota of ${limit} ${what}; try again in ${retryAfterS} s`,
    { details: { tenant, limit, retryAfterS } },
  );
}
