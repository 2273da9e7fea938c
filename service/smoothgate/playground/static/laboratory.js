// The laboratory: shows an attack while it runs, and the answers to the attacked picture without Smoothgate and with it.

import { Refused, events } from "./api.js";
import { caution, floor } from "./answer.js";
import { certified, isKnown, undefended } from "./asking.js";
import { $, make, number } from "./dom.js";
import * as picture from "./picture.js";
import * as smoothing from "./smoothing.js";

const STEP = { linf: 1 / 255, l2: 0.1 };
const USUAL = { linf: 16 / 255, l2: 1.2 };
const PLACES = {
  inside: "An attack that the proof covers",
  beyond: "An attack far beyond the proof",
};
let largest = {};
let question = "";
let running = null;

export function start(laboratory) {
  $("laboratory").hidden = false;
  [largest, question] = [laboratory.largest, laboratory.question];
  for (let digit = 0; digit < 10; digit++) $("attack-target").append(new Option(digit, digit));
  $("attack-target").value = 3;
  $("attack-eps").addEventListener("input", show);
  $("attack-norm").addEventListener("change", scale);
  scale();
  for (const preset of laboratory.presets) {
    const button = make("button", { type: "button", id: `preset-${preset.place}`, className: "primary" }, PLACES[preset.place]);
    button.addEventListener("click", () => take(preset));
    $("presets").append(button);
  }
  $("attack").addEventListener("submit", (event) => {
    event.preventDefault();
    attack();
  });
  $("attack-stop").addEventListener("click", () => running?.abort());
}

/** Forget an attack on another picture. */
export function clear() {
  running?.abort();
  running = null;
  busy(false);
  $("attack-progress").hidden = true;
  $("attack-result").replaceChildren();
}

function show() {
  const eps = Number($("attack-eps").value);
  $("attack-eps-value").textContent = $("attack-norm").value === "linf" ? `${Math.round(eps * 255)} of 255 levels` : eps.toFixed(1);
}

function scale() {
  const norm = $("attack-norm").value;
  const eps = $("attack-eps");
  [eps.min, eps.max, eps.step, eps.value] = [STEP[norm], largest[norm], STEP[norm], USUAL[norm]];
  show();
}

async function take(preset) {
  if (!(await picture.sample(preset.sample))) return;
  smoothing.set(preset.sigma, preset.radius);
  $("attack-target").value = preset.target;
  $("attack-norm").value = preset.norm;
  scale();
  $("attack-eps").value = preset.eps;
  $("attack-method").value = "undefended";
  show();
  await attack();
}

async function attack() {
  const result = $("attack-result");
  const image = await picture.current();
  if (!image) {
    result.replaceChildren(make("p", { className: "refusal" }, "Draw or choose a picture first."));
    return;
  }
  clear();
  const mine = running = new AbortController();
  busy(true);
  progress(0, "the attacker loads the model …");
  const norm = $("attack-norm").value;
  const asked = smoothing.options();
  const body = {
    image, norm, target: Number($("attack-target").value), eps: Math.min(Number($("attack-eps").value), largest[norm]),
    method: $("attack-method").value, sigma: asked.sigma,
  };
  try {
    let crafted = null;
    for await (const event of events("/v1/playground/attack", body, mine.signal)) {
      if (event.stage === "crafted") crafted = event;
      else {
        progress(event.step / event.steps, `step ${event.step} of ${event.steps}: ${likely(event.loss)}`);
        if (event.picture) result.replaceChildren(views([["So far", event.picture]]));
      }
    }
    result.replaceChildren(pictures(crafted));
    progress(1, "both models are asked about both pictures …");
    const known = await isKnown(crafted.clean, mine.signal);
    const before = await both(crafted.clean, asked, mine.signal);
    const after = await both(crafted.attacked, asked, mine.signal);
    if (running !== mine) return;
    result.replaceChildren(pictures(crafted), ...judged(crafted, known, before, after));
    $("attack-progress").hidden = true;
  } catch (error) {
    if (running !== mine) return;
    if (error.name === "AbortError") $("attack-step").textContent = "stopped";
    else if (error instanceof Refused) {
      $("attack-progress").hidden = true;
      result.append(make("p", { className: "refusal" }, error.message));
    } else throw error;
  } finally {
    if (running === mine) {
      running = null;
      busy(false);
    }
  }
}

