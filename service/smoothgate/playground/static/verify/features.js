// What the numbers of a certificate of features say about each other. The service's own check is
// smoothgate/certify/consistency.py; both are held to the same test vectors.

import { ndtr, ndtri } from "./normal.js";

const MARGIN = 1e-12;
const ROUNDING = 1e-9;

const largest = (values) => values.reduce((most, each) => (each !== null && (most === null || each > most) ? each : most), null);

function meanBound(lower, eps, sigma) {
  const score = lower > 0 ? ndtr(ndtri(lower) - eps / sigma) : 0;
  return Math.max(2 * score - 1 - MARGIN, -1);
}

function meanRadius(lower, cosine, sigma) {
  if (!(cosine > -1 && cosine < 1)) throw new Error("a cosine to certify must lie strictly between -1 and 1");
  if (meanBound(lower, 0, sigma) < cosine) return null;
  return Math.max(sigma * (ndtri(lower) - ndtri((1 + cosine) / 2) - MARGIN) * (1 - MARGIN), 0);
}

/** A radius in the pixels of the uploaded picture, rounded down; null where there is no factor. */
export function uploadRadius(radius, image, version = 2) {
  if (radius === null || image.resize_norm === null) return null;
  if (version === 1) return (radius / image.resize_norm) * (1 - MARGIN);
  if (image.upload_space === null) return null;
  const channels = image.upload_space === "decoded grey" ? 3 : 1;
  return (radius / (image.resize_norm * Math.sqrt(channels))) * (1 - MARGIN);
}

/** The fields that contradict others, each as text that says what they should say. */
export function contradictions(certificate) {
  const found = [...ofBounds(certificate), ...ofRadius(certificate)];
  if (!mayStop(certificate)) found.push(`stop_reason: ${certificate.stop_reason} does not go with target and number of samples`);
  return [...found, ...ofOutcome(certificate)];
}

/** What is wrong with its numbers that a schema cannot say, or null. */
export function disorder({ noise, bounds }) {
  if (noise.n_certify > noise.budget) return "noise.n_certify is above noise.budget";
  if ((noise.degraded_from ?? null) !== null && noise.degraded_from <= noise.budget) return "noise.degraded_from is not above noise.budget";
  return bounds.every((each, at) => each.eps > (at ? bounds[at - 1].eps : 0)) ? null : "the eps of bounds are not positive and ascending";
}

function ofBounds(certificate) {
  const { score_lower: lower, noise: { sigma }, target } = certificate;
  const found = [];
  for (const name of ["bounds", "curve"]) {
    for (const [at, point] of certificate[name].entries()) {
      const where = `${name}[${at}] at ${point.eps}`;
      if (point.fcsb !== Math.max(point.mean, point.layer_cake)) found.push(`${where}: fcsb ${point.fcsb} is not the better of mean and layer_cake`);
      const mean = meanBound(lower, point.eps, sigma);
      if (!(Math.abs(point.mean - mean) <= ROUNDING)) found.push(`${where}: mean ${point.mean}, but score_lower gives ${mean}`);
    }
  }
  if (target !== null && !certificate.bounds.some((bound) => bound.eps === target.eps && bound.fcsb === target.fcsb)) {
    found.push("target.fcsb: not the bound at the target's eps");
  }
  return found;
}

function ofRadius(certificate) {
  const { radius, version, image } = certificate;
  const found = [];
  const mean = meanRadius(certificate.score_lower, radius.cosine_threshold, certificate.noise.sigma);
  if ((radius.mean === null) !== (mean === null) || Math.abs((radius.mean ?? 0) - (mean ?? 0)) > ROUNDING) {
    found.push(`radius.mean: ${radius.mean}, but score_lower gives ${mean}`);
  }
  let byAngle = null;
  if (version === 2) {
    const angular = certificate.angular ?? [];
    byAngle = largest(angular.filter((each) => each.cosine >= radius.cosine_threshold).map((each) => each.radius));
    if ((radius.angular ?? null) !== byAngle) found.push(`radius.angular: ${radius.angular}, but angular gives ${byAngle}`);
    for (const [at, each] of angular.entries()) {
      // Certificates of earlier releases do not state it.
      const here = uploadRadius(each.radius, image);
      if ("upload" in each && each.upload !== here) found.push(`angular[${at}].upload: ${each.upload}, but radius and resize_norm give ${here}`);
    }
  }
  if (radius.value !== largest([radius.mean, radius.layer_cake, byAngle])) {
    found.push(`radius.value: ${radius.value} is not the largest of mean, layer_cake and angular`);
  }
  const upload = uploadRadius(radius.value, image, version);
  if (radius.upload !== upload) found.push(`radius.upload: ${radius.upload}, but value and resize_norm give ${upload}`);
  const served = servedBy(certificate);
  if (certificate.served !== served) found.push(`served: ${certificate.served}, but the numbers say ${served}`);
  return found;
}

function servedBy({ radius, bounds: [first] }) {
  if (radius.value === null) return first.layer_cake > first.mean ? "layer_cake" : "mean";
  if (radius.value === radius.mean) return "mean";
  return radius.value === radius.layer_cake ? "layer_cake" : "angular";
}

function isMet({ target, angular }) {
  if (target === null) return false;
  if (target.fcsb >= target.cosine) return true;
  return (angular ?? []).some((each) => each.cosine >= target.cosine && (each.radius ?? -1) >= target.eps);
}

function mayStop(certificate) {
  const { target, noise, stop_reason: reason } = certificate;
  const met = isMet(certificate);
  const early = !met && noise.n_certify < noise.budget;
  if (reason === "certified") return met;
  if (reason === "budget") return !met && noise.n_certify === noise.budget;
  return reason === "unreachable" ? target !== null && early : early;
}

function ofOutcome(certificate) {
  const { version, chance, target, bounds: [first] } = certificate;
  const reached = (certificate.angular ?? []).filter((each) => each.radius !== null && each.radius >= first.eps);
  const cosine = Math.max(first.fcsb, ...reached.map((each) => each.cosine), -1);
  let outcome = target === null ? "bounded" : isMet(certificate) ? "certified" : "abstained";
  let because = null;
  if (chance === null) [outcome, because] = ["vacuous", "not calibrated"];
  else if (cosine <= Math.max(chance.p95, 0)) [outcome, because] = ["vacuous", "not above chance"];
  if (version === 1) [outcome, because] = [outcome === "bounded" ? "certified" : outcome, undefined];
  const found = [];
  if (certificate.vacuous_because !== because) found.push(`vacuous_because: ${certificate.vacuous_because}, but the bounds say ${because}`);
  if (certificate.outcome !== outcome) found.push(`outcome: ${certificate.outcome}, but the bounds say ${outcome}`);
  return found;
}
