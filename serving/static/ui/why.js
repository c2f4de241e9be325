// Why an answer: maps over the image, which show on hover, on focus, and for as long as they are pressed.

import { byId, fillSelect, make, plural } from "./elements.js";
import { ask } from "./server.js";

const SIDE = 512; // pixels of the longer side of the drawing
const COLORS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"].map((color) =>
  [0, 2, 4].map((start) => parseInt(color.slice(start, start + 2), 16)),
);
const OPACITY = [0.25, 0.75]; // of the smallest and of the largest value

let info = null;
let shown = null; // the item whose answer is explained
let request = new AbortController();
let maps = []; // { name, method, values, … } of the shown item
let pressed = null; // the map that stays

/** Says what the model can explain. */
export function offerWhy(given) {
  info = given;
}

/** Offers to explain the answer of an item; another item closes what was open. */
export function showWhy(item) {
  const answer = item?.answer;
  byId("why").hidden = !answer || !info?.explanations?.length;
  if (shown?.item === item && shown?.answer === answer) return;
  shown = { item, answer };
  close();
  fillSelect(byId("why-label"), (answer?.predictions ?? []).map(({ label }) => [label, label]), answer?.predictions[0]?.label);
}

function close() {
  request.abort();
  maps = [];
  pressed = null;
  byId("why-open").setAttribute("aria-expanded", "false");
  byId("why-panel").hidden = true;
  draw(null);
}

function open() {
  byId("why-open").setAttribute("aria-expanded", "true");
  byId("why-panel").hidden = false;
  byId("why-layer-label").hidden = true;
  byId("why-maps").replaceChildren();
  load(info.explanations);
}

/** Asks for the maps of some methods, and shows each when it is there. */
async function load(methods) {
  request.abort();
  const { signal } = (request = new AbortController());
  maps = maps.filter(({ method }) => !methods.includes(method));
  byId("why-note").textContent = "Asking the model …";
  try {
    for (const method of methods) {
      const answer = await explain(method, signal);
      maps.push(...answer.maps.map((map) => ({ ...map, ...answer, name: title(map.name, answer) })));
      maps.sort((a, b) => info.explanations.indexOf(a.method) - info.explanations.indexOf(b.method));
      offerLayers(answer);
      showButtons();
      press(maps.find(({ name }) => name === pressed) ?? maps[0]);
    }
  } catch (error) {
    if (error.name !== "AbortError") byId("why-note").textContent = error.message;
  }
}

async function explain(method, signal) {
  const query = new URLSearchParams({ method });
  if (method === "masking") query.set("label", byId("why-label").value);
  else if (byId("why-layer").value) query.set("layer", byId("why-layer").value);
  const body = new FormData();
  body.append("image", shown.item.file);
  const onWait = (seconds) => (byId("why-note").textContent = `The server is busy; trying again in ${plural(seconds, "second")} …`);
  const response = await ask(`explain?${query}`, { method: "POST", body, signal, onWait });
  return response.json();
}

const title = (name, { method, label }) => (method === "masking" ? `What speaks for “${label}”` : name[0].toUpperCase() + name.slice(1));

function offerLayers({ layer }) {
  if (!layer || !byId("why-layer-label").hidden) return;
  byId("why-layer-label").hidden = false; // the first answer is of the last layer
  fillSelect(byId("why-layer"), Array.from({ length: layer }, (_, index) => [index + 1, index + 1]), layer);
}

function showButtons() {
  const focused = document.activeElement.closest("#why-maps button")?.textContent;
  byId("why-maps").replaceChildren(
    ...maps.map((map) => {
      const button = make("button", { type: "button", textContent: map.name });
      button.addEventListener("click", () => press(map));
      for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => draw(map));
      for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => draw(maps.find(({ name }) => name === pressed)));
      return button;
    }),
  );
  [...byId("why-maps").children].find(({ textContent }) => textContent === focused)?.focus();
}

function press(map) {
  pressed = map.name;
  for (const button of byId("why-maps").children) button.setAttribute("aria-pressed", button.textContent === pressed);
  draw(map);
}

function describe({ method, label, values, masks, layer }) {
  const [low, high] = range(values);
  if (method !== "masking") {
    const spread = `from ${low.toFixed(1)} (dark) to ${high.toFixed(1)} times (yellow) an even spread`;
    return `Attention of layer ${layer}, ${spread}. It is the same for every class, and shows where the model looks, not what decides.`;
  }
  if (high <= 0) return `Showing no place makes “${label}” more likely.`;
  return `Yellow: “${label}” is ${Math.round(100 * high)} points more likely where this is shown than where it is hidden, over ${masks} masks.`;
}

function range(values) {
  const all = values.flat();
  return [Math.min(...all), Math.max(...all)];
}

/** Draws a map over the image as the network gets it, and says what it shows; nothing for no map. */
function draw(map) {
  const canvas = byId("overlay");
  canvas.hidden = !map;
  if (!map) return;
  byId("why-note").textContent = describe(map);
  const [height, width] = map.size;
  const scale = SIDE / Math.max(height, width);
  Object.assign(canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
  canvas.setAttribute("aria-label", `${map.name}, over the image`);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  drawImage(context, canvas);
  context.drawImage(color(map), 0, 0, canvas.width, canvas.height);
}

/** The image in grey, brought to the canvas as the server brings it to the network's size. */
function drawImage(context, { width, height }) {
  const image = byId("preview");
  if (image.hidden || !image.naturalWidth) return;
  const { resize_mode: mode, crop_pct: share } = info.preprocess;
  const ratios = [image.naturalWidth / width, image.naturalHeight / height];
  const scale = mode === "crop" ? share * Math.min(...ratios) : Math.max(...ratios);
  const [w, h] = mode === "squash" ? [image.naturalWidth, image.naturalHeight] : [width * scale, height * scale];
  context.filter = "grayscale(1)";
  context.drawImage(image, (image.naturalWidth - w) / 2, (image.naturalHeight - h) / 2, w, h, 0, 0, width, height);
  context.filter = "none";
}

/** A small canvas with a pixel for each value. */
function color({ values, method }) {
  const [smallest, high] = range(values);
  const low = method === "masking" ? 0 : smallest;
  const canvas = Object.assign(document.createElement("canvas"), { width: values[0].length, height: values.length });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  values.flat().forEach((value, index) => {
    const part = high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : 0;
    const place = part * (COLORS.length - 1);
    const [from, to] = [COLORS[Math.floor(place)], COLORS[Math.ceil(place)]];
    const mixed = from.map((channel, position) => channel + (to[position] - channel) * (place % 1));
    pixels.data.set([...mixed, 255 * (OPACITY[0] + (OPACITY[1] - OPACITY[0]) * part)], 4 * index);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

byId("why-open").addEventListener("click", () => (byId("why-panel").hidden ? open() : close()));
byId("why-label").addEventListener("input", () => {
  pressed = null; // the new class's map is shown
  load(["masking"]);
});
byId("why-layer").addEventListener("input", () => load(info.explanations.filter((method) => method !== "masking")));
byId("preview").addEventListener("load", () => draw(maps.find(({ name }) => name === pressed)));
