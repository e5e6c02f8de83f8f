/** One compute thread: makes its own instance over the shared memory, then runs steps until stopped. */
import { instantiate } from "./module.ts";

declare const self: Worker;

export interface PoolWorkerStart {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly stackTop: number;
  readonly control: number;
  readonly thread: number;
}

self.onmessage = ({ data }: MessageEvent<PoolWorkerStart>) => {
  const exports = instantiate(data.module, data.memory, data.stackTop);
  self.postMessage("ready");
  // Let the message leave before the thread goes to sleep inside WebAssembly.
  setTimeout(() => {
    exports.pool_worker(data.control, data.thread);
    self.postMessage("stopped");
  }, 0);
};
