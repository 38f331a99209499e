/** Links to a job's files, the export form, and the curl command. */

import * as api from "./api.js";
import { curlCommand } from "./curl.js";
import { isFinished } from "./job.js";
import { fieldRows, valuesOf } from "./settings.js";
import { size } from "./words.js";

/** The models, with the ending and the label of each file type. */
const MODELS = [
  {
    model: "textured",
    label: "Textured",
    types: [
      ["glb", "GLB", ""],
      ["zip", "OBJ", ", zipped with its textures"],
    ],
  },
  {
    model: "shape",
    label: "Untextured",
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
  "occlusion",
  "normal_map",
  "lods",
  "type",
  "up_axis",
  "size_mm",
  "size_m",
  "origin",
];

/** @typedef {import("./api.js").Job} Job */

export class Downloads {
  /** @param {HTMLElement} section */
  constructor(section) {
    this.section = section;
    /** @param {string} id */
    const part = (id) => /** @type {any} */ (section.querySelector(`#${id}`));
    /** @type {{files: HTMLElement, more: HTMLDetailsElement, form: HTMLFormElement,
     *   fields: HTMLElement, status: HTMLElement, command: HTMLElement,
     *   copyResult: HTMLElement}} */
    this.parts = {
      files: part("files"),
      more: part("export"),
      form: part("export-form"),
      fields: part("export-fields"),
      status: part("export-status"),
      command: part("command"),
      copyResult: part("copy-result"),
    };
    /** @type {Job | null} */
    this.job = null;
    this.name = "";
    this.shown = "";
    this.parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#export();
    });
    part("copy").addEventListener("click", () => this.#copy());
  }

  /** Fills the export form. @param {import("./settings.js").Options} options */
  setOptions(options) {
    this.parts.fields.replaceChildren(...fieldRows(options, EXPORT_FIELDS, "export"));
  }

  /**
   * @param {Job | null} job
   * @param {string} name file name of the picture.
   * @param {Record<string, unknown>} defaults the server's defaults, which the command omits.
   */
  show(job, name, defaults) {
    this.job = job;
    this.name = name.replace(/\.[^.]*$/, "") || "model";
    this.section.hidden = !(job?.shape_ready || job?.texture_ready);
    if (!job) return;
    const state = JSON.stringify([job.uid, job.files, job.can_export, name]);
    if (state === this.shown) return;
    if (!this.shown.includes(job.uid)) {
      this.parts.status.textContent = this.parts.copyResult.textContent = "";
    }
    this.shown = state;
    this.parts.files.replaceChildren(
      ...MODELS.filter(({ model }) =>
        model === "shape" ? job.shape_ready : job.texture_ready,
      ).map((each) => this.#row(job, each)),
    );
    this.parts.more.hidden = !(job.can_export && isFinished(job));
    const fields = Object.entries(job.parameters ?? {}).filter(
      ([field, value]) => JSON.stringify(value) !== JSON.stringify(defaults[field]),
    );
    this.parts.command.textContent = curlCommand(
      name,
      {
        ...Object.fromEntries(fields),
        seed: job.seed,
        texture: job.texture_ready || job.status === "texture_processing",
      },
      { url: api.address("generate"), hasKey: api.hasKey() },
    );
  }

  /**
   * @param {Job} job
   * @param {typeof MODELS[0]} row
   */
  #row(job, { model, label, types }) {
    const row = document.createElement("li");
    row.dataset.model = model;
    const title = row.appendChild(document.createElement("span"));
    title.textContent = label;
    for (const [ending, type, more] of types) {
      const link = row.appendChild(document.createElement("a"));
      const path = `jobs/${job.uid}/${model}.${ending}`;
      const file = `${this.name}${model === "shape" ? "-shape" : ""}.${ending}`;
      link.href = api.address(path);
      link.download = file;
      link.append(visuallyHidden(`${label} model as `), type, visuallyHidden(more));
      const stored = job.files?.[`${model}.${ending}`];
      if (stored) {
        const bytes = link.appendChild(document.createElement("span"));
        bytes.textContent = ` ${size(stored.bytes)}`;
      }
      link.addEventListener("click", (event) => {
        event.preventDefault(); // links send no key, and use the server's file name
        this.#save(api.file(path), file);
      });
    }
    return row;
  }

  async #export() {
    const { form, status } = this.parts;
    if (!this.job || !form.reportValidity()) return;
    const { job, name } = this;
    const values = valuesOf(form);
    const ending =
      { obj_zip: "zip", gltf_zip: "gltf.zip" }[values.type] ?? values.type ?? "glb";
    const button = /** @type {HTMLButtonElement} */ (form.querySelector("button"));
    button.disabled = true;
    status.textContent = "Exporting …";
    const parameters = { ...values, texture: job.texture_ready };
    const content = api.exportModel(job.uid, parameters);
    status.textContent = await this.#save(content, `${name}-export.${ending}`);
    button.disabled = false;
  }

  /**
   * Saves a file as a download; returns a message about the result.
   * @param {Promise<Blob>} pending
   * @param {string} name
   */
  async #save(pending, name) {
    try {
      const content = await pending;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(content);
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      return `${name}: ${size(content.size)}.`;
    } catch (error) {
      this.parts.status.textContent = /** @type {Error} */ (error).message;
      return /** @type {Error} */ (error).message;
    }
  }

  async #copy() {
    const { command, copyResult } = this.parts;
    const text = command.textContent ?? "";
    // Only pages from https or from localhost may use the clipboard.
    const isDone = await navigator.clipboard?.writeText(text).then(
      () => true,
      () => false,
    );
    if (!isDone) getSelection()?.selectAllChildren(command);
    copyResult.textContent = isDone
      ? "Copied."
      : "The command is selected: copy it with the keyboard.";
  }
}

/** Text for screen readers only. @param {string} text */
function visuallyHidden(text) {
  const span = document.createElement("span");
  span.className = "visually-hidden";
  span.textContent = text;
  return span;
}
