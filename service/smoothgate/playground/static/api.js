// Requests to the service: the API key, errors and server-sent events.

import { $ } from "./dom.js";

const KEY = "smoothgate-key";

export class Refused extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

async function send(path, options, signal) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  try {
    return await fetch(path, { ...options, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The service cannot be reached.", 0, "unreachable");
  }
}

async function checked(path, options = {}, signal = undefined) {
  let response = await send(path, options, signal);
  if (response.status === 401 && (await askForKey())) response = await send(path, options, signal);
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const error = body.error ?? { message: `The service answered ${response.status}.` };
  throw new Refused(error.message, response.status, error.code);
}

let asking = null;

/** Ask the user for a key. Resolves to whether one was given. Requests refused at the same time share one question. */
function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    dialog.returnValue = "cancel";
    dialog.addEventListener(
      "close",
      () => {
        const key = $("key").value.trim();
        $("key").value = "";
        asking = null;
        const given = dialog.returnValue === "ok" && key !== "";
        if (given) sessionStorage.setItem(KEY, key);
        resolve(given);
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

const json = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

export const get = async (path) => (await checked(path)).json();
export const post = async (path, body, signal) => (await checked(path, json(body), signal)).json();

/** Get a page without asking for a key, for information that is shown only if it is accessible. */
export async function glance(path) {
  const response = await send(path, {});
  return { status: response.status, text: await response.text() };
}

/** The events of a stream. Throws for an error frame and for an end without `[DONE]`. */
export async function* events(path, body, signal) {
  const response = await checked(path, json(body), signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      break;
    }
    if (read.done) break;
    rest += read.value;
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const data = rest.slice(0, end).replace(/^data: /, "");
      rest = rest.slice(end + 2);
      if (data.startsWith(":")) continue; // a comment
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(event.error.message, 200, event.error.code);
      yield event;
    }
  }
  throw new Refused("The answer broke off.", 0, "broken_off");
}
