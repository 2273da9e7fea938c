// The status line from /health/ready and /metrics, updated while the page is visible.

import { glance, hasKey } from "./api.js";
import { $ } from "./dom.js";

const EVERY = 2000;
const ENGINE_DOWN = "vLLM does not answer: pictures are certified, questions are refused. This page goes on by itself as soon as it does.";
let before = null;
let problem = null;
let engineDown = false;
let recovered = () => {};

/** @param onRecovery called when a problem that was shown has gone. */
export function start(about, onRecovery) {
  recovered = onRecovery;
  const look = async () => {
    if (!document.hidden) {
      await Promise.allSettled([health(), about.metrics ? metrics(about) : Promise.resolve()]);
      announce();
    }
    setTimeout(look, EVERY);
  };
  if (!about.metrics) $("strip").hidden = true;
  look();
}

async function health() {
  problem = null;
  try {
    const { status, text } = await glance("/health/ready");
    if (status !== 200) {
      const parts = Object.entries(JSON.parse(text).problems ?? {}).map((part) => part.join(" "));
      problem = `The service is not ready: ${parts.join("; ") || status}. This page goes on by itself as soon as it is.`;
    }
  } catch {
    problem = "The service cannot be reached. This page goes on by itself as soon as it can.";
    set("engine", "unknown", false);
  }
}

/** The service is ready without a shared vLLM, but the page asks it questions. */
function announce() {
  const text = problem ?? (engineDown ? ENGINE_DOWN : null);
  if (text === null && !$("banner").hidden) recovered();
  $("banner").hidden = text === null;
  if (text !== null) $("banner").textContent = text;
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
  engineDown = !up;
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
