// Requests to this server: the token, retries, and errors as sentences.

const MAX_TRIES = 8;
const TOKEN = "token";

/** An answer that is no success, or none at all; its message is a sentence for people. */
export class ServerError extends Error {
  constructor(message, code = "", status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

let authorization = null; // while the form is open: resolves when a token has been entered

/** Sets what asks for a token: a function that gets whether one was refused, and calls the function it gets with a new one. */
let openForm = () => {};
export function onTokenNeeded(open) {
  openForm = open;
}

function enterToken(refused) {
  authorization ??= new Promise((resolve) => {
    openForm(refused, (token) => {
      sessionStorage.setItem(TOKEN, token); // kept until the tab is closed, and read by this server's pages alone
      authorization = null;
      resolve();
    });
  });
  return authorization;
}

/**
 * The response to a request, once it is a success.
 *
 * 429 and 503 are tried again after what Retry-After says; 401 once a token has been entered.
 */
export async function ask(path, { signal, onWait = () => {}, ...options } = {}) {
  for (let tries = 1; ; ) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = token ? { ...options.headers, Authorization: `Bearer ${token}` } : options.headers;
    const response = await send(path, { ...options, headers, signal });
    if (response.ok) return response;
    if (response.status === 401) {
      if (token === sessionStorage.getItem(TOKEN)) await enterToken(Boolean(token)); // else another request has asked
      continue;
    }
    if ((response.status === 429 || response.status === 503) && tries < MAX_TRIES) {
      const seconds = Number(response.headers.get("Retry-After")) || 1;
      onWait(seconds);
      await sleep(1000 * seconds * (1 + Math.random() / 2), signal); // so that not all come back at once
      tries += 1;
      continue;
    }
    throw await explain(response);
  }
}

async function send(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. Is it running, and is this device online?", "no_answer");
  }
}

async function explain(response) {
  try {
    const { error } = await response.json();
    return new ServerError(sentence(error.message), error.code, response.status);
  } catch {
    return new ServerError(`The server answered with status ${response.status} and no explanation.`, "", response.status);
  }
}

/** A message of the server with a capital and a full stop. */
function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** The answer to one image: its JSON, which model gave it, and where its time went, in milliseconds. */
export async function classify(file, query, { signal, onWait }) {
  const body = new FormData();
  body.append("image", file);
  const tries = { start: performance.now() };
  const response = await ask(`classify?${query}`, {
    method: "POST",
    body,
    signal,
    onWait: (seconds) => {
      tries.waited = true;
      onWait(seconds);
    },
  });
  const answer = await response.json();
  const times = parseTiming(response.headers.get("Server-Timing"));
  if (!tries.waited) times.total = performance.now() - tries.start;
  return { answer, digest: response.headers.get("X-Model-Digest"), times };
}

function parseTiming(header) {
  const found = [...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
  return Object.fromEntries(found);
}
