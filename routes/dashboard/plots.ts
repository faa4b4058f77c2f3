import uPlot from "uplot";
import { clock, dateOf } from "./dom.ts";

const color = (name: string) => () => getComputedStyle(document.body).getPropertyValue(`--${name}`);
const plots: uPlot[] = [];

export interface Plot {
  /** Shows times in seconds since the epoch, each with a value or null for a gap. Without values above zero the plot is hidden. `text` describes it to screen readers. */
  show(times: number[], values: (number | null)[], text: string): void;
}

interface PlotOptions {
  name: string;
  kind: "live" | "days";
  format: (value: number) => string;
}

const DAY = 86_400;
/** Time range of the live plot: as long as a process keeps samples. */
export const LIVE_SECONDS = 300;

/** Options that differ between the two kinds of plot. Days are drawn at midnight UTC, the times of the live plot in the local time zone. */
const KINDS = {
  live: {
    range: (_: uPlot, __: number, max: number): [number, number] => [max - LIVE_SECONDS, max],
    incrs: [60, 120, 300],
    label: "Time",
    time: new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" }),
    moment: clock,
    space: 60,
    series: { fill: color("fill"), width: 2 },
  },
  days: {
    // Somewhat more than half a day on both sides, so that the first and the last bar are not cut off.
    range: (_: uPlot, min: number, max: number): [number, number] => [min - 0.6 * DAY, max + 0.6 * DAY],
    incrs: [1, 2, 7, 14, 30, 90, 180].map((days) => days * DAY),
    label: "Day",
    time: { format: dateOf },
    moment: { format: dateOf },
    space: 90,
    series: {
      fill: color("accent"),
      width: 0,
      paths: uPlot.paths.bars?.({ size: [0.7, 40] }) as uPlot.Series.PathBuilder,
    },
  },
};

/** Creates a plot in the element `id`, with its size and the colors of the theme. Plots of the same kind share their cursor. */
export function createPlot(id: string, { name, kind, format }: PlotOptions): Plot {
  const element = document.getElementById(id) as HTMLElement;
  const { range, incrs, label, time, moment, space, series } = KINDS[kind];
  const axis = { stroke: color("dim"), grid: { stroke: color("line"), width: 1 }, ticks: { show: false } };
  const size = () => ({ width: element.clientWidth, height: element.clientHeight });
  const plot = new uPlot(
    {
      ...size(),
      cursor: { drag: { x: false, y: false }, points: { show: kind === "live" }, sync: { key: kind } },
      scales: { x: { range }, y: { range: (_, __, max) => [0, Math.max(max * 1.1, 1)] } },
      axes: [
        { ...axis, size: 30, space, incrs, values: (_, splits) => splits.map((at) => time.format(at * 1000)) },
        { ...axis, size: 58, values: (_, splits) => splits.map((value) => compact.format(value)) },
      ],
      series: [
        { label, value: (_, at) => (at === null ? "" : moment.format(at * 1000)) },
        {
          ...series,
          label: name,
          stroke: color("accent"),
          points: { show: false },
          value: (_, value) => (value === null ? "–" : format(value)),
        },
      ],
      // Places the ticks of days at midnight UTC; whole minutes are the same in every time zone.
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    },
    [[], []],
    element,
  );
  new ResizeObserver(() => plot.setSize(size())).observe(element);
  plots.push(plot);
  return {
    show(times, values, text) {
      element.hidden = !values.some((value) => value);
      plot.setData([times, values]);
      element.setAttribute("aria-label", text);
    },
  };
}

const compact = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const plot of plots) plot.redraw(false);
});
