import { existsSync } from "node:fs";
import { RequestError } from "../core/errors.ts";

/**
 * Names the adapter that a prompt is to be answered with.
 *
 * @example new LoRARequest("sql", 1, "adapters/sql")
 */
export class LoRARequest {
  /** Name of the adapter. */
  readonly loraName: string;
  /** A caller's own number for the adapter; 0 is a number like any other. */
  readonly loraIntId: number;
  /** Directory of the adapter, or a `.nemo` file; empty for a registered one. */
  readonly loraPath: string;
  /** Format of its files; `hf` takes what they are, `nemo` nothing but a NeMo archive. */
  readonly loraCkptSource: "hf" | "nemo";

  /**
   * @param loraName name of a registered adapter, or a new name for the one at `loraPath`
   * @param loraIntId whole number from 0 up; the same number always means the same adapter
   * @param loraPath directory of the adapter, or a `.nemo` file, a relative one from the working directory; empty for a registered one
   * @param options `loraCkptSource: "nemo"` where nothing but a NeMo archive is expected
   * @throws {RequestError} `invalid_request` naming the argument
   */
  constructor(
    loraName: string,
    loraIntId: number,
    loraPath = "",
    options: { readonly loraCkptSource?: "hf" | "nemo" } = {},
  ) {
    if (typeof loraName !== "string" || loraName === "") {
      throw new RequestError("invalid_request", "loraName must be a non-empty string", { field: "loraName" });
    }
    if (!Number.isSafeInteger(loraIntId) || loraIntId < 0) {
      throw new RequestError("invalid_request", `loraIntId must be a whole number from 0 up, got ${loraIntId}`, {
        field: "loraIntId",
      });
    }
    const source = options.loraCkptSource ?? "hf";
    if (source !== "hf" && source !== "nemo") {
      throw new RequestError("invalid_request", `loraCkptSource must be "hf" or "nemo", got "${String(source)}"`, {
        field: "loraCkptSource",
      });
    }
    if (loraPath !== "" && !existsSync(loraPath)) {
      throw new RequestError("invalid_request", `loraPath of adapter "${loraName}" does not exist`, { field: "loraPath" });
    }
    this.loraName = loraName;
    this.loraIntId = loraIntId;
    this.loraPath = loraPath;
    this.loraCkptSource = source;
  }

  /** `loraName`. */
  get name(): string {
    return this.loraName;
  }
  /** `loraIntId`. */
  get adapterId(): number {
    return this.loraIntId;
  }
  /** `loraPath`. */
  get path(): string {
    return this.loraPath;
  }
}
