// The page: brings images, server and views together.

import { download, toCSV, toJSON } from "./answers.js";
import { byId, fillSelect, percent, plural } from "./elements.js";
import { makeThumbnail, watchFiles } from "./files.js";
import { watchMetrics } from "./live.js";
import { showModel } from "./model.js";
import { Queue } from "./queue.js";
import { showResult } from "./result.js";
import { ask, classify, onTokenNeeded } from "./server.js";
import { Table } from "./table.js";
import { offerWhy } from "./why.js";

const MOST_CLASSES = 100; // that are asked for, so that more can be shown without asking again
const REDRAW_MS = 200;

const items = [];
let selected = null;
let info = null;
let redraw = 0;

const table = new Table((item) => select(item, true), draw);
const queue = new Queue(classifyItem);

// Images

function take(pairs) {
  byId("message").textContent = pairs.length ? "" : "There is no image among these files.";
  if (!pairs.length) return;
  const added = pairs.map(([name, file]) => ({ name, file, state: "waiting" }));
  items.push(...added);
  selected = added[0];
  queue.add(added);
  draw();
}

async function classifyItem(item, signal) {
  item.state = "running";
  item.error = undefined;
  const query = makeQuery();
  try {
    const [result] = await Promise.all([classify(item.file, query, { signal, onWait: showWait }), addThumbnail(item)]);
    if (`${query}` !== `${makeQuery()}`) return classifyItem(item, signal); // another option has been chosen meanwhile
    Object.assign(item, result);
  } catch (error) {
    item.answer = item.times = undefined;
    item.error = error.name === "AbortError" ? { code: "stopped", message: "Stopped before it was classified." } : error;
  }
  item.state = "done";
  drawSoon();
}

async function addThumbnail(item) {
  if (item.thumbnail === undefined) item.thumbnail = await makeThumbnail(item.file);
  drawSoon();
}

function makeQuery() {
  const query = new URLSearchParams({ top_k: Math.min(info?.classes.length ?? 5, MOST_CLASSES) });
  for (const name of ["coverage", "reject"]) if (byId(name).value) query.set(name, byId(name).value);
  return query;
}

function classifyAgain(chosen) {
  for (const item of chosen) Object.assign(item, { state: "waiting", answer: undefined, times: undefined, error: undefined });
  queue.add(chosen);
  draw();
}

function clear() {
  queue.stop();
  for (const { thumbnail } of items) if (thumbnail) URL.revokeObjectURL(thumbnail.url);
  items.length = 0;
  selected = null;
  draw();
}

// Views

function draw() {
  clearTimeout(redraw);
  redraw = 0;
  document.body.classList.toggle("has-images", items.length > 0);
  showResult(selected, Number(byId("top-k").value), byId("coverage").value);
  const order = table.select(items);
  const position = order.indexOf(selected);
  byId("steps").hidden = items.length < 2;
  byId("position").textContent = position < 0 ? "" : `${position + 1} of ${order.length}`;
  byId("previous").disabled = position <= 0;
  byId("next").disabled = position < 0 || position >= order.length - 1;
  byId("retry").hidden = !queue.isIdle || !items.some((item) => item.error);
  table.draw(items, selected);
  drawProgress();
}

function drawSoon() {
  redraw ||= setTimeout(draw, items.length < 20 ? 0 : REDRAW_MS);
}

function drawProgress() {
  const done = items.filter((item) => item.state === "done").length;
  const isBusy = done < items.length;
  byId("progress").hidden = !isBusy || items.length < 2;
  byId("progress-bar").value = items.length ? done / items.length : 0;
  byId("progress-text").textContent = `${done} of ${plural(items.length, "image")} classified`;
  if (isBusy || !items.length) return;
  const failed = items.filter((item) => item.error).length;
  const [first] = items;
  byId("status").textContent =
    items.length > 1
      ? `${plural(items.length, "image")} classified${failed ? `, ${failed} failed` : ""}.`
      : first.error?.message ?? `${first.answer.predictions[0].label}, ${percent(first.answer.predictions[0].score)}`;
}

