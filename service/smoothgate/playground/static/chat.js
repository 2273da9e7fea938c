// The conversation: several streamed turns, and the certificate of each picture.

import { Refused, events } from "./api.js";
import * as certificate from "./certificate.js";
import { $, make } from "./dom.js";
import * as picture from "./picture.js";
import * as smoothing from "./smoothing.js";

let history = [];
let pictures = [];
let certified = null; // The picture that was sent last.
let running = null;

export function start(about) {
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
  $("new-chat").addEventListener("click", () => {
    running?.abort();
    [history, pictures, certified] = [[], [], null];
    $("log").replaceChildren(make("p", { className: "empty" }, "A new conversation."));
    $("send-picture").checked = true;
  });
}

/** Offer to send the picture if it has changed since it was last sent. */
export function offer() {
  $("send-picture").checked = picture.current() !== certified;
}

async function ask(message) {
  if (!message || running) return;
  const image = $("send-picture").checked ? picture.current() : null;
  if ($("send-picture").checked && !image) {
    say("note bad", "Draw or choose a picture first, or untick “send the picture along”.");
    return;
  }
  $("question").value = "";
  $("log").querySelector(".empty")?.remove();
  const mine = say("mine", message);
  if (image) mine.prepend(make("img", { src: image, alt: "The picture sent", className: "sent" }));
  const answer = say("theirs", "");
  const note = make("small", {}, image ? "smoothing the picture …" : "thinking …");
  const words = make("span");
  answer.append(words, note);
  running = new AbortController();
  busy(true);
  const asked = smoothing.options();
  const sent = image ? [...pictures, image] : pictures;
  try {
    let text = "";
    const body = { message, images: image ? [image] : [], history, smoothing: asked, stream: true, temperature: 0, max_tokens: 120 };
    for await (const event of events("/v1/chat", body, running.signal)) {
      if (event.delta) {
        text += event.delta;
        words.textContent = text;
        note.textContent = sent.length ? "certifying …" : "";
      }
      if (event.certificates?.length) certificate.show(event.certificates, sent, asked);
      if (event.timings) note.textContent = timed(event.timings, sent.length);
      $("log").scrollTop = $("log").scrollHeight;
    }
    const parts = image ? [{ type: "image_url", image_url: { url: image } }] : [];
    history = [...history, { role: "user", content: [...parts, { type: "text", text: message }] }, { role: "assistant", content: text }];
    pictures = sent;
    if (image) certified = image;
    $("send-picture").checked = false;
  } catch (error) {
    if (error.name === "AbortError") note.textContent = "stopped";
    else if (error instanceof Refused) {
      answer.className = "message note bad";
      note.textContent = error.message;
    } else throw error;
  } finally {
    running = null;
    busy(false);
  }
}

function timed(timings, many) {
  const total = `${timings.total.toFixed(1)} s`;
  return many ? `${total}: smoothed ${timings.select.toFixed(1)} s, proved ${timings.certify.toFixed(1)} s` : total;
}

function say(kind, text) {
  const message = make("div", { className: `message ${kind}` }, text);
  $("log").append(message);
  $("log").scrollTop = $("log").scrollHeight;
  return message;
}

function busy(on) {
  $("send").hidden = on;
  $("stop").hidden = !on;
  for (const chip of $("chips").children) chip.disabled = on;
}
