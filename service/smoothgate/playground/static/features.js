// Shows the certificate of a picture's features: asked for only when it is opened.

import { Refused, post } from "./api.js";
import { LEGEND, boundChart, scoreChart } from "./charts.js";
import { signedDocument } from "./document.js";
import { make, number } from "./dom.js";

const MEANING = {
  certified: "The features keep the cosine that was asked for, within the distance that was asked for.",
  bounded: "The bound lies above what unrelated pictures have. No target was asked for.",
  abstained: "The bound says something, but less than was asked for.",
  vacuous: "Nothing is known to be proved.",
};
const VACUOUS = {
  "not calibrated": "What unrelated pictures have was not measured with this noise.",
  "not above chance": "The bound is not above what unrelated pictures have.",
};

/** A folded part that certifies the features of a picture when it is opened. */
export function foldedFeatures(image, sigma) {
  const body = make("div", {}, make("p", { className: "hint" }, "The features are certified …"));
  const folded = make("details", { className: "settings", id: "features" },
    make("summary", {}, "The certificate of the picture's features"), body);
  folded.addEventListener("toggle", async () => {
    try {
      body.replaceChildren(...await shown(image, { sigma }));
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      body.replaceChildren(make("p", { className: "refusal" }, error.message));
    }
  }, { once: true });
  return folded;
}

async function shown(image, smoothing) {
  const { certificates: [certificate] } = await post("/v1/certify", { images: [image], smoothing: { certify: "features", ...smoothing } });
  const { pictures: [seen] } = await post("/v1/playground/look", { images: [image], smoothing: { certify: "features", ...smoothing } });
  return [
    make("p", {}, sentence(certificate)),
    make("p", { className: "hint" }, [`Outcome: ${certificate.outcome}${certificate.cached ? ", cached" : ""}.`, MEANING[certificate.outcome], VACUOUS[certificate.vacuous_because],
      certificate.cached ? "The same picture was certified on the same terms before: this is that result again." : null].filter(Boolean).join(" ")),
    make("figure", {}, boundChart(certificate), legend(), table(certificate)),
    facts(certificate),
    coverage(certificate, image),
    make("div", { className: "samples-seen" }, ...samples(certificate, seen)),
    signedDocument(certificate, "features"),
  ];
}

/** The cosine that is certified at the eps of a bound, by the bound or by the angle. */
function cosineAt(c, bound) {
  const reached = c.angular.filter((each) => each.radius !== null && each.radius >= bound.eps);
  return Math.max(bound.fcsb, ...reached.map((each) => each.cosine));
}

function sentence(c) {
  const best = c.bounds.find((each) => each.eps >= 0.5 && cosineAt(c, each) > 0) ?? c.bounds[0];
  const confidence = Number((100 * (1 - c.alpha)).toFixed(3));
  const cosine = cosineAt(c, best);
  if (cosine <= 0) return `Not even at a distance of ${best.eps} is a cosine above 0 proved.`;
  return `With ${confidence} % confidence, the smoothed features of any picture within ${best.eps} of this one (l2, at the encoder's input) have a cosine `
    + `of at least ${cosine.toFixed(2)} with those that the language model got. Nothing is proved about the answer.`;
}

function legend() {
  return make("figcaption", { className: "legend" },
    ...LEGEND.map(([name, words]) => make("span", {}, make("i", { className: `key ${name}` }), words)));
}

function table(c) {
  const rows = c.bounds.map((b) => make("tr", {},
    ...[b.eps, b.layer_cake, b.mean].map((value) => make("td", {}, number(value, value === b.eps ? 2 : 3)))));
  return make("table", { className: "bounds" },
    make("thead", {}, make("tr", {}, ...["eps", "layer-cake", "mean"].map((each) => make("th", { scope: "col" }, each)))),
    make("tbody", {}, ...rows));
}

function facts(c) {
  const items = [
    ["Certified radius", `${number(c.radius.value)} for a cosine of ${c.radius.cosine_threshold}`],
    ["Noise", `sigma ${c.noise.sigma}, ${c.noise.n_select} noisy copies chose the direction, ${c.noise.n_certify} others were counted`],
    ["Score", `${number(c.score_estimate, 4)}, proved ${number(c.score_lower, 4)}`],
    ["Unrelated pictures", c.chance === null ? "not measured with this noise" : `cosine ${number(c.chance.mean)}, 95 % below ${number(c.chance.p95)}`],
  ];
  return make("dl", { className: "facts" }, ...items.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

/** Show how large a change of the sent picture's pixels the radius covers. */
function coverage(c, picture) {
  const radius = c.radius.upload;
  const { width, height } = c.image;
  const heading = make("h3", {}, "How large a change is covered");
  if (radius === null) {
    return make("div", {}, heading, make("p", {}, c.radius.value === null
      ? "None: not even the picture itself has a proved cosine above the threshold."
      : `That is known at the encoder's input alone${c.image.upload_reason === null ? "" : `: ${c.image.upload_reason}`}.`));
  }
  const channels = c.image.upload_space === "decoded grey" ? 1 : 3;
  const repainted = radius ** 2 / channels;
  const everywhere = radius / Math.sqrt(channels * width * height) * 255;
  const overlay = make("canvas", { width: 144, height: 144, role: "img",
    "aria-label": `The picture with a square of ${repainted.toFixed(1)} pixels on it` });
  const image = new Image();
  image.addEventListener("load", () => {
    const context = overlay.getContext("2d");
    const scale = Math.min(144 / image.width, 144 / image.height);
    context.drawImage(image, (144 - image.width * scale) / 2, (144 - image.height * scale) / 2, image.width * scale, image.height * scale);
    const side = Math.sqrt(repainted) * scale;
    context.fillStyle = "#ff2fb3";
    context.fillRect(72 - side / 2, 72 - side / 2, side, side);
    // A circle makes a square of few pixels easy to find.
    context.strokeStyle = "#ff2fb3";
    context.lineWidth = 2;
    context.beginPath();
    context.arc(72, 72, side + 9, 0, 2 * Math.PI);
    context.stroke();
  });
  image.src = picture;
  return make("div", {}, heading,
    make("div", { className: "coverage" }, overlay,
      make("p", {}, `Radius ${radius.toFixed(2)} in the ${width} × ${height} pixels that you sent. That is any `
        + `${repainted.toFixed(1)} pixels turned from black to white (the pink square in the ring, to scale), or every pixel moved by `
        + `${everywhere.toFixed(1)} of 255 levels, or anything else of that l2 size.`)));
}

function samples(certificate, seen) {
  const views = [["as the encoder gets it", seen.canvas], [`with noise, sigma ${certificate.noise.sigma}`, seen.noisy], ["purified", seen.purified]];
  return [
    make("h3", {}, "One of the noisy copies"),
    make("div", { className: "views" }, ...views.filter(([, uri]) => uri).map(([words, uri]) =>
      make("figure", {}, make("img", { src: uri, alt: `The picture ${words}`, className: "pixels" }), make("figcaption", {}, words)))),
    make("h3", {}, "How the copies scored"),
    make("p", { className: "hint" }, seen.seed === certificate.noise.seed
      ? "A score of 1: exactly the served direction; 0.5: unrelated. These are the samples of this certificate."
      : "A score of 1: exactly the served direction; 0.5: unrelated. Drawn again, with other noise than the certificate's."),
    scoreChart(seen.scores, certificate.score_lower),
  ];
}
