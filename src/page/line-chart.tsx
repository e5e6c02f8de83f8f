/** @jsxImportSource preact */
/** Series over time, drawn by uPlot; told in words to those who do not see them. */
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

export interface Line {
  readonly label: string;
  /** Name of a custom property. */
  readonly color: string;
  readonly values: readonly (number | null)[];
  readonly isFaint?: boolean;
}

interface LineChartProps {
  readonly title: string;
  /** Unix seconds, as many as each line has values. */
  readonly times: readonly number[];
  readonly lines: readonly Line[];
  readonly format: (value: number) => string;
  /** What the chart says now. */
  readonly summary: string;
  /** Colours are read anew when it changes. */
  readonly theme: string;
}

const HEIGHT = 150;
const SHOWN_S = 180;
/** An empty chart reaches to here, so that a trickle does not look like a flood. */
const MIN_TOP = 1;

export function LineChart({ title, times, lines, format, summary, theme }: LineChartProps): JSX.Element {
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const data = [times, ...lines.map(({ values }) => values)] as unknown as uPlot.AlignedData;

  useEffect(() => {
    const element = holder.current;
    if (element === null) return undefined;
    const draw = (): void => {
      plot.current?.destroy();
      plot.current = new uPlot(optionsOf(element, lines, format), data, element);
    };
    draw();
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    resized.observe(element);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", draw);
    return () => {
      resized.disconnect();
      dark.removeEventListener("change", draw);
      plot.current?.destroy();
      plot.current = null;
    };
    // The lines' labels and colours never change; their values are set below.
  }, [theme]);

  useEffect(() => plot.current?.setData(data), [times]);

  return (
    <figure class="chart">
      <figcaption>
        <span class="chart-title">{title}</span>
        <span class="legend" aria-hidden="true">
          {lines.map(({ label, color, isFaint }) => (
            <span key={label}><i style={{ background: `var(${color})`, opacity: isFaint === true ? 0.55 : 1 }} />{label}</span>
          ))}
        </span>
      </figcaption>
      <div ref={holder} role="img" aria-label={`${title}: ${summary}`} style={{ height: `${HEIGHT}px` }} />
    </figure>
  );
}

function optionsOf(element: HTMLElement, lines: readonly Line[], format: (value: number) => string): uPlot.Options {
  const style = getComputedStyle(element);
  const color = (name: string): string => style.getPropertyValue(name).trim();
  const font = `11px ${style.fontFamily}`;
  const axis: uPlot.Axis = { stroke: color("--muted"), font, ticks: { show: false }, grid: { stroke: color("--hairline"), width: 1 } };
  return {
    width: element.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    padding: [8, 4, 0, 0],
    scales: { x: { range: (_, __, now) => [now - SHOWN_S, now] }, y: { range: (_, __, top) => [0, Math.max(MIN_TOP, (top ?? 0) * 1.15)] } },
    axes: [
      { ...axis, grid: { show: false }, size: 26, space: 90, values: (_, splits) => splits.map((at) => new Date(at * 1000).toLocaleTimeString("en", { hour12: false })) },
      { ...axis, size: 58, space: 40, values: (_, splits) => splits.map(format) },
    ],
    series: [
      {},
      ...lines.map((line): uPlot.Series => ({
        label: line.label,
        stroke: color(line.color),
        width: line.isFaint === true ? 1 : 1.75,
        alpha: line.isFaint === true ? 0.55 : 1,
        points: { show: false },
        spanGaps: false,
      })),
    ],
  };
}
