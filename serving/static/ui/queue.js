// Images on their way to the server: a few at once, until all are answered or the work is stopped.

const PARALLEL = 5; // browsers open six connections to a server; one stays free for the figures

/**
 * Runs `work(item, signal)` for each item that is added, in order and a few at a time.
 *
 * `work` handles its own errors.
 */
export class Queue {
  #waiting = [];
  #running = 0;
  #control = new AbortController();
  #work;

  constructor(work) {
    this.#work = work;
  }

  get isIdle() {
    return this.#running === 0 && this.#waiting.length === 0;
  }

  add(items) {
    this.#waiting.push(...items);
    while (this.#running < PARALLEL && this.#waiting.length) this.#run();
  }

  /** Drops what waits, aborts what runs, and returns the dropped items. */
  stop() {
    this.#control.abort();
    this.#control = new AbortController();
    return this.#waiting.splice(0);
  }

  async #run() {
    this.#running += 1;
    while (this.#waiting.length) await this.#work(this.#waiting.shift(), this.#control.signal);
    this.#running -= 1;
  }
}
