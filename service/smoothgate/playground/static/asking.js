// One question about one picture, to the model without Smoothgate and with it.

import { Refused, events, post } from "./api.js";
import * as answer from "./answer.js";
import { $, make } from "./dom.js";
import * as picture from "./picture.js";
import * as smoothing from "./smoothing.js";

const EMPTY = "Ask about the picture, and the answer appears here.";
const LONGEST = 120;

let hasUndefended = false; // Whether the model can be asked without Smoothgate.
let knowsLikeness = false; // Whether the service can tell a picture of another kind.
let running = null;
let failed = false;

export function start(about) {
  hasUndefended = about.laboratory !== null;
  knowsLikeness = about.likeness;
  $("without").hidden = !hasUndefended;
  $("columns").classList.toggle("one", !hasUndefended);
  for (const question of about.questions) {
    const chip = make("button", { type: "button", className: "chip" }, question);
    chip.addEventListener("click", () => ask(question));
    $("chips").append(chip);
  }
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask($("question").value.trim());
  });
  $("stop").addEventListener("click", () => running?.abort());
  clear();
}

/** Forget what was said about another picture. */
export function clear() {
  running?.abort();
  running = null;
  failed = false;
  busy(false);
  $("outcome").hidden = true;
  for (const side of ["without-body", "with-body"]) $(side).replaceChildren(make("p", { className: "empty" }, EMPTY));
}

/** Forget a failure once the service is well again. */
export function forgive() {
  if (failed) clear();
}

export async function ask(question) {
  if (!question) return;
  clear();
  const image = await picture.current();
  running?.abort(); // Another question may have waited for the picture too.
  if (!image) {
    $("with-body").replaceChildren(refusal("Draw or choose a picture first."));
    return;
  }
  $("question").value = question;
  const mine = running = new AbortController();
  busy(true);
  const asked = smoothing.options();
  $("with-body").replaceChildren(make("p", { className: "empty" }, "Noise is added to the picture …"));
  try {
    const outcomes = await Promise.allSettled([
      hasUndefended ? shownWithout(question, image, mine) : null,
      shownWith(question, image, asked, mine),
    ]);
    const wrong = outcomes.find((each) => each.status === "rejected");
    if (wrong) throw wrong.reason;
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    if (running === mine) $("with-body").replaceChildren(make("p", { className: "empty" }, "Stopped."));
  } finally {
    if (running === mine) {
      running = null;
      busy(false);
    }
  }
}

async function shownWithout(question, image, mine) {
  $("without-body").replaceChildren(make("p", { className: "empty" }, "thinking …"));
  try {
    const said = await undefended(question, image, mine.signal);
    if (running !== mine) return;
    $("without-body").replaceChildren(
      make("p", { className: "hint" }, `“${question}”`),
      make("p", { className: "answer" }, said),
      make("p", { className: "hint" }, "One look at the picture as it is. Nothing is proved: a small change of the picture may turn this answer."),
    );
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (running !== mine) return;
    failed = true;
    $("without-body").replaceChildren(refusal(error.message));
  }
}

async function shownWith(question, image, asked, mine) {
  try {
    const [known, found] = await Promise.all([
      isKnown(image, mine.signal),
      certified(question, image, asked, mine.signal, (votes) => {
        if (running === mine) $("with-body").replaceChildren(answer.voting(question, votes));
      }),
    ]);
    if (running !== mine) return;
    const badge = $("outcome");
    [badge.hidden, badge.textContent, badge.className] = [false, found.certificate.outcome, `badge ${known ? found.certificate.outcome : "unknown"}`];
    $("with-body").replaceChildren(...answer.shown(question, found, image, known));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (running !== mine) return;
    failed = true;
    const badge = $("outcome");
    [badge.hidden, badge.textContent, badge.className] = [false, "refused", "badge abstained"];
    $("with-body").replaceChildren(refusal(error.message));
  }
}

/** The answer of the model without Smoothgate. */
export async function undefended(question, image, signal) {
  return (await post("/v1/playground/undefended", { image, message: question }, signal)).answer;
}

/** Whether a picture is like those that the model was trained on, as far as the service can tell. */
export async function isKnown(image, signal) {
  return !knowsLikeness || (await post("/v1/playground/likeness", { image }, signal)).known;
}

/**
 * The certified answer.
 *
 * @param progress called with the votes so far.
 * @returns the text, its certificate, the votes by answer, and the seconds that it took.
 */
export async function certified(question, image, asked, signal, progress = () => {}) {
  const body = { message: question, images: [image], smoothing: asked, stream: true, temperature: 0, max_tokens: LONGEST };
  const found = { text: "", certificate: null, votes: null, seconds: null };
  for await (const event of events("/v1/chat", body, signal)) {
    if (event.votes) progress(found.votes = event.votes);
    if (event.delta) found.text += event.delta;
    if (event.answer_certificate) found.certificate = event.answer_certificate;
    if (event.timings) found.seconds = event.timings.total;
  }
  return found;
}

const refusal = (message) => make("p", { className: "refusal" }, message);

function busy(on) {
  $("send").hidden = on;
  $("stop").hidden = !on;
  for (const chip of $("chips").children) chip.disabled = on;
}
