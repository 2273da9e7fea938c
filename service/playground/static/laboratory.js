// The laboratory: an attack as it happens, and what both models make of it.

import { Refused, events } from "./api.js";
import { $, make, number } from "./dom.js";
import * as picture from "./picture.js";
import * as smoothing from "./smoothing.js";

const STEP = { linf: 1 / 255, l2: 0.1 };
const USUAL = { linf: 16 / 255, l2: 2 };
let largest = {};
let running = null;

export function start(laboratory) {
  $("laboratory").hidden = false;
  largest = laboratory.largest;
  for (let digit = 0; digit < 10; digit++) $("attack-target").append(new Option(digit, digit));
  $("attack-target").value = 3;
  const eps = $("attack-eps");
  const show = () => {
    const isInf = $("attack-norm").value === "linf";
    $("attack-eps-value").textContent = isInf ? `${Math.round(eps.value * 255)} / 255` : Number(eps.value).toFixed(1);
  };
  const scale = () => {
    const norm = $("attack-norm").value;
    [eps.min, eps.max, eps.step, eps.value] = [STEP[norm], largest[norm], STEP[norm], USUAL[norm]];
    show();
  };
  eps.addEventListener("input", show);
  $("attack-norm").addEventListener("change", scale);
  scale();
  $("attack").addEventListener("submit", (event) => {
    event.preventDefault();
    attack();
  });
  $("attack-stop").addEventListener("click", () => running?.abort());
}

async function attack() {
  const result = $("attack-result");
  const image = picture.current();
  if (!image) {
    result.replaceChildren(make("p", { className: "bad" }, "Draw or choose a picture first."));
    return;
  }
  if (running) return;
  running = new AbortController();
  busy(true);
  result.replaceChildren();
  const target = Number($("attack-target").value);
  const body = {
    image, target, norm: $("attack-norm").value, eps: Math.min(Number($("attack-eps").value), largest[$("attack-norm").value]),
    method: $("attack-method").value, smoothing: smoothing.options(),
  };
  const found = {};
  try {
    for await (const event of events("/v1/playground/attack", body, running.signal)) {
      if (event.stage === "crafting") progress(event.step / event.steps, `step ${event.step} of ${event.steps}; loss of the attacker ${event.loss.toFixed(2)}`);
      else {
        found[event.stage] = event;
        if (event.stage === "crafted") progress(1, "crafted; asking both models …");
        result.replaceChildren(pictures(found.crafted), ...answers(found, target));
      }
    }
    $("attack-progress").hidden = true;
  } catch (error) {
    if (error.name === "AbortError") $("attack-step").textContent = "stopped";
    else if (error instanceof Refused) {
      $("attack-progress").hidden = true;
      result.append(make("p", { className: "bad" }, error.message));
    } else throw error;
  } finally {
    running = null;
    busy(false);
  }
}

function progress(share, words) {
  $("attack-progress").hidden = false;
  $("attack-bar").value = share;
  $("attack-step").textContent = words;
}

function busy(on) {
  $("attack-start").hidden = on;
  $("attack-stop").hidden = !on;
  if (on) progress(0, "the attacker loads the model …");
}

function pictures(crafted) {
  const views = [
    ["Your picture", crafted.clean],
    ["Attacked", crafted.attacked],
    [`Difference, ${crafted.times.toFixed(0)} times enlarged`, crafted.difference],
  ];
  return make("div", {},
    make("div", { className: "views large" }, ...views.map(([words, uri]) =>
      make("figure", {}, make("img", { src: uri, alt: words, className: "pixels" }), make("figcaption", {}, words)))),
    make("p", { className: "hint" }, `Moved by ${Math.round(crafted.linf * 255)} / 255 at most (l∞), by ${crafted.l2.toFixed(2)} as a whole (l2).`));
}

function answers(found, target) {
  if (!found.undefended) return [];
  const columns = [["Bare model", "undefended"], ["Through Smoothgate", "defended"]];
  const cards = columns.map(([title, stage]) => {
    const event = found[stage];
    if (!event) return make("div", { className: "verdict", id: stage }, make("h3", {}, title), make("p", { className: "hint" }, "smoothing and certifying …"));
    const [kind, words] = judged(event, target);
    const rows = [["before", event.clean], ["attacked", event.attacked], ["cosine of the features", number(event.cosine)]];
    if (stage === "defended") rows.push(["proved at this distance", event.bound !== null && event.bound > 0 ? `at least ${number(event.bound)}` : "nothing: too far"]);
    return make("div", { className: `verdict ${kind}`, id: stage },
      make("h3", {}, title),
      make("p", { className: "judgement" }, words),
      make("dl", {}, ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))));
  });
  return [make("div", { className: "verdicts" }, ...cards)];
}

function judged(event, target) {
  if (event.attacked === event.clean) return ["good", "The answer holds."];
  return event.attacked.includes(String(target))
    ? ["bad", "The attacker's answer."]
    : ["bad", "The answer changed, though not to what the attacker wants."];
}
