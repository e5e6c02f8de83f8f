/** Prometheus' text format, version 0.0.4. */
import { Histogram } from "./histogram.ts";

export const EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8";

export type Labels = Readonly<Record<string, string>>;
export interface Sample {
  readonly labels?: Labels;
  readonly value: number;
}

export interface LabelledHistogram {
  readonly labels: Labels;
  readonly histogram: Histogram;
}

export class Exposition {
  readonly #common: Labels;
  readonly #lines: string[] = [];

  /** @param common labels that every sample carries */
  constructor(common: Labels = {}) {
    this.#common = common;
  }

  gauge(name: string, help: string, samples: number | readonly Sample[]): void {
    this.#family(name, "gauge", help, samples);
  }

  /** Without the common labels. */
  bareGauge(name: string, help: string, samples: readonly Sample[]): void {
    this.#head(name, "gauge", help);
    for (const { labels, value } of samples) this.#line(name, labels ?? {}, value);
  }

  counter(name: string, help: string, samples: number | readonly Sample[]): void {
    this.#family(name, "counter", help, samples);
  }

  histogram(name: string, help: string, given: Histogram | readonly LabelledHistogram[]): void {
    this.#head(name, "histogram", help);
    const list = given instanceof Histogram ? [{ labels: {}, histogram: given }] : given;
    for (const { labels, histogram } of list) {
      const cumulative = histogram.cumulative();
      histogram.bounds.forEach((bound, i) => {
        this.#sample(`${name}_bucket`, { ...labels, le: String(bound) }, cumulative[i]!);
      });
      this.#sample(`${name}_bucket`, { ...labels, le: "+Inf" }, histogram.count);
      this.#sample(`${name}_sum`, labels, histogram.sum);
      this.#sample(`${name}_count`, labels, histogram.count);
    }
  }

  text(): string {
    return `${this.#lines.join("\n")}\n`;
  }

  #family(name: string, type: string, help: string, samples: number | readonly Sample[]): void {
    this.#head(name, type, help);
    const list = typeof samples === "number" ? [{ value: samples }] : samples;
    for (const { labels, value } of list) this.#sample(name, labels ?? {}, value);
  }

  #head(name: string, type: string, help: string): void {
    this.#lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
  }

  #sample(name: string, labels: Labels, value: number): void {
    this.#line(name, { ...this.#common, ...labels }, value);
  }

  #line(name: string, labels: Labels, value: number): void {
    const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escaped(text)}"`);
    this.#lines.push(`${name}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} ${value}`);
  }
}

const escaped = (text: string): string =>
  text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
