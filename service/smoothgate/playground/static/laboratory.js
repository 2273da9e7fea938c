// The laboratory: shows an attack while it runs, and the answers of both models.

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
      if (event.stage === "crafting") {
        progress(event.step / event.steps, `step ${event.step} of ${event.steps}: ${likely(event.loss)}`);
        if (event.picture) result.replaceChildren(views([["So far", event.picture]]));
      } else {
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

/** Show the loss as a probability. It is the negative logarithm of one. */
const likely = (loss) => `the attacked model gives the attacker's answer ${(100 * Math.exp(-loss)).toFixed(1)} %`;

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

function views(shown) {
  return make("div", { className: "views large" }, ...shown.map(([words, uri]) =>
    make("figure", {}, make("img", { src: uri, alt: words, className: "pixels" }), make("figcaption", {}, words))));
}

function pictures(crafted) {
  const shown = [
    ["Your picture", crafted.clean],
    ["Attacked", crafted.attacked],
    [`Difference, ${crafted.times.toFixed(0)} times enlarged`, crafted.difference],
  ];
  return make("div", {},
    views(shown),
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
    if (stage === "defended") rows.push(["proved before", event.bound > 0 ? `at least ${number(event.bound)}` : "nothing"]);
    return make("div", { className: `verdict ${kind}`, id: stage },
      make("h3", {}, title),
      make("p", { className: "judgement" }, words),
      make("dl", {}, ...rows.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))));
  });
  const rest = found.defended ? [make("p", { className: "hint" }, proved(found.crafted, found.defended))] : [];
  return [make("div", { className: "verdicts" }, ...cards), ...rest];
}

/** Say what was proved and what was only measured. */
function proved(crafted, defended) {
  const { value, cosine_threshold } = defended.certificates[0].radius;
  if (value === null) return "Nothing is proved for this picture: what you see was measured, once.";
  if (crafted.l2 <= value) return `The change, ${number(crafted.l2)} in l2, is within the certified radius of ${number(value)}: that the cosine stays above ${cosine_threshold} was proved before the attack began.`;
  return `The change, ${number(crafted.l2)} in l2, is ${number(crafted.l2 / value, 1)} times the certified radius of ${number(value)}. So far out the proof says less than a cosine of ${cosine_threshold}, or nothing: what you see was measured, once. For an attack that the proof covers, choose l2 and ${number(Math.floor(value * 10) / 10, 1)}.`;
}

function judged(event, target) {
  if (event.attacked === event.clean) return ["good", "The answer holds."];
  return /\d/.exec(event.attacked)?.[0] === String(target)
    ? ["bad", "The attacker's answer."]
    : ["bad", "The answer changed, though not to what the attacker wants."];
}
