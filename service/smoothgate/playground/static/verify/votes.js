// What follows from the votes of a certified answer. The service's own code is smoothgate/certify/votes.py,
// betting.py and answer_verification.py, which say what is proved and how; both are held to the same vectors.

import { uploadRadius } from "./features.js";
import { ndtri } from "./normal.js";
import { digests, sha256 } from "./signature.js";

const MARGIN = 1e-12;
const ROUNDING = 1e-9;
const SLACK = 1e-9;
const SHARES = [0.9, 0.05, 0.05];
const FRACTIONS = [1 - 1e-7, 0.95, 0.8, 0.6, 0.4, 0.25, 0.12, 0.06, 0.03, 0.015, 0.0075];
const FURTHER = [0.9, 0.7, 0.5, 0.32, 0.18, 0.085, 0.042];

/** The logarithm of the capital of one fraction, and its slope in the logarithm of the mean. */
function gain(values, fraction, mean) {
  let [total, slope] = [0, 0];
  for (const [value, count] of values) {
    const factor = 1 + fraction * (value / mean - 1);
    total += count * Math.log(factor);
    slope -= (count * fraction * value) / mean / factor;
  }
  return [total, slope];
}

function bestFraction(ones, n, budget, goal) {
  const split = n ? [[1, ones], [1e-6, n - ones]] : [[1, 1]];
  const size = n || 1;
  const values = split.map(([value, count]) => [value, (count * budget) / size]);
  const mean = split.reduce((sum, [value, count]) => sum + value * count, 0) / size;
  let best = [-Infinity, 0];
  for (const fraction of [...FRACTIONS, ...FURTHER]) {
    let u = Math.log(mean);
    for (let round = 0; round < 12; round++) {
      const [total, slope] = gain(values, fraction, Math.exp(u));
      u = Math.min(u + Math.min(Math.max((total - goal) / -slope, -2), 2), 0);
    }
    if (u > best[0]) best = [u, fraction];
  }
  return best[1];
}

function capital(values, bets, mean) {
  const each = bets.map(([fraction, weight]) => {
    const [total, slope] = gain(values, fraction, mean);
    return [total + Math.log(weight), slope];
  });
  const top = Math.max(...each.map(([term]) => term));
  let [sum, slopes] = [0, 0];
  for (const [term, slope] of each) {
    sum += Math.exp(term - top);
    slopes += Math.exp(term - top) * slope;
  }
  return [top + Math.log(sum), slopes / sum];
}

/** The betting bound on the probability of a one, after `ones` ones and n - ones zeros. */
function lower(bets, ones, n, alpha) {
  if (ones === 0) return 0;
  const values = [[1, ones], [0, n - ones]];
  const enough = -Math.log(alpha) + SLACK;
  const goal = enough + SLACK;
  let u = Math.log(ones / n);
  let step = goal / n;
  let [now, slope] = capital(values, bets, Math.exp(u));
  while (now < goal) {
    [u, step] = [u - step, 2 * step];
    if (u < -700) return 0;
    [now, slope] = capital(values, bets, Math.exp(u));
  }
  for (let round = 0; round < 60; round++) {
    const move = (now - goal) / -slope;
    const [ahead, aheadSlope] = capital(values, bets, Math.exp(u + move));
    if (ahead < enough) break;
    [u, now, slope] = [u + move, ahead, aheadSlope];
    if (move < 1e-12) break;
  }
  return Math.min(Math.exp(u) * (1 - MARGIN), 1);
}

const size = ({ hits, runner_up, rest }) => hits + runner_up + rest;
const kept = (votes) => [votes.hits, size(votes) - votes.runner_up, size(votes) - votes.rest];

function radiusOf(low, up, sigma) {
  const [left, right] = [ndtri(low), ndtri(up)];
  const radius = (sigma / 2) * (left - right) - 10 * MARGIN * sigma * (1 + Math.abs(left) + Math.abs(right));
  return radius > 0 ? radius : null;
}

/** p_low, p_up and the radius from the numbers of votes. */
export function statement({ selection, votes, noise, alpha }) {
  const n = size(votes);
  if (n > noise.budget) throw new Error(`more votes than the budget of ${noise.budget}`);
  const bounds = SHARES.map((share, at) => {
    const part = alpha * share * (1 - MARGIN);
    const ones = kept(selection)[at];
    const best = bestFraction(ones, size(selection), noise.budget, -Math.log(part));
    const bets = [[best, 0.5], ...FRACTIONS.map((fraction) => [fraction, 0.5 / FRACTIONS.length])];
    return lower(bets, kept(votes)[at], n, part);
  });
  const [low, notRunnerUp, notRest] = bounds;
  const up = Math.min(1 - low, Math.max(1 - notRunnerUp, 1 - notRest) * (1 + MARGIN));
  return { low, up, radius: radiusOf(low, up, noise.sigma) };
}

function stopReason(certificate, radius) {
  const { votes, noise, target } = certificate;
  const certified = (value) => value !== null && value >= target;
  if (target !== null && certified(radius)) return "certified";
  const left = noise.budget - size(votes);
  if (left === 0) return "budget";
  if (target !== null) {
    const unanimous = { ...votes, hits: votes.hits + left };
    if (!certified(statement({ ...certificate, votes: unanimous }).radius)) return "unreachable";
  }
  return "deadline";
}

const atMost = (stated, here) => stated === null || (here !== null && stated <= here * (1 + ROUNDING));

/** What in a certificate of an answer does not follow from its votes, each as text. */
export async function contradictions(certificate) {
  const { answer, images } = certificate;
  const found = [];
  const { low, up, radius: proved } = statement(certificate);
  if (certificate.p_low > low + ROUNDING) found.push(`p_low is ${certificate.p_low}, the votes give ${low}`);
  if (certificate.p_up < up - ROUNDING) found.push(`p_up is ${certificate.p_up}, the votes give ${up}`);
  const radius = answer.canonical === null ? null : proved;
  if (!atMost(certificate.radius, radius)) found.push(`radius is ${certificate.radius}, the votes give ${radius}`);
  for (const [at, one] of images.entries()) {
    const upload = uploadRadius(certificate.radius, one.image);
    const pixels = 3 * one.image.canvas_height * one.image.canvas_width;
    const levels = certificate.radius === null ? null : (certificate.radius / Math.sqrt(pixels)) * 255 * (1 - MARGIN);
    if (!atMost(one.upload_radius, upload) || !atMost(one.levels, levels)) {
      found.push(`images[${at}]: upload_radius and levels do not follow from the radius`);
    }
  }
  const holds = answer.canonical !== null && proved !== null && proved >= (certificate.target ?? 0);
  const outcome = holds ? "certified" : "abstained";
  if (certificate.outcome !== outcome) found.push(`outcome is ${certificate.outcome}, the votes say ${outcome}`);
  const reason = answer.canonical === null ? "unreachable" : stopReason(certificate, proved);
  if (certificate.stop_reason !== reason) found.push(`stop_reason is ${certificate.stop_reason}, the votes say ${reason}`);
  if ((answer.form === "field") !== (answer.pointer !== null)) found.push("form and pointer do not go together");
  if (!digests()) return found;
  const digest = answer.canonical === null ? null : await sha256(new TextEncoder().encode(answer.canonical));
  if (answer.canonical_sha256 !== digest) found.push("canonical_sha256 is not that of the canonical answer");
  return found;
}
