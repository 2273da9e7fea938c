// The controls of smoothing, within the limits of the service.

import { $ } from "./dom.js";

const STEP = 0.05;
const BUDGETS = [128, 256, 512, 1024, 2048, 4096];

export function start(about) {
  const sigma = $("sigma");
  const least = Math.ceil(about.sigma.least / STEP - 1e-9) * STEP;
  [sigma.step, sigma.min, sigma.max, sigma.value] = [STEP, least, about.sigma.most, about.sigma.usual];
  const show = () => { $("sigma-value").textContent = Number(sigma.value).toFixed(2); };
  sigma.addEventListener("input", show);
  show();
  const possible = [...new Set([...BUDGETS, about.n_certify])]
    .filter((n) => n + about.n_select <= about.max_samples)
    .sort((a, b) => a - b);
  $("budget").append(...possible.map((n) => new Option(n.toLocaleString("en"), n, false, n === about.n_certify)));
}

/** The `smoothing` field of a request. */
export function options() {
  const chosen = { sigma: Number($("sigma").value), n_certify: Number($("budget").value) };
  if ($("target").value) {
    const [cosine, eps] = $("target").value.split(" ").map(Number);
    chosen.target = { cosine, eps };
  }
  return chosen;
}
