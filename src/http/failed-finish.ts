/** Ends that are no answer: they become errors, whatever part of the answer was there. */
import { CapacityError, InvariantError, type LorikeetError } from "../core/errors.ts";
import type { Finish } from "../core/request.ts";

/** @returns `null` for an end that is an answer */
export function failureOf({ reason, error }: Finish): LorikeetError | null {
  switch (reason) {
    case "stop":
    case "length":
      return null;
    case "timeout":
      return new CapacityError("request_timeout", "the request took longer than the server's limit; ask for fewer tokens, or later");
    case "shutdown":
      return new CapacityError("shutting_down", "the server is shutting down; send the request again");
    case "cancelled":
      return new CapacityError("request_timeout", "the request was cancelled because its answer was not read in time");
    case "error":
      return error ?? new InvariantError("a generation failed without an error");
  }
}
