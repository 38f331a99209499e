/** Links to a job's files, the command that makes them, and exporting once more. */

import * as api from "./api.js";
import { curlCommand } from "./curl.js";
import { isFinished } from "./job.js";
import { fieldRows, valuesOf } from "./settings.js";
import { size } from "./words.js";

/** Each model's files: their ending, and what they are called. */
const MODELS = [
  {
    model: "textured",
    words: "Textured",
    types: [
      ["glb", "GLB", ""],
      ["zip", "OBJ", ", zipped with its textures"],
    ],
  },
  {
    model: "shape",
    words: "Untextured",
    types: [
      ["glb", "GLB", ""],
      ["obj", "OBJ", ""],
      ["stl", "STL", ""],
    ],
  },
];
const EXPORT_FIELDS = [
  "decimation_target",
  "texture_size",
  "texture_format",
  "alpha_mode",
  "compress",
  "type",
];

/** @typedef {import("./api.js").Job} Job */

export class Downloads {
  /** @param {HTMLElement} section */
  constructor(section) {
    this.section = section;
    /** @param {string} id */
    const part = (id) => /** @type {any} */ (section.querySelector(`#${id}`));
    /** @type {{files: HTMLElement, more: HTMLDetailsElement, form: HTMLFormElement,
     *   fields: HTMLElement, line: HTMLElement, command: HTMLElement, copied: HTMLElement}} */
    this.parts = {
      files: part("files"),
      more: part("export"),
      form: part("export-form"),
      fields: part("export-fields"),
      line: part("export-line"),
      command: part("command"),
      copied: part("copied"),
    };
    /** @type {Job | null} */
    this.job = null;
    this.name = "";
    this.says = "";
    this.parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#export();
    });
    part("copy").addEventListener("click", () => this.#copy());
  }

  /** @param {import("./settings.js").Options} options */
  offer(options) {
    this.parts.fields.replaceChildren(...fieldRows(options, EXPORT_FIELDS, "export"));
  }

  /**
   * @param {Job | null} job
   * @param {string} name of the picture's file.
   * @param {Record<string, unknown>} standard the server's defaults, which need not be said.
   */
  show(job, name, standard) {
    this.job = job;
    this.name = name.replace(/\.[^.]*$/, "") || "model";
    this.section.hidden = !job?.shape_ready;
    if (!job) return;
    const says = JSON.stringify([job.uid, job.files, job.can_export, name]);
    if (says === this.says) return;
    if (!this.says.includes(job.uid)) this.parts.line.textContent = this.parts.copied.textContent = "";
    this.says = says;
    this.parts.files.replaceChildren(
      ...MODELS.filter(({ model }) =>
        model === "shape" ? job.shape_ready : job.texture_ready,
      ).map((each) => this.#row(job, each)),
    );
    this.parts.more.hidden = !(job.can_export && isFinished(job));
    const fields = Object.entries(job.parameters ?? {}).filter(
      ([field, value]) => JSON.stringify(value) !== JSON.stringify(standard[field]),
    );
    this.parts.command.textContent = curlCommand(name, {
      ...Object.fromEntries(fields),
      seed: job.seed,
      texture: job.texture_ready || job.status === "texture_processing",
    });
  }

  /**
   * @param {Job} job
   * @param {typeof MODELS[0]} what
   */
  #row(job, { model, words, types }) {
    const row = document.createElement("li");
    row.dataset.model = model;
    const title = row.appendChild(document.createElement("span"));
    title.textContent = words;
    for (const [ending, type, more] of types) {
      const link = row.appendChild(document.createElement("a"));
      const path = `jobs/${job.uid}/${model}.${ending}`;
      const file = `${this.name}${model === "shape" ? "-shape" : ""}.${ending}`;
      link.href = api.address(path);
      link.download = file;
      link.append(unseen(`${words} model as `), type, unseen(more));
      const known = job.files?.[`${model}.${ending}`];
      if (known) {
        const bytes = link.appendChild(document.createElement("span"));
        bytes.textContent = ` ${size(known.bytes)}`;
      }
      link.addEventListener("click", (event) => {
        event.preventDefault(); // a link carries no key, and the server's name wins over ours
        this.#save(api.file(path), file);
      });
    }
    return row;
  }

  async #export() {
    const { form, line } = this.parts;
    if (!this.job || !form.reportValidity()) return;
    const { job, name } = this;
    const values = valuesOf(form);
    const ending = { obj_zip: "zip" }[values.type] ?? values.type ?? "glb";
    const button = /** @type {HTMLButtonElement} */ (form.querySelector("button"));
    button.disabled = true;
    line.textContent = "Exporting …";
    const how = { ...values, texture: job.texture_ready };
    line.textContent = await this.#save(api.exported(job.uid, how), `${name}-export.${ending}`);
    button.disabled = false;
  }

  /**
   * Gives a file to the person; a sentence on how that went.
   * @param {Promise<Blob>} coming
   * @param {string} name
   */
  async #save(coming, name) {
    try {
      const content = await coming;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(content);
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      return `${name}: ${size(content.size)}.`;
    } catch (error) {
      this.parts.line.textContent = /** @type {Error} */ (error).message;
      return /** @type {Error} */ (error).message;
    }
  }

  async #copy() {
    const { command, copied } = this.parts;
    const text = command.textContent ?? "";
    // Only a page that came over https, or from this very machine, has a clipboard.
    const isDone = await navigator.clipboard?.writeText(text).then(
      () => true,
      () => false,
    );
    if (!isDone) getSelection()?.selectAllChildren(command);
    copied.textContent = isDone ? "Copied." : "It is selected: copy it with your keyboard.";
  }
}

/** For who listens. @param {string} text */
function unseen(text) {
  const span = document.createElement("span");
  span.className = "unseen";
  span.textContent = text;
  return span;
}
