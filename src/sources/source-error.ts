/** The two ways in which a source fails: for whoever wrote its name, or for now. */
import { CapacityError, ConfigError } from "../core/errors.ts";

/** It will not work until somebody changes something: a name, a token, a setting. */
export const refusedSource = (message: string, cause?: unknown): ConfigError =>
  new ConfigError("source_refused", message, cause === undefined ? {} : { cause });

/** @param setting adds an origin */
export const untrustedHost = (origin: string, setting: string): ConfigError =>
  refusedSource(`${origin} is not a host that may be downloaded from; add it with ${setting} where that is meant`);

/** It may work later. */
export const unavailableSource = (message: string, cause?: unknown): CapacityError =>
  new CapacityError("source_unavailable", message, cause === undefined ? {} : { cause });
