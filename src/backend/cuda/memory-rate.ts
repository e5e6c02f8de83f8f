/** Bytes per second that a copy within a device's memory reaches, read and written bytes together; measured once per kind of device. */
export const MEMORY_BYTES_PER_SECOND: Readonly<Record<string, number>> = { "NVIDIA H200": 4.2e12, "NVIDIA H100 80GB HBM3": 3.0e12 };

/** @param description a backend's, which has the device's name in it @returns `null` for a kind that was not measured */
export const memoryRateOf = (description: string): number | null =>
  Object.entries(MEMORY_BYTES_PER_SECOND).find(([name]) => description.includes(name))?.[1] ?? null;
