// The picture: drawn, opened, dropped, pasted or a sample, and available as a data URI.

import { $, make } from "./dom.js";

const COLOURS = {
  white: "#f2f2f2", black: "#0d0d0d", red: "#d91a1a", green: "#1aa626", blue: "#1f33d9",
  yellow: "#f2e01a", purple: "#9e1ab3", cyan: "#1accdf",
};
const BRUSH = 22;
const STRIDE = 12;
const SLOWEST = 20_000; // Milliseconds that a sample may take to arrive.
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const canvas = $("canvas");
const context = canvas.getContext("2d");
let opened = null; // The data URI of an opened file. Its bytes are sent unchanged.
let largest = Infinity;
let blank = true;
let hint = ""; // What a blank board invites to.
let changed = () => {};
let taking = Promise.resolve(); // Settles once the picture that was chosen last is there.

/** The picture as a data URI, once the one that was chosen last is there, or null if there is none. */
export async function current() {
  await taking;
  return opened ?? (blank ? null : canvas.toDataURL("image/png"));
}

export function start(about, onChange) {
  changed = onChange;
  largest = about.max_image_bytes;
  hint = about.hint;
  for (const [select, chosen] of [[$("ink"), "white"], [$("paper"), "blue"]]) {
    select.append(...Object.keys(COLOURS).map((name) => new Option(name, name, false, name === chosen)));
  }
  for (const name of about.samples) {
    const button = make("button", { type: "button", title: name, "aria-label": `Sample: ${name}` },
      make("img", { src: sourceOf(name), alt: "", width: 48, height: 48 }));
    button.addEventListener("click", () => sample(name));
    $("samples").append(button);
  }
  $("paper").addEventListener("change", clear);
  $("clear").addEventListener("click", clear);
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) take($("file").files[0]);
    $("file").value = "";
  });
  const board = $("board");
  board.addEventListener("dragover", (event) => { event.preventDefault(); board.classList.add("over"); });
  board.addEventListener("dragleave", () => board.classList.remove("over"));
  board.addEventListener("drop", (event) => {
    event.preventDefault();
    board.classList.remove("over");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((each) => each.type.startsWith("image/"));
    if (file) take(file);
  });
  listen();
  listenToKeys();
  clear();
}

const sourceOf = (name) => `/playground/samples/${name}.png`;

/** Take a bundled sample as the picture. Resolves to whether it is there. */
export const sample = (name) => take(fetch(sourceOf(name), { signal: AbortSignal.timeout(SLOWEST) }).then((found) => found.blob()));

/** Take a file, or the promise of one, as the picture. Of two that are chosen, the later one stays. */
function take(blob) {
  const taken = taking.then(async () => open(await blob)).catch(() => failed("That picture cannot be read."));
  taking = taken;
  return taken;
}

function failed(why) {
  say(why);
  return false;
}

function clear() {
  opened = null;
  blank = true;
  context.fillStyle = COLOURS[$("paper").value];
  context.fillRect(0, 0, canvas.width, canvas.height);
  say(hint);
  changed();
}

function say(text) {
  $("board-hint").textContent = text;
  $("board-hint").hidden = !text;
}

async function open(blob) {
  if (blob.size > largest) return failed(`That file is larger than ${Math.floor(largest / 2 ** 20)} MiB.`);
  const uri = await new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.readAsDataURL(blob);
  });
  const image = new Image();
  image.src = uri;
  try {
    await image.decode();
  } catch {
    return failed("That is no image that this browser can show.");
  }
  clear();
  const scale = Math.min(canvas.width / image.width, canvas.height / image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  context.imageSmoothingEnabled = scale < 1;
  context.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  opened = uri;
  blank = false;
  say("");
  changed();
  return true;
}

function listen() {
  let last = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (opened) clear();
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    stroke(last, last);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = place(event);
    stroke(last, next);
    last = next;
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => {
      if (last) changed();
      last = null;
    });
  }
}

/** Control the brush by keyboard: arrows move it, the space bar puts it down and lifts it. */
function listenToKeys() {
  const brush = $("brush");
  let at = [canvas.width / 2, canvas.height / 2];
  const mark = (isDown) => {
    brush.hidden = false;
    brush.className = isDown ? "brush down" : "brush";
    [brush.style.left, brush.style.top] = [`${100 * at[0] / canvas.width}%`, `${100 * at[1] / canvas.height}%`];
  };
  const isDown = () => brush.classList.contains("down");
  canvas.addEventListener("keydown", (event) => {
    const way = WAYS[event.key];
    if (!way && event.key !== " ") return;
    event.preventDefault();
    if (!way && isDown()) changed();
    else if (!way) {
      if (opened) clear();
      stroke(at, at);
    } else {
      const next = at.map((value, axis) => Math.min(canvas.width, Math.max(0, value + STRIDE * way[axis])));
      if (isDown()) stroke(at, next);
      at = next;
    }
    mark(way ? isDown() : !isDown());
  });
  canvas.addEventListener("blur", () => {
    if (isDown()) changed();
    brush.className = "brush";
    brush.hidden = true;
  });
}

function stroke(from, to) {
  blank = false;
  say("");
  context.strokeStyle = COLOURS[$("ink").value];
  context.lineWidth = BRUSH;
  context.lineCap = "round";
  context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}
