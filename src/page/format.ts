/** Numbers as people read them, in as few digits as tell; a unit stays on its number's line. */

const NBSP = "\u00a0";

export function formatNumber(value: number): string {
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return value.toPrecision(value >= 1 ? 3 : 2);
}

export function formatBytes(numBytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = numBytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toPrecision(value >= 100 ? 4 : 3)}${NBSP}${units[unit]}`;
}

export function formatMs(ms: number): string {
  if (ms === 0) return "0";
  if (ms >= 10_000) return `${(ms / 1000).toFixed(0)}${NBSP}s`;
  if (ms >= 1_000) return `${(ms / 1000).toFixed(1)}${NBSP}s`;
  return `${ms >= 100 ? ms.toFixed(0) : ms >= 1 ? ms.toPrecision(2) : ms.toFixed(1)}${NBSP}ms`;
}

export const formatPercent = (part: number): string => `${(part * 100).toFixed(part > 0 && part < 0.1 ? 1 : 0)}${NBSP}%`;

export const plural = (count: number, noun: string): string => `${formatNumber(count)} ${noun}${count === 1 ? "" : "s"}`;
