export const ADDON: string;
export const BUILD: string;
export function whatIsMissing(has?: (program: string) => boolean): string | undefined;
export function buildCuda(bun: string, definitions?: readonly string[]): Promise<number>;
export function buildCommands(machine: {
  readonly bun: string;
  readonly definitions: readonly string[];
  readonly jobs: string;
  readonly hasCmakeJs: boolean;
  readonly isConfigured: boolean;
  readonly hasNinja: boolean;
}): [command: string, ...args: string[]][];
export function hasDoctest(): boolean;
export function hasProgram(name: string): boolean;
