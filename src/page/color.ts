/** A hue for each adapter, the same everywhere on the page; lightness and chroma are the theme's. */
export function hueOf(adapter: string): number {
  let hash = 0;
  for (const char of adapter) hash = (hash * 31 + char.codePointAt(0)!) >>> 0;
  // Steps of the golden angle keep similar names apart.
  return Math.round((hash % 997) * 137.508) % 360;
}
