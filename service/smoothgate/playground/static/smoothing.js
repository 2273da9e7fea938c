// The controls of a certified answer, within the limits of the service.

import { $ } from "./dom.js";

const STEP = 0.05;
const BUDGETS = [256, 512, 1024, 2048, 4096];
const USUAL_BUDGET = 1024;
const RADII = [0.25, 0.5, 0.75, 1, 1.25];
const USUAL_RADIUS = 0.5;

export function start(about) {
  const sigma = $("sigma");
  const least = Math.ceil(about.sigma.least / STEP - 1e-9) * STEP;
  [sigma.step, sigma.min, sigma.max, sigma.value] = [STEP, least, about.sigma.most, about.sigma.usual];
  sigma.addEventListener("input", show);
  show();
  const possible = [...new Set([...BUDGETS, about.n_certify])]
    .filter((n) => n + about.n_select <= about.max_samples)
    .sort((a, b) => a - b);
  const usual = possible.findLast((n) => n <= USUAL_BUDGET) ?? possible[0];
  $("budget").append(...possible.map((n) => new Option(n.toLocaleString("en"), n, false, n === usual)));
  $("target").append(
    ...RADII.filter((radius) => radius >= (about.policy_radius ?? 0)).map((radius) => new Option(radius.toFixed(2), radius, false, radius === USUAL_RADIUS)),
    new Option("as much as all noisy copies can prove", ""),
  );
  $("choices").value = about.choices.join(", ");
  $("form").addEventListener("change", () => { $("choices-label").hidden = $("form").value !== "choices"; });
}

function show() {
  $("sigma-value").textContent = Number($("sigma").value).toFixed(2);
}

/** Set noise and radius as a ready-made attack has them. */
export function set(sigma, radius) {
  $("sigma").value = sigma;
  $("target").value = radius;
  show();
}

/** The `smoothing` field of a request for a certified answer. */
export function options() {
  const chosen = { certify: "answer", sigma: Number($("sigma").value), n_certify: Number($("budget").value) };
  if ($("target").value) chosen.target = { eps: Number($("target").value) };
  if ($("form").value === "choices") {
    chosen.answer = { choices: $("choices").value.split(",").map((each) => each.trim()) };
  }
  return chosen;
}