function showWait(seconds) {
  byId("progress-text").textContent = `The server is busy; trying again in ${plural(seconds, "second")} …`;
}

function select(item, moveFocus = false) {
  selected = item;
  draw();
  if (!moveFocus) return;
  byId("result-title").focus({ preventScroll: true });
  byId("result").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

function step(change) {
  const order = table.select(items);
  const item = order[order.indexOf(selected) + change];
  if (item) select(item);
}

// The model, its options and the token

async function start() {
  try {
    info = await (await ask("info")).json();
  } catch (error) {
    byId("model").textContent = error.message;
    byId("message").textContent = error.message;
    return;
  }
  byId("message").textContent = "";
  showModel(info);
  offerOptions(info);
  offerWhy(info);
  draw();
  showCommands();
  watchMetrics();
}

function offerOptions({ classes, reference }) {
  const counts = [1, 3, 5, 10, 20].filter((number) => number < classes.length);
  const all = Math.min(classes.length, MOST_CLASSES);
  fillSelect(byId("top-k"), [...counts.map((number) => [number, number]), [all, classes.length > all ? all : "all"]], Math.min(5, all));
  const coverages = [0.8, 0.9, 0.95, 0.99].filter((coverage) => coverage <= (reference?.largest_coverage ?? 0));
  byId("coverage-label").hidden = !coverages.length;
  const offered = coverages.map((coverage) => [coverage, `${Math.round(100 * coverage)} % coverage`]);
  fillSelect(byId("coverage"), [["", "off"], ...offered], Math.min(coverages.at(-1) ?? 0, 0.95) || "");
  const rejects = [0.001, 0.01, 0.05].filter((reject) => reject >= (reference?.smallest_reject ?? Infinity));
  byId("reject-label").hidden = !rejects.length;
  const shares = rejects.map((reject) => [reject, `reject ${100 * reject} % of known images`]);
  fillSelect(byId("reject"), [["", "off"], ...shares], rejects.includes(0.01) ? 0.01 : (rejects[0] ?? ""));
}

function showCommands() {
  const base = new URL(".", location).href.replace(/\/$/, "");
  const token = sessionStorage.getItem("token") ? ' -H "Authorization: Bearer $DHVT_TOKEN"' : "";
  byId("terminal").textContent = [
    `curl${token} -F image=@cat.jpg '${base}/classify?top_k=3'`,
    `curl${token} -F image=@a.jpg -F image=@b.jpg ${base}/classify/batch`,
    `curl${token} ${base}/info`,
  ].join("\n");
}

onTokenNeeded((refused, use) => {
  byId("authorize").hidden = false;
  byId("token-error").hidden = !refused;
  byId("token").focus();
  byId("authorize").onsubmit = (event) => {
    event.preventDefault();
    const token = byId("token").value.trim();
    byId("token").value = "";
    byId("authorize").hidden = true;
    use(token);
    showCommands();
  };
});

const isTyping = ({ target }) => target.closest("input, select, textarea, dialog, .scroll") !== null;
addEventListener("keydown", (event) => {
  if (isTyping(event) || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("stop").addEventListener("click", () => {
  for (const item of queue.stop()) Object.assign(item, { state: "done", error: { code: "stopped", message: "Stopped before it was classified." } });
  draw();
});
byId("clear").addEventListener("click", clear);
byId("retry").addEventListener("click", () => classifyAgain(items.filter((item) => item.error)));
byId("top-k").addEventListener("input", draw);
for (const id of ["coverage", "reject"]) byId(id).addEventListener("input", () => classifyAgain(items.filter((item) => item.state === "done")));
byId("csv").addEventListener("click", () => download(toCSV(table.select(items), Number(byId("top-k").value)), "classes.csv", "text/csv"));
byId("json").addEventListener("click", () => download(toJSON(table.select(items), Number(byId("top-k").value)), "classes.json", "application/json"));
watchFiles(take);
start();
