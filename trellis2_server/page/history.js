/** The list of jobs of this server, with their pictures. */

import * as api from "./api.js";
import { hasFailedAtCutout, isCancelled, isFinished } from "./job.js";
import { clock } from "./words.js";

const POLL_WHILE_BUSY_MS = 2_000;
const POLL_MS = 15_000;
/** Twice the edge of a picture in the list. */
const PICTURE_PX = 208;

export class History {
  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} empty shown while there are no jobs.
   * @param {HTMLButtonElement} more shows earlier jobs.
   * @param {(uid: string) => void} onSelect
   */
  constructor(list, empty, more, onSelect) {
    this.list = list;
    this.empty = empty;
    this.more = more;
    this.onSelect = onSelect;
    /** @type {Map<string, {item: HTMLLIElement, job: api.Job}>} */
    this.entries = new Map();
    this.selected = "";
    /** `before` of the next page; null: there are no earlier jobs. @type {string | null} */
    this.next = null;
    this.hasEarlier = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.queue = Promise.resolve();
    this.visibility = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        this.visibility.unobserve(target);
        // One after the other: the server draws them, and limits what a client may ask at once.
        this.queue = this.queue.then(() => this.#fetchPicture(/** @type {HTMLElement} */ (target)));
      }
    });
    more.addEventListener("click", () => this.#showEarlier());
    document.addEventListener("visibilitychange", () => this.refresh());
  }

  /** Fetches the latest jobs, now and at intervals. */
  async refresh() {
    clearTimeout(this.timer);
    if (document.hidden) return;
    const page = await api.jobs().catch(() => null);
    if (page) {
      const gone = new Set(this.entries.keys());
      page.jobs.filter(isListed).forEach((job, at) => (this.#put(job, at), gone.delete(job.uid)));
      page.jobs.filter((job) => !isListed(job)).forEach((job) => this.#remove(job.uid));
      if (page.next === null) for (const uid of gone) this.#remove(uid);
      if (!this.hasEarlier) this.#setNext(page.next);
    }
    this.empty.hidden = this.entries.size > 0 || this.next !== null;
    const isBusy = [...this.entries.values()].some(({ job }) => !isFinished(job));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), isBusy ? POLL_WHILE_BUSY_MS : POLL_MS);
  }

  /** Shows a newer state of a job. @param {api.Job} job */
  update(job) {
    if (!isListed(job)) this.#remove(job.uid);
    else if (this.entries.has(job.uid)) this.#put(job);
  }

  /** Marks the selected job. @param {string} uid */
  select(uid) {
    this.selected = uid;
    for (const [each, { item }] of this.entries) {
      const button = /** @type {HTMLElement} */ (item.firstElementChild);
      if (each === uid) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  async #showEarlier() {
    const page = await api.jobs(this.next).catch(() => null);
    if (!page) return;
    for (const job of page.jobs.filter(isListed)) this.#put(job, this.entries.size);
    this.hasEarlier = true;
    this.#setNext(page.next);
  }

  /** @param {string | null} next */
  #setNext(next) {
    this.next = next;
    this.more.hidden = next === null;
  }

  /**
   * @param {api.Job} job
   * @param {number} [at] its index in the list, if known.
   */
  #put(job, at) {
    const entry = this.entries.get(job.uid) ?? { item: this.#newItem(job.uid), job };
    entry.job = job;
    this.entries.set(job.uid, entry);
    const { item } = entry;
    if (at !== undefined && this.list.children[at] !== item) {
      this.list.insertBefore(item, this.list.children[at] ?? null);
    }
    const [state, words] = stateOf(job);
    item.dataset.state = state;
    const [when, what] = item.querySelectorAll("span");
    when.textContent = job.created_at ? clock(job.created_at) : "";
    what.textContent = words;
    const button = /** @type {HTMLElement} */ (item.firstElementChild);
    if (state === "failed") button.title = job.error ?? "";
    else button.removeAttribute("title");
    const url = pictureOf(job);
    if (url && item.dataset.url !== url) {
      item.dataset.url = url;
      item.dataset.cutout = job.files?.["input.png"]?.url ?? "";
      this.visibility.unobserve(item); // an element is only noticed when it is new
      this.visibility.observe(item);
    }
  }

  /** @param {string} uid */
  #newItem(uid) {
    const item = document.createElement("li");
    const button = item.appendChild(document.createElement("button"));
    button.type = "button";
    const image = button.appendChild(document.createElement("img"));
    image.alt = "";
    const when = button.appendChild(document.createElement("span"));
    when.className = "when";
    const what = button.appendChild(document.createElement("span"));
    what.className = "what";
    button.addEventListener("click", () => this.onSelect(uid));
    if (uid === this.selected) button.setAttribute("aria-current", "true");
    return item;
  }

  /** @param {HTMLElement} item */
  async #fetchPicture(item) {
    const { url = "", cutout = "" } = item.dataset;
    if (!item.isConnected || item.dataset.shown === url) return;
    const content = await api
      .file(url)
      .catch((error) => (error.isTemporary || !cutout ? null : api.file(cutout)))
      .catch(() => null);
    const image = /** @type {HTMLImageElement} */ (item.querySelector("img"));
    if (content && item.isConnected) {
      if (image.src) URL.revokeObjectURL(image.src);
      image.src = URL.createObjectURL(content);
      item.dataset.shown = url;
    } else if (!content) {
      delete item.dataset.url; // the next refresh tries again
    }
  }

  /** @param {string} uid */
  #remove(uid) {
    const entry = this.entries.get(uid);
    if (!entry) return;
    const { item } = entry;
    const url = item.querySelector("img")?.src;
    if (url) URL.revokeObjectURL(url);
    this.visibility.unobserve(item);
    item.remove();
    this.entries.delete(uid);
  }
}

/**
 * Whether the list shows a job: one that ended before its cut-out has nothing to show.
 * @param {api.Job} job
 */
function isListed(job) {
  return !hasFailedAtCutout(job);
}

/** URL of the picture of a job: of its result, or before that its cut-out. @param {api.Job} job */
function pictureOf(job) {
  if (!job.thumbnail_url || !isFinished(job)) return job.files?.["input.png"]?.url ?? "";
  // The same URL shows another model when a texture is made later.
  return `${job.thumbnail_url}?size=${PICTURE_PX}#${job.texture_ready}`;
}

/** The state of a job for the style sheet, and its label. @param {api.Job} job */
function stateOf(job) {
  if (isCancelled(job)) return ["cancelled", "cancelled"];
  if (job.status === "error") return ["failed", `failed: ${job.error ?? "unknown"}`];
  if (!isFinished(job)) {
    return job.queue_position && !job.stage ? ["waiting", "waiting"] : ["running", "running"];
  }
  return job.texture_ready ? ["done", "textured"] : ["done", "untextured"];
}
