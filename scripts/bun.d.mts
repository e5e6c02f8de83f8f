export const root: string;
export const BUN_VERSION: string;
export interface Machine {
  readonly own: string | undefined;
  readonly path: string;
  readonly packages: readonly string[];
  readonly store: string;
}
export function findBun(machine?: Machine): string;
export function platformPackages(): [string, string | undefined];
export function installPackages(bun: string): void;
export function missingPackages(folder?: string): string[];
export function run(command: string, args: readonly string[], options?: object): Promise<number>;
export function say(text: string): void;
export function fail(text: string): never;
export function isAtLeast(version: string, wanted: string): boolean;
