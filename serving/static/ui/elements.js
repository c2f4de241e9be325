// Small helpers that every part of the page uses.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element with properties, and children that are elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A share as a percentage with one decimal, `96.3 %`. */
export const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Milliseconds as text, with a decimal below ten. */
export const milliseconds = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`);

/** A number with its thousands separated. */
export const count = (value) => value.toLocaleString("en");

/** A number with its noun, in the singular or the plural. */
export const plural = (value, noun, several = `${noun}s`) => `${count(value)} ${value === 1 ? noun : several}`;

/** Fills a select with options, each [value, text], and keeps what was chosen where it is still there. */
export function fillSelect(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
  if (options.some(([value]) => String(value) === String(chosen))) select.value = chosen;
}
