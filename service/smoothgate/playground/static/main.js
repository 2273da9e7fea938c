// Asks the service what it offers, and starts the parts of the page.

import { Refused, get } from "./api.js";
import * as chat from "./chat.js";
import { $ } from "./dom.js";
import * as laboratory from "./laboratory.js";
import * as picture from "./picture.js";
import * as smoothing from "./smoothing.js";
import * as status from "./status.js";

async function start() {
  const about = await get("/v1/playground");
  $("model").textContent = about.model;
  picture.start(about, chat.offer);
  smoothing.start(about);
  chat.start(about);
  if (about.laboratory) laboratory.start(about.laboratory);
  status.start(about);
  document.body.dataset.started = "true";
}

start().catch((error) => {
  if (!(error instanceof Refused)) throw error;
  $("banner").hidden = false;
  $("banner").textContent = `${error.message} Reload the page to try again.`;
});
