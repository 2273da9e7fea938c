// Shows a certified answer: its radius, the votes, the curve behind the radius, and the certificate.

import { voteBars, voteChart } from "./charts.js";
import { signedDocument } from "./document.js";
import { make, number } from "./dom.js";
import { foldedFeatures } from "./features.js";

const STOPPED = {
  certified: "The radius was certified.",
  unreachable: "The radius was out of reach.",
  budget: "All noisy copies were used.",
  deadline: "The time was up.",
};

const bars = (votes, text) => make("figure", { className: "votes" }, voteBars(votes),
  make("figcaption", {}, text));

/** The votes while they come. */
export function voting(question, votes) {
  return make("div", {},
    make("p", { className: "hint" }, `“${question}”`),
    bars(votes, `${votes.counted} of at most ${votes.budget} noisy copies have answered.`));
}

/**
 * Nodes that show an answer.
 *
 * @param found what `asking.certified` returns.
 * @param image the picture as a data URI.
 * @param known whether the picture is like those that the model was trained on.
 */
export function shown(question, found, image, known) {
  const c = found.certificate;
  const counted = c.votes.hits + c.votes.runner_up + c.votes.rest;
  return [
    make("p", { className: "hint" }, `“${question}”`),
    make("p", { className: "answer" }, found.text),
    known ? null : caution(),
    make("p", { className: "radius", id: "radius" }, headline(c)),
    make("p", { className: "hint" }, units(c)),
    found.votes === null ? null : bars(found.votes, `What ${counted} noisy copies answered, in ${found.seconds.toFixed(1)} s. `
      + `${STOPPED[c.stop_reason]}`),
    c.radius === null ? null : make("figure", {}, voteChart(c), make("figcaption", {},
      "What is proved of a picture that is that far away: how many of its noisy copies give this answer, and how many any other answer.")),
    make("details", { className: "settings" }, make("summary", {}, "What was counted"), facts(c)),
    make("details", { className: "settings" }, make("summary", {}, "The signed certificate of the answer"), signedDocument(c, "answer")),
    foldedFeatures(image, c.noise.sigma),
  ].filter(Boolean);
}

/** Says that a picture is of another kind. */
export const caution = () => make("p", { className: "caution" }, "This picture is unlike those that the model was trained on. "
  + "Its answer means little, however large the radius is.");

function headline(c) {
  if (c.radius === null) return "Nothing is proved: too few noisy copies give this answer.";
  if (c.outcome === "certified") return `No change of up to ${size(c)}, turns this answer.`;
  return `A radius of ${number(c.target)} was asked for and is not proved. Changes of up to ${size(c)}, do not turn this answer.`;
}

/** The radius as pixels from black to white, and as levels of all pixels: of the sent picture, or of the encoder's input. */
function size({ radius, images: [{ image, levels, upload_radius: upload }] }) {
  if (upload === null) return `${rounded(radius ** 2 / 3)} pixels of the encoder's input, or ${rounded(levels)} of 255 levels everywhere`;
  const channels = image.upload_space === "decoded grey" ? 1 : 3;
  return `${rounded(upload ** 2 / channels)} pixels, or ${rounded(upload / Math.sqrt(channels * image.width * image.height) * 255)} of 255 levels everywhere`;
}

/** Two digits, rounded down: a radius is never overstated. */
export const floor = (radius) => (Math.floor(radius * 100) / 100).toFixed(2);

/** Two significant digits, rounded down; none behind the point from 10 on. */
function rounded(value) {
  const digits = Math.max(0, 1 - Math.floor(Math.log10(value)));
  return (Math.floor(value * 10 ** digits) / 10 ** digits).toFixed(digits);
}

function units(c) {
  const confidence = Number((100 * (1 - c.alpha)).toFixed(3));
  const says = "It is about the answer that most noisy copies give. Whether that answer is right is another question.";
  if (c.radius === null) return says;
  const [{ image, upload_radius: upload }] = c.images;
  const uploaded = upload === null ? "" : `, and ${floor(upload)} in the ${image.width} × ${image.height} pixels that you sent`;
  return `A pixel here goes from black to white. Any other change of the same l2 size is covered too: ${floor(c.radius)} at the encoder's `
    + `${image.canvas_width} × ${image.canvas_height}, with pixels from 0 to 1${uploaded}. With ${confidence} % confidence. ${says}`;
}

function facts(c) {
  const chosen = c.selection.hits + c.selection.runner_up + c.selection.rest;
  const counted = c.votes.hits + c.votes.runner_up + c.votes.rest;
  const items = [
    ["Answer", c.answer.canonical ?? "not of the form that was asked for"],
    ["Chosen by", `${c.selection.hits} of ${chosen} noisy copies`],
    ["Counted after that", `${c.votes.hits} of ${counted} other noisy copies`],
    ["Proved of all noisy copies", `at least ${percent(c.p_low)} this answer, at most ${percent(c.p_up)} any other`],
    ["Noise", `sigma ${c.noise.sigma}`],
  ];
  return make("dl", { className: "facts" }, ...items.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
