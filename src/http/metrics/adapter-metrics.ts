/** How adapters come and go, counted from the runtime's transitions. */
import type { Transition } from "../../runtime/runtime.ts";
import { Histogram } from "./histogram.ts";

const LOAD_S = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export class AdapterMetrics {
  /** From files to host memory. */
  readonly load = new Histogram(LOAD_S);
  /** From host memory to the device. */
  readonly activate = new Histogram(LOAD_S);
  /** From the wish for a place on the device to having it: what requests wait for. */
  readonly swap = new Histogram(LOAD_S);
  /** Loads that failed, by error code: as many keys as there are codes. */
  readonly failures: Record<string, number> = {};
  /** Adapters that had to go, by where they were. */
  readonly evictions = { device: 0, host: 0 };

  see({ type, elapsedMs, error }: Transition): void {
    const observe = (histogram: Histogram): void => {
      if (elapsedMs !== undefined) histogram.observe(elapsedMs / 1000);
    };
    switch (type) {
      case "adapter.loaded":
        return observe(this.load);
      case "slot.filled":
        return observe(this.activate);
      case "slot.granted":
        return observe(this.swap);
      case "adapter.failed":
        if (error !== undefined) this.failures[error.code] = (this.failures[error.code] ?? 0) + 1;
        return;
      case "slot.evicted":
        this.evictions.device++;
        return;
      case "image.dropped":
        this.evictions.host++;
        return;
      default:
        return;
    }
  }
}
