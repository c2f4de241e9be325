// Many images: a table that can be sorted, filtered and taken away.

import { best, isUnsure, serverMs } from "./answers.js";
import { byId, count, fillSelect, make, milliseconds, percent, plural } from "./elements.js";

const PAGE = 200;

const COLUMNS = [
  { key: "name", title: "Image", value: (item) => item.name },
  { key: "label", title: "Label", value: (item) => best(item)?.label },
  { key: "score", title: "Score", value: (item) => best(item)?.score },
  { key: "set", title: "Possible", value: (item) => item.answer?.prediction_set?.length },
  { key: "ms", title: "Server", value: serverMs },
];

const STATES = {
  low: ["Score below 50 %", (item) => best(item)?.score < 0.5],
  unsure: ["Not sure", isUnsure],
  failed: ["Failed", (item) => Boolean(item.error)],
};

/** The table; `open` is called with the item whose row is chosen, `changed` when the table must be drawn again. */
export class Table {
  #sortKey = "";
  #descending = false;
  #limit = PAGE;
  #rows = new WeakMap(); // the row of each item, and what it depends on

  constructor(open, changed) {
    this.open = open;
    for (const id of ["search", "label-filter", "state-filter"]) {
      byId(id).addEventListener("input", () => {
        this.#limit = PAGE;
        changed();
      });
    }
    byId("more").addEventListener("click", () => {
      this.#limit += PAGE;
      changed();
    });
    byId("columns").append(...COLUMNS.map((column) => this.#makeHeading(column, changed)));
  }

  #makeHeading({ key, title }, changed) {
    const button = make("button", { type: "button", textContent: title });
    button.addEventListener("click", () => {
      this.#descending = this.#sortKey === key ? !this.#descending : key === "score";
      this.#sortKey = key;
      changed();
    });
    const heading = make("th", { scope: "col", className: key }, button);
    heading.dataset.key = key;
    return heading;
  }

  /** The items that the filters let through, in the order that is chosen. */
  select(items) {
    const text = byId("search").value.trim().toLowerCase();
    const label = byId("label-filter").value;
    const state = STATES[byId("state-filter").value]?.[1] ?? (() => true);
    const matches = (item) =>
      (!text || item.name.toLowerCase().includes(text) || best(item)?.label.toLowerCase().includes(text)) &&
      (!label || best(item)?.label === label) &&
      state(item);
    const found = items.filter(matches);
    const column = COLUMNS.find(({ key }) => key === this.#sortKey);
    return column ? found.sort((a, b) => compare(column.value(a), column.value(b), this.#descending)) : found;
  }

  draw(items, selected) {
    byId("list").hidden = items.length < 2;
    if (byId("list").hidden) return;
    this.#fillFilters(items);
    const found = this.select(items);
    byId("list-title").textContent =
      found.length === items.length ? plural(items.length, "image") : `${count(found.length)} of ${plural(items.length, "image")}`;
    const hasSets = items.some((item) => item.answer?.prediction_set);
    for (const heading of byId("columns").children) this.#markHeading(heading, hasSets);
    this.#drawRows(found.slice(0, this.#limit), selected, hasSets);
    byId("more").hidden = found.length <= this.#limit;
    byId("more").textContent = `Show ${Math.min(PAGE, found.length - this.#limit)} more`;
  }

  /** Rows that have not changed stay as they are, and the one with the focus keeps it. */
  #drawRows(items, selected, hasSets) {
    const focused = document.activeElement.closest("#rows tr");
    const rows = items.map((item) => {
      const key = [item.state, item === selected, hasSets, item.answer?.prediction_set, Boolean(item.thumbnail)].join();
      const kept = this.#rows.get(item);
      if (kept?.key === key) return kept.row;
      const row = this.#makeRow(item, item === selected, hasSets);
      this.#rows.set(item, { key, row });
      return row;
    });
    byId("rows").replaceChildren(...rows);
    if (focused && rows.includes(focused)) focused.querySelector("button").focus({ preventScroll: true });
  }

  #fillFilters(items) {
    const tally = new Map();
    for (const item of items) if (best(item)) tally.set(best(item).label, (tally.get(best(item).label) ?? 0) + 1);
    const labels = [...tally].sort(([a], [b]) => compare(a, b, false));
    fillSelect(byId("label-filter"), [["", "all"], ...labels.map(([label, number]) => [label, `${label} (${number})`])]);
    const states = Object.entries(STATES).map(([key, [title, test]]) => [key, title, items.filter(test).length]);
    const chosen = byId("state-filter").value;
    const offered = states.filter(([key, , number]) => number || key === chosen);
    fillSelect(byId("state-filter"), [["", "all"], ...offered.map(([key, title, number]) => [key, `${title} (${number})`])]);
  }

  #markHeading(heading, hasSets) {
    const { key } = heading.dataset;
    heading.hidden = key === "set" && !hasSets;
    if (key === this.#sortKey) heading.setAttribute("aria-sort", this.#descending ? "descending" : "ascending");
    else heading.removeAttribute("aria-sort");
  }

  #makeRow(item, isSelected, hasSets) {
    const open = make("button", { type: "button", className: "open", title: item.name }, makeThumb(item), make("span", { textContent: item.name }));
    open.addEventListener("click", () => this.open(item));
    const row = make("tr", { className: isSelected ? "selected" : "" }, make("th", { scope: "row", className: "name" }, open));
    if (isSelected) open.setAttribute("aria-current", "true");
    if (!item.answer) {
      const text = item.error ? item.error.message : item.state === "waiting" ? "waiting" : "…";
      row.append(make("td", { colSpan: hasSets ? 4 : 3, className: item.error ? "error" : "hint", textContent: text }));
      return row;
    }
    const { label, score } = best(item);
    const mark = isUnsure(item) ? make("span", { className: "badge unsure small", textContent: item.answer.known === false ? "unknown" : "not sure" }) : null;
    const ms = serverMs(item);
    row.append(make("td", { className: "label" }, label, " ", mark), make("td", { className: "score", textContent: percent(score) }));
    if (hasSets) row.append(make("td", { className: "set", textContent: item.answer.prediction_set?.join(", ") ?? "" }));
    row.append(make("td", { className: "ms", textContent: ms === undefined ? "" : milliseconds(ms) }));
    return row;
  }
}

function makeThumb(item) {
  if (item.thumbnail) return make("img", { src: item.thumbnail.url, alt: "", className: "thumb" });
  const extension = item.thumbnail === null ? item.name.split(".").pop().slice(0, 4) : "";
  return make("span", { className: "thumb blank", textContent: extension });
}

/** Order of two values; those that are missing come last either way. */
function compare(a, b, descending) {
  if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
  const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
  return descending ? -order : order;
}
