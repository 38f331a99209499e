/** Several pictures of one object: a slot for each side, and what was sent of which job. */

import * as api from "./api.js";

/** Sides of the object, in the order in which the server has them. */
const SIDES = { front: "Front", left: "Left", back: "Back", right: "Right" };
/** Names of the single pictures among the files of a job. */
const SINGLE = /^input-\d\.png$/;

/**
 * A picture and the field that it is sent as.
 * @typedef {[field: string, file: File]} Sent
 */

export class Sides {
  /** @type {Map<string, File>} */
  #files = new Map();
  /** Pictures that were sent from this tab, by uid of their job. @type {Map<string, Sent[]>} */
  #sent = new Map();

  /**
   * @param {HTMLElement} section has the slots and the button.
   * @param {(pictures: Sent[]) => void} onSend
   */
  constructor(section, onSend) {
    this.button = /** @type {HTMLButtonElement} */ (section.querySelector("[data-send]"));
    const slots = /** @type {HTMLElement} */ (section.querySelector("[data-slots]"));
    slots.append(...Object.entries(SIDES).map(([side, label]) => this.#slot(side, label)));
    this.button.addEventListener("click", () => onSend(this.#pictures()));
    this.#update();
  }

  /** @returns {Sent[]} */
  #pictures() {
    return Object.keys(SIDES).flatMap((side) => {
      const file = this.#files.get(side);
      return file ? [/** @type {Sent} */ ([`image_${side}`, file])] : [];
    });
  }

  #update() {
    const count = this.#files.size;
    this.button.disabled = !this.#files.has("front");
    this.button.textContent =
      count > 1 ? `Generate from ${count} pictures` : "Generate from these pictures";
  }

  /** @param {string} side @param {string} label */
  #slot(side, label) {
    const slot = document.createElement("div");
    slot.className = "slot";
    const [pick, remove] = ["button", "button"].map((name) => document.createElement(name));
    const input = document.createElement("input");
    const picture = document.createElement("img");
    Object.assign(pick, { type: "button", className: "slot-pick" });
    Object.assign(remove, { type: "button", className: "quiet", textContent: "Remove" });
    Object.assign(input, { type: "file", accept: "image/*", hidden: true });
    picture.alt = "";
    remove.setAttribute("aria-label", `Remove the picture of the ${side}`);
    /** @param {File | null} file */
    const show = (file) => {
      if (picture.src) URL.revokeObjectURL(picture.src);
      picture.hidden = remove.hidden = !file;
      if (file) picture.src = URL.createObjectURL(file);
      else picture.removeAttribute("src");
      pick.replaceChildren(picture, file ? `${label}: ${file.name}` : label);
      if (file) this.#files.set(side, file);
      else this.#files.delete(side);
      this.#update();
    };
    pick.addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      if (input.files?.length) show(input.files[0]);
      input.value = ""; // so that the same picture can be picked again
    });
    remove.addEventListener("click", () => {
      show(null);
      pick.focus();
    });
    show(null);
    slot.append(pick, remove, input);
    return slot;
  }

  /** Remembers what was sent. @param {string} id @param {Sent[]} pictures */
  remember(id, pictures) {
    this.#sent.set(id, pictures);
  }

  /**
   * The pictures of a job that has several: as this tab sent them, or else their names.
   * @param {string} id
   * @param {api.Job | null} job
   * @returns {[field: string, name: string][] | null}
   */
  namesOf(id, job) {
    const pictures = this.#sentOf(id, job);
    if (pictures) return pictures.map(([field, { name }]) => [field, name]);
    const files = Object.keys(job?.files ?? {}).filter((name) => SINGLE.test(name));
    return files.length ? files.map((name) => ["images", name]) : null;
  }

  /**
   * The pictures of a job that has several: the files that this tab sent, or the cut-outs.
   * @param {string} id
   * @param {api.Job | null} job
   * @returns {Promise<Sent[] | null>}
   */
  async picturesOf(id, job) {
    const pictures = this.#sentOf(id, job);
    if (pictures) return pictures;
    const files = Object.entries(job?.files ?? {}).filter(([name]) => SINGLE.test(name));
    if (!files.length) return null;
    const contents = await Promise.all(files.map(([, { url }]) => api.file(url)));
    return contents.map((content, at) => [
      "images",
      new File([content], files[at][0], { type: "image/png" }),
    ]);
  }

  /** @param {string} id @param {api.Job | null} job */
  #sentOf(id, job) {
    return this.#sent.get(id) ?? this.#sent.get(job?.uid ?? "");
  }
}