/** Both answers to a picture: without Smoothgate, and certified. */
async function both(image, asked, signal) {
  const [bare, found] = await Promise.all([undefended(question, image, signal), certified(question, image, asked, signal)]);
  return { bare, ...found };
}

/** Show the loss as a probability. It is the negative logarithm of one. */
const likely = (loss) => `the attacked model gives the attacker's answer ${(100 * Math.exp(-loss)).toFixed(1)} %`;

function progress(share, words) {
  $("attack-progress").hidden = false;
  $("attack-bar").value = share;
  $("attack-step").textContent = words;
}

function busy(on) {
  $("attack-start").disabled = on;
  for (const button of $("presets").children) button.disabled = on;
  $("attack-stop").hidden = !on;
}

function views(shown) {
  return make("div", { className: "views large" }, ...shown.map(([words, uri]) =>
    make("figure", {}, make("img", { src: uri, alt: words, className: "pixels" }), make("figcaption", {}, words))));
}

function pictures(crafted) {
  return views([
    ["Your picture", crafted.clean],
    ["Attacked", crafted.attacked],
    [`Difference, ${crafted.times.toFixed(0)} times enlarged`, crafted.difference],
  ]);
}

function judged(crafted, known, before, after) {
  const radius = before.certificate.radius;
  const size = [["size of the attack (l2)", ceiling(crafted.l2)], ["largest step of a pixel", `${Math.round(crafted.linf * 255)} of 255 levels`]];
  return [
    known ? null : caution(),
    make("div", { className: "verdicts" },
      card("undefended", "Without Smoothgate", known, before.bare, after.bare, [...size, ["proved radius (l2)", "none"]]),
      card("defended", "With Smoothgate", known, before.text, after.text, [...size, ["proved radius (l2)", radius === null ? "none" : floor(radius)]])),
    make("p", { className: "lead", id: "attack-verdict" }, proved(crafted.l2, before.certificate, after.certificate)),
  ].filter(Boolean);
}

/** Two digits, rounded up: an attack is never understated. */
const ceiling = (size) => number(Math.ceil(size * 100) / 100);

/** A side of the attack; where the picture is of another kind, an answer that stays is nothing good. */
function card(id, title, known, clean, attacked, rows) {
  const isSame = clean === attacked;
  return make("div", { className: `verdict ${isSame ? (known ? "good" : "") : "bad"}`, id },
    make("h3", {}, title),
    make("p", { className: "judgement" }, isSame ? "The same answer." : "Another answer."),
    make("dl", {}, ...[["your picture", clean], ["attacked picture", attacked], ...rows].map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value)))));
}

/** Say what was proved and what was only measured. */
function proved(size, { radius, alpha }, after) {
  const confidence = Number((100 * (1 - alpha)).toFixed(3));
  const measured = after.outcome === "certified"
    ? "The answer to the attacked picture is certified as well, with a radius around that picture."
    : "The radius that was asked for is not proved around the attacked picture itself.";
  if (radius === null) return `Nothing is proved for your picture: what you see was measured, once. ${measured}`;
  if (size < radius) return `The attack, ${ceiling(size)}, is inside the radius of ${floor(radius)}: that it cannot turn the answer that most noisy copies give was proved of your picture alone, with ${confidence} % confidence. ${measured}`;
  return `The attack, ${ceiling(size)}, is ${number(size / radius, 1)} times as large as the radius of ${floor(radius)}. So far out nothing is proved: what you see was measured, once. ${measured}`;
}
