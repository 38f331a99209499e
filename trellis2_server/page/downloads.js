/** Links to a job's files, the export form, and the curl command. */

import * as api from "./api.js";
import { curlCommand, stemOf } from "./curl.js";
import { arProgram, openQuickLook, sceneViewerUrl } from "./ar.js";
import { isFinished } from "./job.js";
import { fieldRows, LABELS, valuesOf } from "./settings.js";
import { size } from "./words.js";

/** The models, with the ending and the label of each file type. */
const MODELS = [
  {
    model: "textured",
    label: "Textured",
    types: [
      ["glb", "GLB", ""],
      ["usdz", "USDZ", ""],
      ["3mf", "3MF", ""],
      ["gltf.zip", "glTF", ", zipped with its textures"],
      ["zip", "OBJ", ", zipped with its textures"],
    ],
  },
  {
    model: "shape",
    label: "Untextured",
    types: [
      ["glb", "GLB", ""],
      ["stl", "STL", ""],
      ["3mf", "3MF", ""],
      ["obj", "OBJ", ""],
    ],
  },
];
/** Pictures of the model: URL, name of the type and ending. */
const PICTURES = /** @type {const} */ ([
  ["thumbnail_url", "?size=1024", "PNG", "png"],
  ["turntable_url", "?size=512", "WebP, turning", "webp"],
]);
const EXPORT_FIELDS = [
  "decimation_target",
  "solid",
  "min_wall_mm",
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

/** The fields of a file that is not exported again. */
const PLACEMENT = ["up_axis", "size_mm", "size_m", "origin"];

/** @typedef {import("./api.js").Job} Job */

export class Downloads {
  /** @param {HTMLElement} section */
  constructor(section) {
    this.section = section;
    /** @param {string} id */
    const part = (id) => /** @type {any} */ (section.querySelector(`#${id}`));
    /** @type {{files: HTMLElement, more: HTMLDetailsElement, form: HTMLFormElement,
     *   fields: HTMLElement, status: HTMLElement, command: HTMLElement,
     *   copyResult: HTMLElement, ar: HTMLElement, purposes: HTMLElement,
     *   purpose: HTMLElement}} */
    this.parts = {
      files: part("files"),
      more: part("export"),
      form: part("export-form"),
      fields: part("export-fields"),
      status: part("export-status"),
      command: part("command"),
      copyResult: part("copy-result"),
      ar: part("ar"),
      purposes: part("purposes"),
      purpose: part("purpose"),
    };
    /** @type {import("./settings.js").Options["purposes"]} */
    this.purposes = {};
    /** @type {Job | null} */
    this.job = null;
    this.name = "";
    this.shown = "";
    this.parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#export();
    });
    this.parts.form.addEventListener("input", () => this.#select(""));
    part("copy").addEventListener("click", () => this.#copy());
    this.parts.ar.querySelector("button")?.addEventListener("click", () => this.#openAr());
  }

  /** Fills the export form. @param {import("./settings.js").Options} options */
  setOptions(options) {
    this.parts.fields.replaceChildren(...fieldRows(options, EXPORT_FIELDS, "export"));
    this.purposes = options.purposes;
    const buttons = Object.entries(options.purposes).map(([name, { label }]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = label;
      button.dataset.purpose = name;
      button.addEventListener("click", () => this.#fill(name));
      return button;
    });
    this.parts.purposes.querySelector("div")?.replaceChildren(...buttons);
    this.#select("");
  }

  /** Selects a purpose, whose fields are in the export form; none if it is empty. @param {string} name */
  #select(name) {
    for (const button of this.parts.purposes.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.purpose === name));
    }
    const { purpose } = this.parts;
    purpose.hidden = !name || this.parts.purposes.hidden;
    if (!name) return;
    const [text, button] = purpose.children;
    text.textContent = Object.entries(valuesOf(this.parts.form))
      .map(([field, value]) => `${LABELS[field]}: ${value}`)
      .join(", ");
    button.textContent = `Export for ${this.purposes[name].label}`;
  }

  /** Fills the export form with the fields of a purpose. @param {string} name */
  #fill(name) {
    const { form } = this.parts;
    form.reset();
    for (const [field, value] of Object.entries(this.purposes[name].fields)) {
      const input = form.elements.namedItem(field);
      if (input instanceof HTMLSelectElement) {
        input.value = String(value);
        if (input.selectedIndex < 0) input.value = ""; // above this server's limit: its default
      } else if (input instanceof HTMLInputElement) {
        const limit = input.max ? Number(input.max) : Infinity;
        input.value = String(typeof value === "number" ? Math.min(value, limit) : value);
      }
    }
    this.#select(name);
  }

  /**
   * @param {Job | null} job
   * @param {string} name file name of the picture.
   * @param {Record<string, unknown>} defaults the server's defaults, which the command omits.
   * @param {[field: string, name: string][]} [files] of the request: pictures, and a mesh.
   * @param {string} [text] in place of pictures.
   */
  show(job, name, defaults, files = [], text) {
    this.job = job;
    this.name = stemOf(name);
    this.section.hidden = !(job?.shape_ready || job?.texture_ready);
    if (!job) return;
    const state = JSON.stringify([job.uid, job.files, job.can_export, files, text]);
    if (state === this.shown) return;
    if (!this.shown.includes(job.uid)) {
      this.parts.status.textContent = this.parts.copyResult.textContent = "";
    }
    this.shown = state;
    this.parts.files.replaceChildren(
      ...MODELS.filter(({ model }) =>
        model === "shape" ? job.shape_ready : job.texture_ready,
      ).map((each) => this.#row(job, each)),
      ...(isFinished(job) && job.thumbnail_url ? [this.#pictures(job)] : []),
    );
    this.#showAr(job);
    this.parts.more.hidden = !(job.can_export && isFinished(job));
    this.parts.purposes.hidden = this.parts.more.hidden;
    if (this.parts.purposes.hidden) this.parts.purpose.hidden = true;
    const fields = Object.entries(job.parameters ?? {}).filter(
      ([field, value]) => JSON.stringify(value) !== JSON.stringify(defaults[field]),
    );
    this.parts.command.textContent = curlCommand(
      files,
      {
        text,
        ...Object.fromEntries(fields),
        seed: job.seed,
        texture: job.texture_ready || job.status === "texture_processing",
      },
      { url: api.address("generate"), hasKey: api.hasKey(), name: this.name },
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
    const links = row.appendChild(document.createElement("div"));
    for (const [ending, type, more] of types) {
      if (ending !== "glb" && isCompressed(job)) continue; // it is not converted
      const path = `jobs/${job.uid}/${model}.${ending}`;
      const file = `${this.name}${model === "shape" ? "-shape" : ""}.${ending}`;
      const link = links.appendChild(this.#link(path, file));
      link.append(visuallyHidden(`${label} model as `), type, visuallyHidden(more));
      const stored = job.files?.[`${model}.${ending}`];
      if (stored) {
        const bytes = link.appendChild(document.createElement("span"));
        bytes.textContent = ` ${size(stored.bytes)}`;
      }
    }
    return row;
  }

  /** Links to the pictures of the model. @param {Job} job */
  #pictures(job) {
    const row = document.createElement("li");
    row.appendChild(document.createElement("span")).textContent = "Pictures";
    const links = row.appendChild(document.createElement("div"));
    for (const [url, query, type, ending] of PICTURES) {
      const link = links.appendChild(this.#link(`${job[url]}${query}`, `${this.name}.${ending}`));
      link.append(visuallyHidden("Picture as "), type);
    }
    return row;
  }

  /**
   * @param {string} path of the server.
   * @param {string} file name to save it under.
   */
  #link(path, file) {
    const link = document.createElement("a");
    link.href = api.address(path);
    link.download = file;
    link.addEventListener("click", (event) => {
      event.preventDefault(); // links send no key, and use the server's file name
      this.#save(api.file(path), file);
    });
    return link;
  }

  // ---- augmented reality -----------------------------------------------------------------

  /** @param {Job} job */
  #showAr(job) {
    const { ar } = this.parts;
    const program = arProgram();
    const [button, note] = /** @type {NodeListOf<HTMLElement>} */ (
      ar.querySelectorAll(":scope > div > *")
    );
    ar.hidden = !program || isCompressed(job);
    // Scene Viewer fetches the file itself, without a key, and from https only.
    button.hidden =
      program === "scene-viewer" && (api.hasKey() || !api.address("").startsWith("https:"));
    note.textContent = button.hidden ? "AR on Android needs https, and a server without keys." : "";
  }

  async #openAr() {
    if (!this.job) return;
    const model = this.job.texture_ready ? "textured" : "shape";
    const fields = Object.entries(this.purposes.ar?.fields ?? {});
    const query = new URLSearchParams(
      fields.filter(([name]) => PLACEMENT.includes(name)).map(([name, value]) => [name, `${value}`]),
    );
    const path = `jobs/${this.job.uid}/${model}`;
    if (arProgram() === "scene-viewer") {
      const url = api.address(`${path}.glb?${query}`);
      location.href = sceneViewerUrl(url, this.name, location.href);
      return;
    }
    try {
      const file = `${path}.usdz?${query}`;
      if (!api.hasKey()) return openQuickLook(api.address(file));
      const url = URL.createObjectURL(await api.file(file)); // links send no key
      openQuickLook(url);
      setTimeout(() => URL.revokeObjectURL(url), 600_000);
    } catch (error) {
      this.parts.status.textContent = /** @type {Error} */ (error).message;
    }
  }

  async #export() {
    const { form, purpose, status } = this.parts;
    if (!this.job || !form.reportValidity()) return;
    const { job, name } = this;
    const values = valuesOf(form);
    const ending =
      { obj_zip: "zip", gltf_zip: "gltf.zip" }[values.type] ?? values.type ?? "glb";
    const buttons = /** @type {HTMLButtonElement[]} */ (
      [...form.elements, ...purpose.children].filter((each) => each instanceof HTMLButtonElement)
    );
    for (const button of buttons) button.disabled = true;
    status.textContent = "Exporting …";
    const parameters = { ...values, texture: job.texture_ready };
    const exported = api.exportModel(job.uid, parameters);
    const content = exported.then((made) => made.content);
    const message = await this.#save(content, `${name}-export.${ending}`);
    const warnings = await exported.then((made) => made.warnings).catch(() => []);
    status.textContent = [message, ...warnings].join(" ");
    for (const button of buttons) button.disabled = false;
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

/** Whether the geometry of a job's files is compressed. @param {Job} job */
function isCompressed(job) {
  return (job.parameters?.compress ?? "none") !== "none";
}

/** Text for screen readers only. @param {string} text */
function visuallyHidden(text) {
  const span = document.createElement("span");
  span.className = "visually-hidden";
  span.textContent = text;
  return span;
}
