// Asks the service what it offers, and starts the parts of the page.

import { Refused, get } from "./api.js";
import * as asking from "./asking.js";
import { $ } from "./dom.js";
import * as laboratory from "./laboratory.js";
import * as picture from "./picture.js";
import * as smoothing from "./smoothing.js";
import * as status from "./status.js";

async function start() {
  const about = await get("/v1/playground");
  $("model").textContent = about.model;
  $("version").textContent = about.version;
  picture.start(about, () => { asking.clear(); laboratory.clear(); });
  smoothing.start(about);
  asking.start(about);
  if (about.laboratory) laboratory.start(about.laboratory);
  status.start(about, asking.forgive);
  document.body.dataset.started = "true";
  // Where keys count requests, nothing is asked unless the user asks.
  if (about.first_sample && !about.keys) {
    if (await picture.sample(about.first_sample)) await asking.ask(about.questions[0]);
  }
}

start().catch((error) => {
  if (!(error instanceof Refused)) throw error;
  $("banner").hidden = false;
  $("banner").textContent = `${error.message} Reload the page to try again.`;
});
