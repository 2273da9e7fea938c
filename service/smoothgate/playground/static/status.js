// The status line from /health/ready and /metrics, updated while the page is visible.

import { glance, hasKey } from "./api.js";
import { $ } from "./dom.js";

const EVERY = 2000;
let before = null;

export function start(about) {
  const look = async () => {
    if (!document.hidden) await Promise.allSettled([health(), about.metrics ? metrics(about) : Promise.resolve()]);
    setTimeout(look, EVERY);
  };
  if (!about.metrics) $("strip").hidden = true;
  look();
}

async function health() {
  const banner = $("banner");
  try {
    const { status, text } = await glance("/health/ready");
    banner.hidden = status === 200;
    if (status !== 200) {
      const parts = Object.entries(JSON.parse(text).problems ?? {}).map((problem) => problem.join(" "));
      banner.textContent = `The service is not ready: ${parts.join("; ") || status}. This page goes on by itself as soon as it is.`;
    }
  } catch {
    banner.hidden = false;
    banner.textContent = "The service cannot be reached. This page goes on by itself as soon as it can.";
    set("engine", "unknown", false);
  }
}

async function metrics(about) {
  if (about.keys && !hasKey()) return;
  const { status, text } = await glance("/metrics");
  if (status !== 200) return;
  const value = (name) => {
    const line = text.split("\n").find((each) => each.startsWith(`${name} `));
    return line ? Number(line.split(" ")[1]) : NaN;
  };
  const up = value("smoothgate_engine_up") === 1;
  set("engine", up ? "up" : "down", up);
  set("queue", Math.round(value("smoothgate_queued_samples")).toLocaleString("en"));
  const now = { time: performance.now(), samples: value("smoothgate_samples_total") };
  if (before && now.samples >= before.samples) {
    set("rate", Math.round((now.samples - before.samples) / ((now.time - before.time) / 1000)).toLocaleString("en"));
  }
  before = now;
}

function set(name, text, good = null) {
  const cell = $(`strip-${name}`);
  cell.textContent = text;
  if (good !== null) cell.className = good ? "good" : "bad";
}
