// One image's answer: the image, a bar for each class, how sure the model is, and where the time went.

import { best } from "./answers.js";
import { byId, make, milliseconds, percent } from "./elements.js";
import { showWhy } from "./why.js";

const STEPS = [
  ["decode", "Decoding"],
  ["wait", "Waiting"],
  ["engine", "Engine"],
  ["rest", "Network and the rest"],
];

let shown = null; // whose file the preview shows

byId("preview").addEventListener("error", () => showPlaceholder());

/** Shows an image and what is known of it. */
export function showResult(item, topK, coverage) {
  byId("result").hidden = !item;
  showWhy(item);
  if (!item) return release();
  if (shown !== item) showImage(item);
  if (item.thumbnail === null) showPlaceholder(); // a broken image may raise no event
  byId("file-name").textContent = [item.name, item.thumbnail?.size.join(" × ")].filter(Boolean).join(" · ");
  byId("result").classList.toggle("failed", Boolean(item.error));
  showTitle(item);
  showCertainty(item.answer, coverage);
  showBars(item.answer?.predictions.slice(0, topK) ?? []);
  showTimes(item.times);
}

function showImage(item) {
  release();
  shown = item;
  byId("preview").hidden = false;
  byId("no-preview").hidden = true;
  byId("preview").src = URL.createObjectURL(item.file);
  byId("preview").alt = item.name;
}

function release() {
  URL.revokeObjectURL(byId("preview").src);
  shown = null;
}

function showPlaceholder() {
  if (!shown) return;
  const what = /\.(tiff?|hei[cf]|avif)$/i.test(shown.name) ? `${shown.name.split(".").pop().toUpperCase()} files` : "this file";
  byId("preview").hidden = true;
  byId("no-preview").hidden = false;
  byId("no-preview").textContent = `Your browser cannot show ${what}${shown.answer ? ", but the server has read it" : ""}.`;
}

function showTitle(item) {
  const title = byId("result-title");
  const first = best(item);
  if (first) title.replaceChildren(first.label, " ", make("span", { className: "score", textContent: percent(first.score) }));
  else title.textContent = item.error ? item.error.message : "Classifying …";
}

function showCertainty(answer, coverage) {
  const badge = byId("certainty");
  const set = answer?.prediction_set;
  const [kind, text] = describeCertainty(answer, set);
  badge.hidden = !text;
  badge.className = `badge ${kind}`;
  badge.textContent = text;
  byId("set").hidden = !set;
  if (!set) return;
  const chips = set.map((label) => make("span", { className: "chip", textContent: label }));
  const note = answer.prediction_set_note;
  byId("set").replaceChildren(
    make("span", { className: "hint", textContent: `With ${percent(Number(coverage)).replace(".0", "")} coverage: ` }),
    ...(chips.length ? chips : ["no class"]),
    note ? make("span", { className: "hint", textContent: ` (${note})` }) : "",
  );
}

/** How sure the model is, as a style and a phrase; no phrase where the answer does not say. */
function describeCertainty(answer, set) {
  if (answer?.known === false) return ["unknown", "Unknown: unlike the images that the model was made from"];
  if (!set) return ["", ""];
  if (set.length === 1) return ["sure", "One class in the set"];
  if (set.length === 0) return ["unsure", "Not sure: no class is likely enough"];
  return ["unsure", `Not sure: ${set.length} classes in the set`];
}

function showBars(predictions) {
  byId("bars").replaceChildren(
    ...predictions.map(({ label, score }) => {
      const fill = make("span", { className: "fill" });
      fill.style.width = `${100 * score}%`;
      const track = make("span", { className: "track" }, fill);
      track.setAttribute("aria-hidden", "true");
      return make(
        "li",
        {},
        make("span", { className: "label", textContent: label, title: label }),
        track,
        make("span", { className: "score", textContent: percent(score) }),
      );
    }),
  );
}

function showTimes(times) {
  byId("times").hidden = times?.engine === undefined;
  if (byId("times").hidden) return;
  const server = times.decode + times.wait + times.engine;
  const all = { ...times, rest: times.total === undefined ? undefined : Math.max(times.total - server, 0) };
  const steps = STEPS.filter(([key]) => all[key] !== undefined);
  byId("times").querySelector(".times-bar").replaceChildren(
    ...steps.map(([key]) => {
      const segment = make("span", { className: key });
      segment.style.flexGrow = all[key];
      return segment;
    }),
  );
  byId("times").querySelector("dl").replaceChildren(
    ...steps.map(([key, name]) =>
      make("div", { className: key }, make("dt", { textContent: name }), make("dd", { textContent: milliseconds(all[key]) })),
    ),
  );
}
