// Charts in SVG: votes and what they prove with distance, the bound on features, and the scores of the samples.

import { draw } from "./dom.js";

const WIDTH = 440, HEIGHT = 250;
const LEFT = 62, RIGHT = 12, TOP = 14, BOTTOM = 44;

function frame(title, [x0, x1], [y0, y1], xTicks, yTicks, xLabel, yLabel) {
  const x = (value) => LEFT + (value - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (value - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
  const chart = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": title });
  const text = (content, attributes) => {
    const element = draw("text", attributes);
    element.textContent = content;
    return element;
  };
  for (const value of yTicks) {
    chart.append(
      draw("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
      text(String(value), { x: LEFT - 7, y: y(value) + 4, class: "tick", "text-anchor": "end" }),
    );
  }
  for (const value of xTicks) {
    chart.append(text(String(value), { x: x(value), y: HEIGHT - BOTTOM + 16, class: "tick", "text-anchor": "middle" }));
  }
  chart.append(
    text(xLabel, { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, class: "label", "text-anchor": "middle" }),
    text(yLabel, { x: 10, y: (TOP + HEIGHT - BOTTOM) / 2, class: "label", "text-anchor": "middle",
      transform: `rotate(-90 10 ${(TOP + HEIGHT - BOTTOM) / 2})` }),
  );
  return { chart, x, y, text };
}

function ticks(from, to, about = 5) {
  const raw = (to - from) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= raw);
  const found = [];
  for (let value = Math.ceil(from / step) * step; value <= to + step / 1e6; value += step) found.push(Number(value.toFixed(6)));
  return found;
}

/** The FCSB as a function of eps: both bounds, reference lines and the certified radius. */
export function boundChart(certificate) {
  const points = certificate.curve.length > 1 ? certificate.curve : certificate.bounds;
  const last = Math.max(points[points.length - 1].eps, certificate.bounds[0].eps, 0.05);
  const { chart, x, y, text } = frame(
    `The bound on the cosine falls with distance and reaches 0 at ${last.toFixed(2)}.`,
    [0, last], [0, 1], ticks(0, last), [0, 0.25, 0.5, 0.75, 1],
    "how far a picture may be away, eps (l2)", "cosine, at least");
  const line = (name, value) => {
    const shown = points.filter((point) => value(point) >= 0);
    chart.append(draw("polyline", { points: shown.map((p) => `${x(p.eps).toFixed(1)},${y(value(p)).toFixed(1)}`).join(" "), class: `line ${name}` }));
  };
  const level = (name, value, words, down = -4) => {
    if (value === null || value <= 0) return;
    chart.append(
      draw("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: `level ${name}` }),
      text(words, { x: LEFT + 5, y: y(value) + down, class: "note" }),
    );
  };
  level("threshold", certificate.radius.cosine_threshold, "threshold");
  level("chance", certificate.chance === null ? null : certificate.chance.p95, "unrelated pictures", 12);
  if (certificate.target) level("policy", certificate.target.cosine, "wanted");
  line("paper", (point) => point.mean);
  line("layers", (point) => point.layer_cake);
  const radius = certificate.radius.value;
  if (radius !== null) {
    const height = y(certificate.radius.cosine_threshold);
    chart.append(
      draw("line", { x1: x(radius), x2: x(radius), y1: height, y2: HEIGHT - BOTTOM, class: "radius" }),
      draw("circle", { cx: x(radius), cy: height, r: 4.5, class: "radius" }),
    );
  }
  return chart;
}

const ROW = 30;

/** The votes as bars, one for each answer; what is not among the named answers has one of its own. */
export function voteBars(votes) {
  const named = votes.answers.map(([canonical, number]) => [canonical ?? "not of the form asked for", number]);
  const rest = votes.counted - named.reduce((sum, [, number]) => sum + number, 0);
  const rows = rest > 0 ? [...named, ["other answers", rest]] : named;
  const chart = draw("svg", { viewBox: `0 0 ${WIDTH} ${Math.max(rows.length, 1) * ROW}`, class: "chart", role: "img",
    "aria-label": `Votes: ${rows.map(([words, number]) => `${words} ${number}`).join(", ") || "none yet"}` });
  const text = (content, attributes) => {
    const element = draw("text", attributes);
    element.textContent = content;
    return element;
  };
  rows.forEach(([words, number], row) => {
    const share = number / votes.counted;
    const shown = words.length > 48 ? `${words.slice(0, 47)}…` : words;
    chart.append(
      text(shown, { x: 0, y: row * ROW + 11, class: "tick" }),
      text(String(number), { x: WIDTH, y: row * ROW + 11, class: "tick", "text-anchor": "end" }),
      draw("rect", { x: 0, y: row * ROW + 15, width: WIDTH, height: 9, class: "trough" }),
      draw("rect", { x: 0, y: row * ROW + 15, width: Math.max(share * WIDTH, 1.5), height: 9, class: row ? "bar other" : "bar" }),
    );
  });
  return chart;
}

/** The standard normal distribution function (Abramowitz & Stegun 26.2.17, error below 1e-7). */
function normal(x) {
  if (x < 0) return 1 - normal(-x);
  const t = 1 / (1 + 0.2316419 * x);
  const sum = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return 1 - sum * Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
}

function inverseNormal(p) {
  let [low, high] = [-9, 9];
  for (let step = 0; step < 60; step++) {
    const middle = (low + high) / 2;
    if (normal(middle) < p) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** Bounds on the shares of noisy copies that give the answer and any other one, with distance. They meet at the radius. */
export function voteChart(certificate) {
  const { radius, target, p_low: low, p_up: up, noise: { sigma } } = certificate;
  const last = 1.25 * Math.max(radius, target ?? 0);
  const { chart, x, y, text } = frame(
    `The proved share of this answer falls with distance, and meets that of other answers at ${radius.toFixed(2)}.`,
    [0, last], [0, 1], ticks(0, last), [0, 0.25, 0.5, 0.75, 1],
    "how far a picture may be away (l2)", "share of noisy copies");
  const line = (name, share) => {
    const points = Array.from({ length: 61 }, (_, i) => i * last / 60);
    chart.append(draw("polyline", { points: points.map((at) => `${x(at).toFixed(1)},${y(share(at)).toFixed(1)}`).join(" "), class: `line ${name}` }));
  };
  line("layers", (at) => normal(inverseNormal(low) - at / sigma));
  line("paper", (at) => normal(inverseNormal(up) + at / sigma));
  const height = y(normal(inverseNormal(low) - radius / sigma));
  chart.append(
    draw("line", { x1: x(radius), x2: x(radius), y1: height, y2: HEIGHT - BOTTOM, class: "radius" }),
    draw("circle", { cx: x(radius), cy: height, r: 4.5, class: "radius" }),
    text("this answer, at least", { x: x(0) + 6, y: y(normal(inverseNormal(low))) - 7, class: "note" }),
    text("any other, at most", { x: x(0) + 6, y: y(normal(inverseNormal(up))) + 16, class: "note" }),
    text("radius", { x: x(radius) + 6, y: HEIGHT - BOTTOM - 6, class: "note" }),
  );
  return chart;
}

/** A histogram of the samples' scores. */
export function scoreChart(scores, lower) {
  const least = Math.min(...scores, lower);
  const from = Math.max(0, Math.floor(least * 50) / 50);
  const count = 32;
  const bins = new Array(count).fill(0);
  for (const score of scores) bins[Math.min(count - 1, Math.floor((score - from) / (1 - from || 1) * count))] += 1;
  const most = Math.max(...bins);
  const { chart, x, y, text } = frame(
    `Scores of ${scores.length} samples, from ${least.toFixed(3)} to ${Math.max(...scores).toFixed(3)}.`,
    [from, 1], [0, most], ticks(from, 1), ticks(0, most, 4).filter(Number.isInteger), "score of a noisy copy", "copies");
  bins.forEach((size, bin) => {
    const begin = from + bin * (1 - from) / count;
    const width = x(begin + (1 - from) / count) - x(begin);
    if (size) chart.append(draw("rect", { x: x(begin) + 0.5, y: y(size), width: Math.max(width - 1, 1), height: y(0) - y(size), class: "bar" }));
  });
  chart.append(
    draw("line", { x1: x(lower), x2: x(lower), y1: TOP, y2: y(0), class: "level threshold" }),
    text("proved mean", { x: x(lower) - 4, y: TOP + 10, class: "note", "text-anchor": "end" }),
  );
  return chart;
}

/** The legend of `boundChart`. */
export const LEGEND = [
  ["layers", "layer-cake bound"],
  ["paper", "the paper's mean bound"],
  ["mark", "certified radius"],
];
