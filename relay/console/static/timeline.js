// The overview's timeline: input tokens stacked by what the cache did, and the money it saved. Drawn by uPlot.

const place = document.getElementById("timeline");
const chart = JSON.parse(place.dataset.chart);
const at = document.getElementById("timeline-at");
const STEP_S = { hour: 3600, day: 86400 };
const isDark = matchMedia("(prefers-color-scheme: dark)");
let plot;

function draw() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const bars = uPlot.paths.bars({ size: [0.75, 28], gap: 1 });
  const stack = (label, name) => ({ label, stroke: colour(name), fill: colour(name), width: 0, paths: bars, points: { show: false } });
  const axis = { stroke: colour("dim"), font, grid: { stroke: colour("soft"), width: 1 }, ticks: { show: false } };
  const uncached = chart.uncached;
  const read = uncached.map((value, i) => value + chart.read[i]);
  const whole = read.map((value, i) => value + chart.written[i]);

  plot?.destroy();
  plot = new uPlot({
    width: place.clientWidth,
    height: place.clientHeight,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    padding: [10, 8, 0, 8],
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
    legend: { show: false },
    scales: {
      x: { range: (_, first, last) => [first - STEP_S[chart.step] / 2, last + STEP_S[chart.step] / 2] },
      tokens: { range: (_, __, most) => [0, Math.max(most * 1.08, 1)] },
      money: { range: (_, least, most) => [Math.min(least * 1.2, 0), Math.max(most * 1.2, 1e-6)] },
    },
    axes: [
      { ...axis, grid: { show: false }, space: 70, size: 26, values: (_, seconds) => seconds.map(moment) },
      { ...axis, scale: "tokens", size: 52, values: (_, counts) => counts.map(compact) },
      { ...axis, scale: "money", side: 1, size: 62, grid: { show: false }, values: (_, sums) => sums.map(money) },
    ],
    // The tallest first, so that each hides the lower part of the one before.
    series: [
      {},
      { ...stack("written", "write"), scale: "tokens" },
      { ...stack("read", "read"), scale: "tokens" },
      { ...stack("uncached", "uncached"), scale: "tokens" },
      { label: "saved", scale: "money", stroke: colour("saved"), width: 2, points: { show: chart.at.length < 3, size: 6 } },
    ],
    hooks: { setCursor: [tell] },
  }, [chart.at, whole, read, uncached, chart.saved], place);
}

function tell(shown) {
  const i = shown.cursor.idx;
  at.textContent = i == null ? "" :
    `${moment(chart.at[i])}: ${compact(chart.uncached[i])} uncached, ${compact(chart.read[i])} read, ` +
    `${compact(chart.written[i])} written, ${money(chart.saved[i])} saved`;
}

function moment(seconds) {
  const iso = new Date(seconds * 1000).toISOString();
  if (chart.step === "day") return iso.slice(5, 10);
  return chart.at.length > 30 ? `${iso.slice(5, 10)} ${iso.slice(11, 16)}` : iso.slice(11, 16);
}

function compact(count) {
  return Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(count);
}

function money(sum) {
  const size = Math.abs(sum);
  const decimals = size === 0 || size >= 0.1 ? 2 : Math.min(6, 1 - Math.floor(Math.log10(size)));
  return `${sum < 0 ? "−" : ""}$${size.toFixed(decimals)}`;
}

draw();
isDark.addEventListener("change", draw);
new ResizeObserver(() => {
  if (plot.width !== place.clientWidth) plot.setSize({ width: place.clientWidth, height: place.clientHeight });
}).observe(place);
